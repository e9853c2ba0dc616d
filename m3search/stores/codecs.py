"""How the token vectors of one text are stored: the bytes, and what they keep of the vectors."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from m3search.errors import ConfigError
from m3search.records import FloatArray, IntArray
from m3search.scoring import maxsim
from m3search.stores.late_interaction import maxsim_halves, maxsim_levels
from m3search.stores.manifest import CodecCheck

Codec = Literal["fp16", "int8"]
CODECS: tuple[Codec, ...] = get_args(Codec)
CODES: dict[str, int] = {"fp16": 1, "int8": 2}
HEADER = struct.Struct("<BBHI")
"""code of the codec, 0, dimensions, number of vectors"""

SAMPLE_TEXTS = 64
SAMPLE_VECTORS = 128
SAMPLE_QUERIES = 16
QUERY_VECTORS = 32


def check_codec_name(name: str) -> Codec:
    """The name as a codec, or ConfigError."""
    for codec in CODECS:
        if codec == name:
            return codec
    raise ConfigError.unknown("multi codec", name, CODECS)


def encode_vectors(vectors: npt.ArrayLike, codec: Codec) -> bytes:
    """The vectors (n, dim) as one blob."""
    array = np.asarray(vectors, dtype=np.float32)
    count, dim = array.shape
    header: bytes = HEADER.pack(CODES[codec], 0, dim, count)
    if codec == "fp16":
        return header + array.astype("<f2").tobytes()
    scales = (np.abs(array).max(axis=1, initial=0.0) / 127).astype("<f4")
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)
    levels = np.clip(np.rint(array / divisors[:, np.newaxis]), -127, 127).astype(np.int8)
    content: bytes = scales.tobytes() + levels.tobytes()
    return header + content


def read_head(blob: bytes) -> tuple[int, int, int]:
    """(code of the codec, dimensions, vectors) of a blob.

    ValueError where it has another length than they ask for, as a damaged one has.
    """
    if len(blob) < HEADER.size:
        raise ValueError(f"a blob of {len(blob)} bytes")
    code, _, dim, count = HEADER.unpack_from(blob)
    if code not in CODES.values():
        raise ValueError(f"a blob of unknown codec {code}")
    of_one = 2 * dim if code == CODES["fp16"] else 4 + dim
    if len(blob) != HEADER.size + count * of_one:
        raise ValueError(f"{len(blob)} bytes for {count} vectors of {dim} dimensions")
    return code, dim, count


def decode_vectors(blob: bytes) -> FloatArray:
    """The vectors (n, dim) float32 of a blob; for int8, scale * level."""
    return decode_together([blob])[0]


def decode_together(blobs: Sequence[bytes]) -> tuple[FloatArray, IntArray]:
    """The vectors (total, dim) float32 of blobs of one codec, one text after the other.

    Beside them the offsets (texts + 1,): text i owns vectors[offsets[i]:offsets[i + 1]].
    """
    heads = [read_head(blob) for blob in blobs]
    kinds = {(code, dim) for code, dim, _ in heads}
    if len(kinds) != 1:
        raise ValueError(f"blobs of {len(kinds)} codecs or dimensions together")
    ((code, dim),) = kinds
    counts = [count for _, _, count in heads]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if code == CODES["fp16"]:
        halves = np.frombuffer(b"".join([blob[HEADER.size :] for blob in blobs]), dtype="<f2")
        return halves.reshape(-1, dim).astype(np.float32), offsets
    ends = [HEADER.size + 4 * count for count in counts]
    pairs = list(zip(blobs, ends, strict=True))
    scales = np.frombuffer(b"".join([blob[HEADER.size : end] for blob, end in pairs]), "<f4")
    levels = np.frombuffer(b"".join([blob[end:] for blob, end in pairs]), dtype=np.int8)
    vectors = levels.reshape(-1, dim).astype(np.float32)
    vectors *= scales[:, np.newaxis]
    return vectors, offsets


def score_blob(query: FloatArray, blob: bytes) -> float:
    """MaxSim of a query (m, dim) float32, C-contiguous, with the vectors of a blob; 0 without any.

    The sum of a product is in float32, in an order of its own, so the last bits may differ from
    `m3search.scoring.maxsim` of the decoded vectors; they depend on nothing but the two texts.
    """
    code, _, count = read_head(blob)
    if not count or not len(query):
        return 0.0
    if code == CODES["fp16"]:
        return maxsim_halves(query, np.frombuffer(blob, "<u2", offset=HEADER.size))
    scales = np.frombuffer(blob, "<f4", count, HEADER.size)
    levels = np.frombuffer(blob, np.int8, offset=HEADER.size + 4 * count)
    return maxsim_levels(query, scales, levels)


def check_codec(texts: Sequence[FloatArray], codec: Codec) -> CodecCheck:
    """What the codec keeps of a sample: cosines, and the order that MaxSim gives.

    The first texts serve as queries against all of them. A pair of texts counts as agreeing
    where both scores put it in the same order; equal scores agree only with equal scores.
    """
    sample = [np.asarray(text, dtype=np.float32)[:SAMPLE_VECTORS] for text in texts[:SAMPLE_TEXTS]]
    stored = [decode_vectors(encode_vectors(text, codec)) for text in sample]
    cosines = np.concatenate(
        [_cosines(text, kept) for text, kept in zip(sample, stored, strict=True)] or [np.ones(0)]
    )
    agreement = [
        _same_order(
            np.array([maxsim(query[:QUERY_VECTORS], text) for text in sample]),
            np.array([maxsim(query[:QUERY_VECTORS], text) for text in stored]),
        )
        for query in sample[:SAMPLE_QUERIES]
    ]
    return CodecCheck(
        texts=len(sample),
        vectors=len(cosines),
        mean_cosine=float(cosines.mean()) if len(cosines) else 1.0,
        min_cosine=float(cosines.min()) if len(cosines) else 1.0,
        rank_agreement=float(np.mean(agreement)) if agreement else 1.0,
    )


def _cosines(vectors: FloatArray, stored: FloatArray) -> npt.NDArray[np.float64]:
    a, b = vectors.astype(np.float64), stored.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    kept = norms > 0
    cosines: npt.NDArray[np.float64] = (a * b).sum(axis=1)[kept] / norms[kept]
    return cosines


def _same_order(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Share of the pairs that both score lists put in the same order, 0 to 1."""
    first, second = np.triu_indices(len(a), 1)
    if not len(first):
        return 1.0
    return float(np.mean(np.sign(a[first] - a[second]) == np.sign(b[first] - b[second])))
