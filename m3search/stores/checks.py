"""What an encoder returns, looked at before it is stored: shapes, and numbers that are numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m3search.errors import ArtifactError
from m3search.records import BoolArray, Encoded, ModelIdentity
from m3search.stores.documents import Record


def check_encoded(records: Sequence[Record], encoded: Encoded, model: ModelIdentity) -> None:
    """ArtifactError with the id of the first document whose vectors cannot be stored.

    A NaN would be kept and then hide its document from every search.
    """
    if len(records) != len(encoded):
        raise ValueError(f"{len(records)} documents, but {len(encoded)} were encoded")
    if not records:
        return
    for mode, dimensions, shape in (
        ("dense", model.dim, encoded.dense.shape),
        ("sparse", model.vocabulary, encoded.sparse.shape),
    ):
        if shape != (len(records), dimensions):
            raise _wrong_shape(records[0], mode, dimensions, shape[1:])
    for record, vectors in zip(records, encoded.multi, strict=True):
        if vectors.ndim != 2 or vectors.shape[1] != model.multi_dim:
            raise _wrong_shape(record, "multi", model.multi_dim, vectors.shape[1:])
    for mode, finite in _finite(encoded).items():
        if not finite.all():
            raise ArtifactError(
                f"document {records[int(np.argmin(finite))].id!r}",
                expected=f"finite numbers in its {mode} vectors",
                found="NaN or infinity",
                remedy=f"The model {model.name} makes them; load it in float32, or use another.",
            )


def _finite(encoded: Encoded) -> dict[str, BoolArray]:
    """Per mode (n,), whose vectors hold only finite numbers."""
    sparse = np.ones(len(encoded), dtype=bool)
    wrong = np.flatnonzero(~np.isfinite(encoded.sparse.data))
    sparse[np.searchsorted(encoded.sparse.indptr, wrong, side="right") - 1] = False
    return {
        "dense": np.asarray(np.isfinite(encoded.dense).all(axis=1)),
        "sparse": sparse,
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
