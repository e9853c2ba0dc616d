"""The compiled loop of dense scores: inner products of one query with given rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from m3search.stores.compiling import compiled_sums

Array = npt.NDArray[Any]


@compiled_sums
def dot_rows(query: Array, vectors: Array, rows: Array) -> Array:
    """<query, vector> (n,) float64 of `rows` (n,) of the vectors (all, dim) float32.

    query: (dim,) float64. What is added, and in which order, depends on the dimensions alone: a row
    has the same bits in its score whatever is scored beside it.
    """
    scores = np.empty(len(rows), np.float64)
    for i in range(len(rows)):
        vector, total = vectors[rows[i]], 0.0
        for place in range(len(query)):
            total += query[place] * vector[place]
        scores[i] = total
    return scores
