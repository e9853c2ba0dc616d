"""What an encoder returns, looked at before it is stored: what FORMAT.md promises of vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m3search.errors import ArtifactError, ConfigError
from m3search.records import BoolArray, Encoded, FloatArray, ModelIdentity
from m3search.stores.documents import Record

UNIT_TOLERANCE = 1e-2
"""how far the length of a unit vector may be from 1; one in bfloat16 misses it by a few 1e-3"""


def check_encoded(records: Sequence[Record], encoded: Encoded, model: ModelIdentity) -> None:
    """ArtifactError with the id of the first document whose vectors cannot be stored.

    A NaN would be kept and then hide its document from every search. ConfigError where they are
    not what `Encoded` says: the search for the best multi-vectors relies on their length.
    """
    if len(records) != len(encoded):
        raise ValueError(f"{len(records)} documents, but {len(encoded)} were encoded")
    if not records:
        return
    _check_shapes(records, encoded, model)
    for mode, finite in _finite(encoded).items():
        if not finite.all():
            raise ArtifactError(
                f"document {records[int(np.argmin(finite))].id!r}",
                expected=f"finite numbers in its {mode} vectors",
                found="NaN or infinity",
                remedy=f"The model {model.name} makes them; load it in float32, or use another.",
            )
    for expected, found, kept in _promises(encoded):
        if not kept.all():
            raise ConfigError(
                f"document {records[int(np.argmin(kept))].id!r}",
                expected=expected,
                found=found,
                remedy="Give an encoder that returns what m3search.records.Encoded describes.",
            )


def _check_shapes(records: Sequence[Record], encoded: Encoded, model: ModelIdentity) -> None:
    for mode, dimensions, shape in (
        ("dense", model.dim, encoded.dense.shape),
        ("sparse", model.vocabulary, encoded.sparse.shape),
    ):
        if shape != (len(records), dimensions):
            raise _wrong_shape(records[0], mode, dimensions, shape[1:])
    for record, vectors in zip(records, encoded.multi, strict=True):
        if vectors.ndim != 2 or vectors.shape[1] != model.multi_dim:
            raise _wrong_shape(record, "multi", model.multi_dim, vectors.shape[1:])


def _promises(encoded: Encoded) -> list[tuple[str, str, BoolArray]]:
    """(what is expected, what breaks it, (n,) which texts keep it) of every promise."""
    multi = np.array([_unit(vectors).all() for vectors in encoded.multi], dtype=bool)
    sparse = _rows_where(encoded, encoded.sparse.data > 0)
    return [
        ("sparse weights above 0", "one that is not", sparse),
        ("multi vectors of length 1", "one of another length", multi),
    ]


def _unit(vectors: FloatArray) -> BoolArray:
    """(n,) which of the vectors (n, dim) have length 1."""
    squares = np.einsum("ij,ij->i", vectors, vectors)
    return np.asarray(np.abs(np.sqrt(squares) - 1) <= UNIT_TOLERANCE)


def _rows_where(encoded: Encoded, kept: BoolArray) -> BoolArray:
    """(n,) which texts have only sparse weights (nnz,) that are kept."""
    rows = np.ones(len(encoded), dtype=bool)
    wrong = np.flatnonzero(~kept)
    rows[np.searchsorted(encoded.sparse.indptr, wrong, side="right") - 1] = False
    return rows


def _finite(encoded: Encoded) -> dict[str, BoolArray]:
    """Per mode (n,), whose vectors hold only finite numbers."""
    return {
        "dense": np.asarray(np.isfinite(encoded.dense).all(axis=1)),
        "sparse": _rows_where(encoded, np.isfinite(encoded.sparse.data)),
        "multi": np.array([np.isfinite(vectors).all() for vectors in encoded.multi], dtype=bool),
    }


def _wrong_shape(
    record: Record, mode: str, dimensions: int, found: tuple[int, ...]
) -> ArtifactError:
    return ArtifactError(
        f"document {record.id!r}",
        expected=f"{mode} vectors of {dimensions} dimensions, as the index has",
        found=f"{' x '.join(map(str, found)) or 'none'}",
        remedy="Give the encoder that the index was made with, or build a new index.",
    )
