"""The encoded queries of a set, kept for the next evaluation.

    queries/<key>         the seconds that encoding took, and those of queries alone; then the
                          arrays of an `Encoded`, as an .npz file

The key is that of the texts, in their order.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse as sp

from m3search.evaluation.checked import Tell, read_checked, write_checked
from m3search.records import Encoded

FOLDER = "queries"
KEY_DIGITS = 16


@dataclass(frozen=True)
class KeptQueries:
    """Queries encoded together, now or by an earlier evaluation."""

    encoded: Encoded
    seconds: float
    """what encoding them took, then or now"""
    alone: tuple[float, ...] = ()
    """seconds of some of them, each encoded alone; empty where that was not measured"""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """on which that was measured"""
    reused: bool = False


def read_queries(folder: Path, texts: Sequence[str], tell: Tell) -> KeptQueries | None:
    """Those of the texts in an entry's folder; None where they are not there, or damaged."""
    found = read_checked(_file(folder, texts), tell)
    if found is None:
        return None
    note, content = found
    alone = (tuple(note["alone"]), note["machine"])
    return KeptQueries(unpack(content), note["seconds"], *alone, reused=True)


def write_queries(folder: Path, texts: Sequence[str], queries: KeptQueries) -> None:
    """Puts them into an entry's folder, whole or not at all."""
    note = {"seconds": queries.seconds, "alone": queries.alone, "machine": dict(queries.machine)}
    write_checked(_file(folder, texts), note, pack(queries.encoded))


def _file(folder: Path, texts: Sequence[str]) -> Path:
    key = sha256(json.dumps(list(texts)).encode()).hexdigest()
    return folder / FOLDER / key[:KEY_DIGITS]


def pack(encoded: Encoded) -> bytes:
    """The arrays as an .npz file; token vectors of all texts below each other."""
    buffer = io.BytesIO()
    sparse, empty = encoded.sparse, np.zeros((0, 0), np.float32)
    np.savez(
        buffer,
        dense=encoded.dense,
        weights=sparse.data,
        terms=sparse.indices,
        starts=sparse.indptr,
        shape=np.array(sparse.shape, np.int64),
        vectors=np.concatenate(encoded.multi) if encoded.multi else empty,
        ends=np.cumsum([len(vectors) for vectors in encoded.multi], dtype=np.int64),
        truncated=encoded.truncated,
    )
    return buffer.getvalue()


def unpack(content: bytes) -> Encoded:
    """What `pack` made of them."""
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        parts = (found["weights"], found["terms"], found["starts"])
        sparse = sp.csr_array(parts, shape=tuple(found["shape"]))
        vectors = np.split(found["vectors"], found["ends"])[:-1]
        return Encoded(found["dense"], sparse, vectors, found["truncated"])
