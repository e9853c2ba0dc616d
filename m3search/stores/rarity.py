"""How rare a term is among the rows of an index."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from m3search.records import IntArray

Rarity = npt.NDArray[np.float64]


def rarity(counts: IntArray, rows: int) -> Rarity:
    """(n,) how rare terms are that so many of the rows have: 1 for one row, near 0 for all.

    It is idf(count) / idf(1) with the idf of BM25 as Lucene has it, log(1 + (N - n + 0.5) /
    (n + 0.5)) (Kamphuis et al. 2020), so that it means the same in a small index and in a large
    one. A term that no row has is taken for one that one row has; it matches nothing.
    """
    found = np.maximum(counts, 1).astype(np.float64)
    if not rows:
        return np.ones(len(counts))
    idf: Rarity = np.log1p((rows - found + 0.5) / (found + 0.5)) / np.log1p((rows - 0.5) / 1.5)
    return idf
