"""Order and fusion: the total order of hits, the weighted sum, reciprocal rank fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from m3search.records import MODES, FloatArray, Hits, IntArray, Mode


def top_k(rows: npt.ArrayLike, scores: npt.ArrayLike, k: int) -> tuple[IntArray, FloatArray]:
    """The k best by score descending, then row ascending; NaN never wins.

    rows (n,), scores (n,) -> rows and scores of length min(k, n).
    """
    all_rows = np.asarray(rows, np.int64)
    all_scores = np.nan_to_num(
        np.asarray(scores, np.float32), nan=-np.inf, posinf=np.inf, neginf=-np.inf
    )
    if 0 < k < len(all_rows):
        kth = np.partition(all_scores, len(all_scores) - k)[len(all_scores) - k]
        keep = np.flatnonzero(all_scores >= kth)  # all ties of the k-th: the row decides
        all_rows, all_scores = all_rows[keep], all_scores[keep]
    order = np.lexsort((all_rows, -all_scores))[: max(k, 0)]
    return all_rows[order], all_scores[order]


def weighted_sum(
    scores: Mapping[Mode, npt.ArrayLike],
    weights: Mapping[Mode, float] | Mapping[Mode, npt.NDArray[np.float64]],
) -> FloatArray:
    """w1*dense + w2*sparse + w3*multi of raw scores, with no normalisation before or after.

    The arrays share one shape; a mode of weight 0, or without scores, adds nothing. Many weights at
    once, (weights, 1) by mode, give (weights, documents).
    """
    total: npt.NDArray[np.float64] | None = None
    for mode in MODES:
        if mode in scores:
            part = weights.get(mode, 0.0) * np.asarray(scores[mode], np.float64)
            total = part if total is None else total + part
    if total is None:
        raise ValueError("no scores to fuse")
    return total.astype(np.float32)


def reciprocal_rank_fusion(
    found: Sequence[Hits], k: int, *, constant: float = 60.0, weights: Sequence[float] | None = None
) -> Hits:
    """Sum of weight / (constant + rank) over the lists that hold a row (Cormack et al. 2009).

    found: Hits of the same queries; ranks start at 1; `constant` >= 0 -> Hits of width k.
    """
    factors = [1.0] * len(found) if weights is None else list(weights)
    parts = [
        factor / (constant + np.arange(1, hits.rows.shape[1] + 1))
        for hits, factor in zip(found, factors, strict=True)
    ]
    given = np.concatenate(parts)
    lines = []
    for query in range(len(found[0])):
        listed = np.concatenate([hits.rows[query] for hits in found])
        rows, places = np.unique(listed[listed >= 0], return_inverse=True)
        total = np.bincount(places, weights=given[listed >= 0], minlength=len(rows))
        lines.append(top_k(rows, total, k))
    return Hits.stack(lines, k)
