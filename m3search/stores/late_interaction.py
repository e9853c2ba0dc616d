"""MaxSim of queries with documents as they are stored, a few vectors decoded at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from m3search.records import FloatArray, IntArray
from m3search.stores.compiling import compiled
from m3search.stores.tiles import LANES, TILE, half_at, raise_one, raise_two

Array = npt.NDArray[Any]

VECTORS = 64
"""decoded at a time: 32 kB of float32 at 128 dimensions, which stays in a core's nearest cache"""
HEADER = 8
"""bytes of a blob before its scales"""


class Arranged(NamedTuple):
    """Queries as `score_texts` takes them: their vectors side by side in groups of LANES."""

    lanes: FloatArray
    """(groups, dim, LANES), zeros where a group is not full"""
    starts: IntArray
    """(queries + 1,) query i has groups [starts[i], starts[i + 1])"""
    sizes: IntArray
    """(queries,) vectors of each"""

    @classmethod
    def of(cls, queries: Sequence[FloatArray], dim: int) -> Arranged:
        """Of queries (m_i, dim)."""
        sizes = np.array([len(query) for query in queries], dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(-(-sizes // LANES))]).astype(np.int64)
        padded = np.zeros((int(starts[-1]), LANES, dim), dtype=np.float32)
        for query, start in zip(queries, starts.tolist(), strict=False):
            padded[start:].reshape(-1, dim)[: len(query)] = query
        return cls(np.ascontiguousarray(padded.transpose(0, 2, 1)), starts, sizes)


class Stored(NamedTuple):
    """How the vectors of all texts are stored."""

    code: int
    """of the codec, in the header of a blob"""
    bits: int
    """of a dimension; below 16 a scale stands beside each vector"""
    dim: int
    size: int
    """bytes of a vector, without its scale"""
    width: int
    """dimensions of a vector as decoded: all bits of its bytes"""


@compiled
def decode_levels(bits: int, levels: Array, values: Array) -> None:
    """Writes vectors of `bits` bits a dimension, 16, 8, 4 or 1, without their scales, to values.

    levels: (n * size,) uint8. values: (planes, n, part) float32 for n vectors or more, whose
    dimension d is d % part of plane d // part: a byte holds one dimension of each plane, in 4 bits
    a level that stands for itself less 7.5, in one bit 1 for 1 and 0 for -1. float16 and int8 have
    one plane.
    """
    planes, count = len(values), len(levels)
    for number in range(planes):
        plane = values[number].reshape(-1)
        if bits == 16:
            for i in range(count // 2):
                plane[i] = half_at(levels, i)
        elif bits == 8:
            for i in range(count):
                plane[i] = np.float32(np.int8(levels[i]))
        elif bits == 4:
            for i in range(count):
                plane[i] = np.float32((levels[i] >> (4 * number)) & 15) - np.float32(7.5)
        else:
            for i in range(count):
                plane[i] = np.float32(2 * ((levels[i] >> number) & 1) - 1)


@compiled
def mean(values: Array) -> float:
    """The mean of values (n,), added in float64 from the first to the last."""
    total = 0.0
    for i in range(len(values)):
        total += values[i]
    return total / len(values)


@compiled
def raise_best(best: Array, lanes: Array, values: Array, scales: Array, count: int) -> None:
    """Raises best (groups, LANES) to the products of lanes (groups, dim, LANES) with vectors.

    These are the first `count`, a multiple of TILE, of values (planes, n, part) as `decode_levels`
    writes them, times scales (n,).
    """
    groups = len(lanes)
    for first in range(0, count, TILE):
        for group in range(0, groups - 1, 2):
            raise_two(best[group], lanes[group], values, first, scales[first:])
        if groups % 2:
            raise_one(best[groups - 1], lanes[groups - 1], values, first, scales[first:])


@compiled
def vectors_of(blob: Array, stored: Stored) -> int:
    """How many vectors a blob (bytes,) holds by its header; -1 where it contradicts itself.

    The header is the code of the codec, 0, the dimensions (two bytes) and the vectors (four), the
    lowest byte first.
    """
    if len(blob) < HEADER or blob[0] != stored.code:
        return -1
    dim = int(blob[2]) + (int(blob[3]) << 8)
    count = 0
    for place in range(4):
        count += int(blob[4 + place]) << (8 * place)
    scale = 0 if stored.bits == 16 else 4
    if dim != stored.dim or len(blob) != HEADER + count * (scale + stored.size):
        return -1
    return count


@compiled
def score_texts(
    content: Array, ends: Array, first: int, last: int, stored: Stored, queries: Arranged,
    scores: Array,
) -> int:  # fmt: skip
    """Writes MaxSim of queries with texts [first, last) to scores (queries, texts) float32.

    content: (bytes,) uint8, the blobs of all texts; text i has [ends[i], ends[i + 1]). Where a side
    has no vectors the score is 0. Returns the first text whose blob contradicts itself, else -1.

    Products are summed in float32, dimension by dimension: the last bits may differ from those of
    `m3search.scoring.maxsim` of the decoded vectors, and depend on nothing but the two texts.
    """
    lanes, starts, sizes = queries
    planes = max(1, 8 // stored.bits)
    values = np.empty((planes, VECTORS, stored.width // planes), np.float32)
    scales = np.ones(VECTORS, np.float32)
    best = np.empty((len(lanes), LANES), np.float32)
    for text in range(first, last):
        blob = content[ends[text] : ends[text + 1]]
        count = vectors_of(blob, stored)
        if count < 0:
            return text
        levels = HEADER if stored.bits == 16 else HEADER + 4 * count
        best[:] = -np.inf
        for start in range(0, count, VECTORS):
            some = min(VECTORS, count - start)
            if stored.bits < 16:
                place = HEADER + 4 * start
                scales.view(np.uint8)[: 4 * some] = blob[place : place + 4 * some]
            place = levels + start * stored.size
            part = blob[place : place + some * stored.size]
            decode_levels(stored.bits, part, values)
            tiled = -(-some // TILE) * TILE
            for i in range(some, tiled):  # the last once more changes no maximum
                values[:, i] = values[:, some - 1]
                scales[i] = scales[some - 1]
            raise_best(best, lanes, values, scales, tiled)
        for query in range(len(sizes)):
            held = best[starts[query] : starts[query + 1]].reshape(-1)[: sizes[query]]
            scores[query, text] = mean(held) if count and len(held) else 0.0
    return -1
