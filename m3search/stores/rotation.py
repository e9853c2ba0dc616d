"""A fixed rotation that spreads what a vector holds evenly over its dimensions.

Codecs of few bits give every dimension the same levels. Learned vectors have much in some
dimensions and next to nothing in others; rotated, each dimension has about as much as any other.
The rotation is signs drawn once and for all, then a Walsh-Hadamard transform, twice; where the
dimensions are no power of two, of the first and then of the last dimensions (Kac's walk with the
transform of Ailon and Chazelle 2009).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from m3search.records import FloatArray
from m3search.stores.compiling import compiled


def rotate(vectors: FloatArray) -> FloatArray:
    """The vectors (n, dim) rotated, float32; products of two of them stay what they are."""
    turned = vectors.astype(np.float32)
    for number, part in enumerate(_parts(vectors.shape[1])):
        turned *= _signs(vectors.shape[1], number)
        turned[:, part] = _transformed(turned[:, part])
    return turned


def rotate_back(vectors: FloatArray) -> FloatArray:
    """The vectors (n, dim) as they were before `rotate`, up to rounding."""
    turned = vectors.astype(np.float32)
    for number, part in reversed(list(enumerate(_parts(vectors.shape[1])))):
        turned[:, part] = _transformed(turned[:, part])
        turned *= _signs(vectors.shape[1], number)
    return turned


def _parts(dim: int) -> list[slice]:
    """The dimensions that each round transforms."""
    size = 1 << (dim.bit_length() - 1) if dim else 0
    ends = [slice(0, size), slice(dim - size, dim)]
    return ends if size == dim else ends * 2


def _transformed(vectors: FloatArray) -> FloatArray:
    """The Walsh-Hadamard transform of each row (n, a power of two); its own inverse."""
    done = np.array(vectors, order="C")
    add_and_subtract(done)
    return done / np.float32(np.sqrt(max(vectors.shape[1], 1)))


@compiled
def add_and_subtract(rows: FloatArray) -> None:
    """The transform without its factor, in the rows (n, a power of two) themselves."""
    size = rows.shape[1]
    for number in range(len(rows)):
        row = rows[number]
        half = 1
        while half < size:
            for start in range(0, size, 2 * half):
                for i in range(start, start + half):
                    first, second = row[i], row[i + half]
                    row[i], row[i + half] = first + second, first - second
            half *= 2


@lru_cache(maxsize=64)
def _signs(dim: int, number: int) -> FloatArray:
    """1 or -1 for each dimension (dim,), the same on every machine: the top bits of SplitMix64."""
    mixed = np.arange(1, dim + 1, dtype=np.uint64) + np.uint64(number * 0x1_0000_0000)
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    signs = np.where(mixed >> np.uint64(63), -1, 1).astype(np.float32)
    signs.flags.writeable = False  # shared by all callers
    return signs
