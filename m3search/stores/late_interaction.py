"""MaxSim of one query with documents as they are stored, a few vectors decoded at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from m3search.stores.compiling import compiled, compiled_sums

Array = npt.NDArray[Any]

VECTORS = 64
"""decoded at a time: 32 kB of float32 at 128 dimensions, which stays in a core's nearest cache"""
HALF_BIAS = np.float32(2.0**112)
"""what a float16's exponent lacks when its bits are put in the place of a float32's"""
SIGN, REST = np.uint32(0x8000), np.uint32(0x7FFF)
TO_SIGN, TO_REST = np.uint32(16), np.uint32(13)


@compiled_sums
def raise_best(best: Array, query: Array, vectors: Array) -> None:
    """Raises best (m,) to the highest product of each query vector (m, dim) with vectors (n, dim).

    Four vectors at a time, so that a query vector is read once for four.
    """
    dim = query.shape[1]
    fours = len(vectors) // 4 * 4
    for i in range(len(query)):
        highest = best[i]
        for j in range(0, fours, 4):
            a = b = c = d = np.float32(0)
            for x in range(dim):
                value = query[i, x]
                a += value * vectors[j, x]
                b += value * vectors[j + 1, x]
                c += value * vectors[j + 2, x]
                d += value * vectors[j + 3, x]
            highest = max(highest, a, b, c, d)
        for j in range(fours, len(vectors)):
            a = np.float32(0)
            for x in range(dim):
                a += query[i, x] * vectors[j, x]
            highest = max(highest, a)
        best[i] = highest


@compiled
def decode_halves(bits: Array, values: Array) -> None:
    """Writes float16, as uint16 (n,), to values (n,) float32, exactly.

    Values below the least normal float16, too: the product makes them normal.
    """
    raw = values.view(np.uint32)
    for i in range(len(bits)):
        half = np.uint32(bits[i])
        raw[i] = ((half & SIGN) << TO_SIGN) | ((half & REST) << TO_REST)
    for i in range(len(bits)):
        values[i] *= HALF_BIAS


@compiled
def decode_bytes(scale: float, levels: Array, values: Array) -> None:
    """Writes scale * level of one vector to values (dim,); levels (dim,) int8, as uint8."""
    for x in range(len(levels)):
        values[x] = np.float32(scale) * np.float32(np.int8(levels[x]))


@compiled
def decode_nibbles(scale: float, levels: Array, values: Array) -> None:
    """Writes scale * (level - 7.5) of one vector to values (dim,); levels (dim / 2,) uint8.

    The low four bits are the first half of the dimensions, the high four the second.
    """
    half = len(levels)
    low, high = values[:half], values[half:]
    for x in range(half):
        low[x] = np.float32(scale) * (np.float32(levels[x] & 15) - np.float32(7.5))
    for x in range(half):
        high[x] = np.float32(scale) * (np.float32(levels[x] >> 4) - np.float32(7.5))


@compiled
def decode_signs(scale: float, bits: Array, values: Array) -> None:
    """Writes scale or -scale for a bit of 1 or 0 to values (dim,); bits (dim / 8,) uint8.

    Bit b of byte i is dimension b * dim / 8 + i.
    """
    eighth = len(bits)
    for b in range(8):
        part = values[b * eighth : (b + 1) * eighth]
        for i in range(eighth):
            part[i] = np.float32(scale) * np.float32(2 * ((bits[i] >> b) & 1) - 1)


@compiled
def mean(values: Array) -> float:
    """The mean of values (n,), added in float64 from the first to the last."""
    total = 0.0
    for i in range(len(values)):
        total += values[i]
    return total / len(values)


@compiled
def maxsim_halves(query: Array, bits: Array) -> float:
    """`m3search.scoring.maxsim` of query (m, dim) float32 with float16 vectors (n * dim,).

    The bits of these come as uint16.
    """
    dim = query.shape[1]
    best = np.full(len(query), -np.inf, np.float32)
    values = np.empty(VECTORS * dim, np.float32)
    for start in range(0, len(bits), len(values)):
        part = bits[start : start + len(values)]
        decode_halves(part, values)
        raise_best(best, query, values[: len(part)].reshape(len(part) // dim, dim))
    return mean(best)


@compiled
def decode_scaled(bits: int, scales: Array, levels: Array, values: Array) -> None:
    """Writes vectors of `bits` bits a dimension, 8, 4 or 1, to values (n, dim) float32.

    scales (n,) float32; levels (n * bytes of a vector,) uint8.
    """
    size = len(levels) // max(len(scales), 1)
    for i in range(len(scales)):
        part = levels[i * size : (i + 1) * size]
        if bits == 8:
            decode_bytes(scales[i], part, values[i])
        elif bits == 4:
            decode_nibbles(scales[i], part, values[i])
        else:
            decode_signs(scales[i], part, values[i])


@compiled
def maxsim_scaled(query: Array, bits: int, scales: Array, levels: Array) -> float:
    """As `maxsim_halves`, with vectors as `decode_scaled` takes them."""
    dim = query.shape[1]
    size = len(levels) // max(len(scales), 1)
    best = np.full(len(query), -np.inf, np.float32)
    values = np.empty((VECTORS, dim), np.float32)
    for start in range(0, len(scales), VECTORS):
        part = scales[start : start + VECTORS]
        decode_scaled(bits, part, levels[start * size : (start + len(part)) * size], values)
        raise_best(best, query, values[: len(part)])
    return mean(best)
