"""From lexical weights by position to the weights of terms."""

from __future__ import annotations

import numpy as np
from scipy import sparse as sp


def lexical_matrix(
    ids: np.ndarray, weights: np.ndarray, kept: np.ndarray, vocabulary: int
) -> sp.csr_array:
    """Term weights of a batch: for each text and term the largest weight of its positions.

    ids, weights, kept (B, L) -> (B, vocabulary) csr float32 with weights > 0 only.
    """
    texts, positions = np.nonzero(kept & (weights > 0))
    values = weights[texts, positions].astype(np.float32)
    keys = texts.astype(np.int64) * vocabulary + ids[texts, positions]
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    largest = np.maximum.reduceat(values, starts) if len(values) else values
    rows, columns = np.divmod(keys[starts], vocabulary)
    pointers = np.searchsorted(rows, np.arange(len(ids) + 1))
    return sp.csr_array((largest, columns, pointers), shape=(len(ids), vocabulary))
