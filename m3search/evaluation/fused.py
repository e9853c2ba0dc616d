"""Rows made of other rows' runs: reciprocal rank fusion, and sums with a signal that is no mode.

BM25, or any run of another system, so becomes a fourth signal beside dense, sparse and multi.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

from m3search.fusion import reciprocal_rank_fusion, top_k
from m3search.plan import MOST_WEIGHT
from m3search.records import Hits, IntArray, Run

CONSTANT = 60.0
"""of reciprocal rank fusion (Cormack et al. 2009)"""


@dataclass(frozen=True)
class Fused:
    """A row that fuses the runs of others."""

    rows: tuple[str, ...]
    """the rows whose runs are fused, run files among them"""
    by: Literal["rank", "score"] = "rank"
    """rank: the sum of weight / (constant + rank). score: the sum of weight * score, 0 for a
    document that a run does not hold"""
    weights: tuple[float, ...] | None = None
    """of the rows, from 0 up; by default 1 each"""
    constant: float = CONSTANT
    """of the ranks, from 0 up"""

    def __post_init__(self) -> None:
        if len(self.rows) < 2 or len({*self.rows}) < len(self.rows):
            raise ValueError(f"rows {list(self.rows)}, not two or more that differ")
        given = (*(self.weights or ()), self.constant)
        if not all(0 <= number <= MOST_WEIGHT for number in given):
            raise ValueError(f"a weight or constant that is not from 0 to {MOST_WEIGHT:.0e}")
        if self.weights is not None and not any(self.weights):
            raise ValueError("weights that are all 0")
        if self.weights is not None and len(self.weights) != len(self.rows):
            raise ValueError(f"{len(self.weights)} weights of {len(self.rows)} rows")

    def run(self, runs: Mapping[str, Run], k: int) -> Run:
        """The k best of every query that any of the rows has found something for."""
        parts = [runs[row] for row in self.rows]
        asked = dict.fromkeys(query for part in parts for query in part)
        return {query: self._fuse([part.get(query, {}) for part in parts], k) for query in asked}

    def to_json(self) -> dict[str, Any]:
        """What it is made of, as a report has it."""
        made = {"rows": list(self.rows), "by": self.by, "weights": self._weights()}
        return made | ({"constant": self.constant} if self.by == "rank" else {})

    def _weights(self) -> list[float]:
        return list(self.weights or [1.0] * len(self.rows))

    def _fuse(self, runs: Sequence[Mapping[str, float]], k: int) -> dict[str, float]:
        pairs = [(each, w) for each, w in zip(runs, self._weights(), strict=True) if w]
        found, weights = [each for each, _ in pairs], [w for _, w in pairs]
        # equal scores in descending order of their ids, as they are measured
        names = sorted({name for each in found for name in each}, reverse=True)
        places = {name: place for place, name in enumerate(names)}
        if self.by == "rank":
            hits = [_ranked(each, places) for each in found]
            fused = reciprocal_rank_fusion(
                hits, min(k, len(names)), constant=self.constant, weights=weights
            )
            rows, scores = fused.rows[0], fused.scores[0]
        else:
            total = np.zeros(len(names))
            for each, weight in pairs:
                for name, score in each.items():
                    total[places[name]] += weight * score
            rows, scores = top_k(np.arange(len(names)), total, k)
        best = zip(rows.tolist(), scores.tolist(), strict=True)
        return {names[row]: score for row, score in islice(best, k)}


def _ranked(found: Mapping[str, float], places: Mapping[str, int]) -> Hits:
    """The documents of a run for one query, by number."""
    rows: IntArray = np.array([places[name] for name in found], dtype=np.int64)
    scores = np.array(list(found.values()), dtype=np.float32)
    return Hits.stack([top_k(rows, scores, len(rows))], len(rows))
