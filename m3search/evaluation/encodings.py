"""The encoded queries of a set, kept for the next evaluation.

    queries/<key>.npz     the arrays of an `Encoded`
    queries/<key>.json    its SHA-256, the seconds that encoding took, and those of queries alone

The key is that of the texts, in their order. Without a note that names its checksum an array file
does not count.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from scipy import sparse as sp

from m3search.records import Encoded
from m3search.stores.files import make_folder, write_whole

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
    reused: bool = False


def read_queries(folder: Path, texts: Sequence[str]) -> KeptQueries | None:
    """Those of the texts in an entry's folder; None where they are not there, or damaged."""
    arrays, note = _files(folder, texts)
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        content = arrays.read_bytes()
        if found["sha256"] != sha256(content).hexdigest():
            return None
        seconds, alone = float(found["seconds"]), tuple(map(float, found["alone"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return KeptQueries(_unpack(content), seconds, alone, reused=True)


def write_queries(folder: Path, texts: Sequence[str], queries: KeptQueries) -> None:
    """Puts them into an entry's folder: each file is there whole or not at all, the note last."""
    arrays, note = _files(folder, texts)
    make_folder(arrays.parent)
    content = _pack(queries.encoded)
    fields = {
        "sha256": sha256(content).hexdigest(), "seconds": queries.seconds, "alone": queries.alone,
    }  # fmt: skip
    for path, written in ((arrays, content), (note, json.dumps(fields).encode())):
        with write_whole(path) as file:
            file.write(written)


def _files(folder: Path, texts: Sequence[str]) -> tuple[Path, Path]:
    key = sha256(json.dumps(list(texts)).encode()).hexdigest()[:KEY_DIGITS]
    return folder / FOLDER / f"{key}.npz", folder / FOLDER / f"{key}.json"


def _pack(encoded: Encoded) -> bytes:
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


def _unpack(content: bytes) -> Encoded:
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        parts = (found["weights"], found["terms"], found["starts"])
        sparse = sp.csr_array(parts, shape=tuple(found["shape"]))
        vectors = np.split(found["vectors"], found["ends"])[:-1]
        return Encoded(found["dense"], sparse, vectors, found["truncated"])
