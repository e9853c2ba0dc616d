"""MaxSim of queries with documents as they are stored, a few vectors unpacked at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from m3search.records import FloatArray
from m3search.stores.compiling import compiled
from m3search.stores.level_tiles import CHUNK, PLANES, TOGETHER, raise_levels, spread_bytes
from m3search.stores.tiles import LANES, TILE, half_at, raise_one, raise_two

Array = npt.NDArray[Any]

VECTORS = 8 * TILE
"""unpacked at a time: 32 kB of float32 at 128 dimensions, which stays in a core's nearest cache"""
HEADER = 8
"""bytes of a blob before its scales"""
HIGHEST = 127 * 256 + 127
"""of the whole numbers of a query: two bytes of -128 to 127"""


class Meaning(NamedTuple):
    """What a level stands for: (level * factor - less) * unit, times the scale of its vector."""

    factor: int
    less: int
    unit: float


MEANINGS = {8: Meaning(1, 128, 1.0), 4: Meaning(2, 15, 0.5), 1: Meaning(2, 1, 1.0)}
"""by bits of a dimension, where these are no float16"""


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
    """dimensions of a vector as unpacked: all bits of its bytes"""
    factor: int
    """of the meaning of a level; of float16 nothing"""


class Arranged(NamedTuple):
    """Queries as `score_texts` takes them: the vectors of all side by side in groups of LANES, so
    that a group may hold vectors of several queries, and a query may begin anywhere in one.

    Where texts are float16 they are float32. Else each is a scale times whole numbers of 16 bits,
    which changes a product of unit vectors by a few millionths. Lanes behind the last are 0.
    """

    starts: Array
    """(queries + 1,) int64, query i has lanes [starts[i], starts[i + 1]) of all groups"""
    lanes: Array
    """(groups, dim, LANES) float32; no group where `numbers` has them"""
    numbers: Array
    """(groups, PLANES, quads, LANES * TOGETHER) int8, the high bytes and the low ones; or no
    group"""
    offsets: Array
    """(groups, PLANES, LANES) int32, what to take off products with levels, or no group"""
    scales: FloatArray
    """(groups, LANES) what products are multiplied by in the end"""

    @classmethod
    def of(cls, queries: Sequence[FloatArray], stored: Stored) -> Arranged:
        """Of queries (m_i, width)."""
        starts = np.cumsum([0, *map(len, queries)], dtype=np.int64)
        groups = -(-int(starts[-1]) // LANES)
        padded = np.zeros((groups, LANES, stride_of(stored.width)), dtype=np.float32)
        lines = padded.reshape(-1, padded.shape[2])
        for query, start in zip(queries, starts[:-1].tolist(), strict=True):
            lines[start : start + len(query), : stored.width] = query
        none = np.zeros((0, 1, 1, 1))
        if stored.bits == 16:
            lanes = np.ascontiguousarray(padded[:, :, : stored.width].transpose(0, 2, 1))
            numbers, offsets = none.astype(np.int8), none[..., 0].astype(np.int32)
            return cls(starts, lanes, numbers, offsets, np.ones(padded.shape[:2], "f4"))
        numbers, offsets, scales = _rounded(padded, MEANINGS[stored.bits])
        return cls(starts, none[..., 0].astype(np.float32), numbers, offsets, scales)


def stride_of(width: int) -> int:
    """The dimensions of a vector in whole quads; what is behind its width is 0."""
    return -(-width // TOGETHER) * TOGETHER


def _rounded(padded: FloatArray, meaning: Meaning) -> tuple[Array, Array, FloatArray]:
    """Numbers, offsets and scales of vectors (groups, LANES, stride)."""
    groups, _, stride = padded.shape
    quads = stride // TOGETHER
    scales = (np.abs(padded).max(axis=2) / HIGHEST).astype(np.float32)
    scales[scales == 0] = 1
    whole = np.clip(np.rint(padded / scales[:, :, np.newaxis]), -HIGHEST, HIGHEST).astype(np.int32)
    high = (whole + 128) >> 8
    planes = np.stack([high, whole - (high << 8)], axis=1)
    parts = planes.reshape(groups, PLANES, LANES, quads, TOGETHER).transpose(0, 1, 3, 2, 4)
    numbers = parts.astype(np.int8, order="C").reshape(groups, PLANES, quads, LANES * TOGETHER)
    offsets = (planes.sum(axis=3) * meaning.less).astype(np.int32)
    return numbers, offsets, scales * np.float32(meaning.unit)


@compiled
def unpack_levels(bits: int, content: Array, levels: Array) -> None:
    """Writes vectors of `bits` bits a dimension, 8, 4 or 1, to levels, one in a byte.

    content: (n, size) uint8; a byte holds the dimensions d, d + size, d + 2 * size and so on, the
    lowest bits first, and in 8 bits a signed number. levels: (n or more, stride) uint8.
    """
    count, size = content.shape
    stride = levels.shape[1]
    mask, flip = np.uint8((1 << bits) - 1), np.uint8(128 if bits == 8 else 0)
    whole = size // CHUNK * CHUNK
    packed, unpacked = content.reshape(-1), levels.reshape(-1)
    for i in range(count):
        for part in range(8 // bits):
            shift, place = np.uint8(part * bits), i * stride + part * size
            for d in range(0, whole, CHUNK):
                spread_bytes(packed, i * size + d, unpacked, place + d, shift, mask, flip)
            for d in range(whole, size):
                unpacked[place + d] = ((packed[i * size + d] >> shift) & mask) ^ flip


@compiled
def unpack_halves(content: Array, values: Array) -> None:
    """Writes vectors of float16, content (n, 2 * dim) uint8, to values (n or more, dim) float32."""
    for i in range(len(content)):
        for d in range(values.shape[1]):
            values[i, d] = half_at(content[i], d)


@compiled
def mean(values: Array, scales: Array) -> float:
    """The mean of values (n,) times scales (n,), added in float64 from the first to the last."""
    total = 0.0
    for i in range(len(values)):
        total += values[i] * scales[i]
    return total / len(values)


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
def raise_by_halves(best: Array, lanes: Array, content: Array, values: Array) -> None:
    """Raises best (groups, LANES) to the products of lanes with vectors of float16.

    content: (n, 2 * dim) uint8. values: room for them.
    """
    count, groups = len(content), len(lanes)
    unpack_halves(content, values)
    tiled = -(-count // TILE) * TILE
    values[count:tiled] = values[count - 1]  # once more changes no maximum
    for first in range(0, tiled, TILE):
        for group in range(0, groups - 1, 2):
            raise_two(best[group:], lanes[group:], values, first)
        if groups % 2:
            raise_one(best[groups - 1 :], lanes[groups - 1 :], values, first)


@compiled
def raise_by_levels(
    best: Array, queries: Arranged, stored: Stored, content: Array, held: Array, levels: Array,
    scales: Array,
) -> None:  # fmt: skip
    """Raises best (groups, LANES) to the products of queries with vectors of levels.

    content: (n, size) uint8. held: (4 * n,) uint8, their scales. levels, scales: room for them.
    """
    count, groups = len(content), len(queries.numbers)
    unpack_levels(stored.bits, content, levels)
    scales.view(np.uint8)[: len(held)] = held
    tiled = -(-count // TILE) * TILE
    levels[count:tiled] = levels[count - 1]  # once more changes no maximum
    scales[count:tiled] = scales[count - 1]
    for first in range(0, tiled, TILE):
        for group in range(groups):
            numbers, offsets = queries.numbers[group], queries.offsets[group]
            own = scales[first:]
            raise_levels(best[group], numbers, offsets, levels, first, own, stored.factor)


@compiled
def score_texts(
    content: Array, ends: Array, first: int, last: int, stored: Stored, queries: Arranged,
    scores: Array,
) -> int:  # fmt: skip
    """Writes MaxSim of queries with texts [first, last) to scores (queries, texts) float32.

    content: (bytes,) uint8, the blobs of all texts; text i has [ends[i], ends[i + 1]). Where a side
    has no vectors the score is 0. Returns the first text whose blob contradicts itself, else -1.

    A score may differ by a few millionths from `m3search.scoring.maxsim` of the unpacked vectors:
    products of float16 are summed in float32, dimension by dimension, and levels are multiplied
    with rounded queries. It depends on nothing but the two texts.
    """
    halves = stored.bits == 16
    values = np.empty((VECTORS if halves else 0, stored.width), np.float32)
    stride = queries.numbers.shape[2] * TOGETHER
    levels = np.zeros((0 if halves else VECTORS, stride), np.uint8)
    scales = np.ones(VECTORS, np.float32)
    best = np.empty(queries.scales.shape, np.float32)
    highest, units = best.reshape(-1), queries.scales.reshape(-1)
    for text in range(first, last):
        blob = content[ends[text] : ends[text + 1]]
        count = vectors_of(blob, stored)
        if count < 0:
            return text
        held = blob[HEADER : HEADER if halves else HEADER + 4 * count]
        vectors = blob[HEADER + len(held) :].reshape(count, stored.size)
        best[:] = -np.inf
        for start in range(0, count, VECTORS):
            some = vectors[start : start + VECTORS]
            if halves:
                raise_by_halves(best, queries.lanes, some, values)
            else:
                own = held[4 * start : 4 * (start + len(some))]
                raise_by_levels(best, queries, stored, some, own, levels, scales)
        for query in range(len(queries.starts) - 1):
            begin, end = queries.starts[query], queries.starts[query + 1]
            none = count == 0 or end == begin
            scores[query, text] = 0.0 if none else mean(highest[begin:end], units[begin:end])
    return -1
