"""How token vectors are stored: as float16, or as a scale and a few bits a dimension."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from m3search.errors import ConfigError
from m3search.records import FloatArray, IntArray
from m3search.stores.compiling import compiled_sums
from m3search.stores.late_interaction import MEANINGS, Stored, unpack_levels
from m3search.stores.rotation import rotate, rotate_back

HEADER = struct.Struct("<BBHI")
"""code of the codec, 0, dimensions, number of vectors"""
FACTORS = np.linspace(0.24, 0.44, 11, dtype=np.float32)
"""distances of the levels of 4 bits that are tried, in root mean squares of a vector"""
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Codec:
    """One encoding of vectors."""

    name: str
    code: int
    """in the header of a blob"""
    bits: int
    """of a dimension; below 16, a float32 scale for each vector stands beside them"""
    rotated: bool = False
    """whether vectors are rotated before they are rounded, and queries before they are compared"""

    def size(self, dim: int) -> int:
        """Bytes of a vector, without its scale."""
        return -(-dim // (8 // self.bits)) if self.bits < 8 else dim * self.bits // 8

    def blob_size(self, dim: int, count: int) -> int:
        """Bytes of a blob of that many vectors."""
        scale = 0 if self.bits == 16 else 4
        return HEADER.size + count * (scale + self.size(dim))

    def width(self, dim: int) -> int:
        """Dimensions of a prepared query, and of vectors as stored: all bits of their bytes."""
        return self.size(dim) * 8 // self.bits

    def stored(self, dim: int) -> Stored:
        """How vectors of that many dimensions are stored, for `score_texts`."""
        factor = MEANINGS[self.bits].factor if self.bits in MEANINGS else 0
        return Stored(self.code, self.bits, dim, self.size(dim), self.width(dim), factor)

    def prepare(self, query: FloatArray) -> FloatArray:
        """The query (m, dim) as stored vectors are compared with it, float32.

        Where a vector's levels fill no whole bytes, with zeros behind it.
        """
        vectors = np.ascontiguousarray(query, dtype=np.float32)
        turned = rotate(vectors) if self.rotated else vectors
        dim = turned.shape[1]
        return np.pad(turned, ((0, 0), (0, self.width(dim) - dim)))


FP16 = Codec("fp16", 1, 16)
CODECS = {
    codec.name: codec
    for codec in (FP16, Codec("int8", 2, 8), Codec("int4", 3, 4, True), Codec("binary", 4, 1, True))
}
"""by name, from the largest to the smallest"""
_BY_CODE = {codec.code: codec for codec in CODECS.values()}


def find_codec(name: str) -> Codec:
    """The codec of that name, or ConfigError."""
    if name not in CODECS:
        raise ConfigError.unknown("multi codec", name, tuple(CODECS))
    return CODECS[name]


class Blob(NamedTuple):
    """The parts of the bytes of one text."""

    codec: Codec
    dim: int
    vectors: int
    scales: npt.NDArray[np.float32]
    """(vectors,), or empty for float16"""
    levels: Bytes
    """(vectors * bytes of one,)"""


def read_blob(content: bytes) -> Blob:
    """The parts; ValueError where it has another length than they ask for, as a damaged one has."""
    if len(content) < HEADER.size:
        raise ValueError(f"a blob of {len(content)} bytes")
    code, _, dim, count = HEADER.unpack_from(content)
    codec = _BY_CODE.get(code)
    if codec is None:
        raise ValueError(f"a blob of unknown codec {code}")
    if len(content) != codec.blob_size(dim, count):
        raise ValueError(f"{len(content)} bytes for {count} vectors of {dim} dimensions")
    held = 0 if codec.bits == 16 else count
    scales = np.frombuffer(content, "<f4", held, HEADER.size)
    levels = np.frombuffer(content, np.uint8, offset=HEADER.size + scales.nbytes)
    return Blob(codec, dim, count, scales, levels)


def encode_vectors(vectors: npt.ArrayLike, codec: Codec) -> bytes:
    """The vectors (n, dim) as one blob."""
    array = np.asarray(vectors, dtype=np.float32)
    count, dim = array.shape
    header: bytes = HEADER.pack(codec.code, 0, dim, count)
    if codec.bits == 16:
        return header + array.astype("<f2").tobytes()
    turned = rotate(array) if codec.rotated else array
    scales, levels = _LEVELS[codec.bits](turned)
    content: bytes = scales.astype("<f4").tobytes() + levels.tobytes()
    return header + content


def _to_bytes(vectors: FloatArray) -> tuple[FloatArray, Bytes]:
    """Scales, and levels -127 to 127: the largest value of a vector is at the last."""
    scales = (np.abs(vectors).max(axis=1, initial=0.0) / 127).astype(np.float32)
    levels = np.clip(np.rint(vectors / _divisors(scales)), -127, 127)
    return scales, levels.astype(np.int8).astype(np.uint8)


def _to_nibbles(vectors: FloatArray) -> tuple[FloatArray, Bytes]:
    """Scales, and levels 0 to 15 that stand for -7.5 to 7.5, two in a byte.

    The product of a vector with what is stored of it is its own square, as of signs below.
    """
    roots = np.sqrt(np.square(vectors).mean(axis=1))
    found = nearest_scales(vectors, roots, FACTORS)
    levels = np.clip(np.floor(vectors / _divisors(found)) + 8, 0, 15).astype(np.uint8)
    products = (vectors * (levels - np.float32(7.5))).sum(axis=1)
    squares = np.square(vectors).sum(axis=1)
    scales = (squares / np.where(products > 0, products, 1)).astype(np.float32)
    low, high = np.split(_padded(levels, 2), 2, axis=1)
    packed: Bytes = (low | (high << 4)).astype(np.uint8)
    return scales, packed


@compiled_sums
def nearest_scales(vectors: FloatArray, roots: FloatArray, factors: FloatArray) -> FloatArray:
    """For each vector (n, dim) the scale (n,) whose 16 levels lie nearest to its values.

    One of the products of its root mean square, `roots` (n,), with the factors.
    """
    scales = np.zeros(len(vectors), np.float32)
    half, lowest, highest = np.float32(0.5), np.float32(-8), np.float32(7)
    for i in range(len(vectors)):
        least = np.float32(np.inf)
        for factor in factors:
            scale = roots[i] * factor
            inverse = np.float32(1) / scale if scale > 0 else np.float32(0)
            error = np.float32(0)
            for value in vectors[i]:
                level = min(max(np.floor(value * inverse), lowest), highest) + half
                rest = value - level * scale
                error += rest * rest
            if error < least:
                least, scales[i] = error, scale
    return scales


def _to_signs(vectors: FloatArray) -> tuple[FloatArray, Bytes]:
    """Scales, and a bit for each dimension: 1 where it is not below 0.

    The product of a vector with what is stored of it is its own square (RaBitQ, Gao and Long 2024,
    equation 12), so that products with queries are right on the mean.
    """
    sums = np.abs(vectors).sum(axis=1)
    scales = (np.square(vectors).sum(axis=1) / np.where(sums > 0, sums, 1)).astype(np.float32)
    filled = _padded((vectors >= 0).astype(np.uint8), 8)
    planes = filled.reshape(len(vectors), 8, filled.shape[1] // 8)
    bits = (planes << np.arange(8, dtype=np.uint8)[:, np.newaxis]).sum(axis=1, dtype=np.uint8)
    return scales, bits


_LEVELS = {8: _to_bytes, 4: _to_nibbles, 1: _to_signs}


def _divisors(scales: FloatArray) -> FloatArray:
    """(n, 1) what values are divided by; 1 for a vector of zeros."""
    return np.where(scales > 0, scales, 1).astype(np.float32)[:, np.newaxis]


def _padded(levels: Bytes, parts: int) -> Bytes:
    """The levels (n, dim) with zeros behind them, so that `parts` divides the dimensions."""
    return np.pad(levels, ((0, 0), (0, -levels.shape[1] % parts)))


def decode_vectors(content: bytes) -> FloatArray:
    """The vectors (n, dim) float32 of a blob, rounded as they are stored."""
    blob = read_blob(content)
    stored = _stored(blob)[:, : blob.dim]
    return rotate_back(stored) if blob.codec.rotated else stored


def _stored(blob: Blob) -> FloatArray:
    """The vectors (n, dim) float32 of a blob as they are compared with a prepared query."""
    width, bits = blob.codec.width(blob.dim), blob.codec.bits
    if bits == 16:
        return blob.levels.view("<f2").astype(np.float32).reshape(blob.vectors, width)
    levels = np.empty((blob.vectors, width), dtype=np.uint8)
    unpack_levels(bits, blob.levels.reshape(blob.vectors, blob.codec.size(blob.dim)), levels)
    factor, less, unit = MEANINGS[bits]
    values = (levels.astype(np.float32) * factor - less) * np.float32(unit)
    return values * blob.scales[:, np.newaxis]


def decode_together(contents: Sequence[bytes]) -> tuple[FloatArray, IntArray]:
    """The vectors (total, dim) float32 of blobs, one text after the other.

    Beside them the offsets (texts + 1,): text i owns vectors[offsets[i]:offsets[i + 1]]. They are
    as stored, rotated for example, and compared with what `Codec.prepare` makes of a query.
    """
    parts = [_stored(read_blob(content)) for content in contents]
    if len({part.shape[1] for part in parts}) != 1:
        raise ValueError("blobs of several dimensions together")
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return np.concatenate(parts), offsets
