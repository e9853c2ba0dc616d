"""The candidates of a query: which first stages returned them, and what each mode says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from m3search.fusion import top_k, weighted_sum
from m3search.plan import Plan
from m3search.records import BoolArray, Encoded, FloatArray, Hits, IntArray, Mode
from m3search.timings import stage

if TYPE_CHECKING:
    from m3search.index import Index


@dataclass(frozen=True)
class Scored:
    """The n candidates of one query, each with its exact score in every mode."""

    rows: IntArray
    """(n,) ascending"""
    scores: Mapping[Mode, FloatArray]
    """(n,) by mode"""
    ranks: Mapping[Mode, IntArray]
    """(n,) by first stage: the place in what it returned, from 1; 0 where it did not return it"""

    def ranked(self, plan: Plan) -> tuple[IntArray, FloatArray]:
        """The k best by the plan, best first, of what its first stages return.

        Its modes and first stages are among those here, and its depth is no larger than theirs.
        """
        found = {mode: self._within(mode, plan.depth) for mode in plan.first_stages}
        known = np.logical_or.reduce(list(found.values()))
        scores: dict[Mode, FloatArray] = {}
        for mode in plan.modes:
            exact = self.scores[mode]
            if plan.missing != "exact" and mode in found:
                exact = _fill(exact, found[mode], least=plan.missing == "min")
            scores[mode] = exact[known]
        return top_k(self.rows[known], weighted_sum(scores, plan.weights), plan.k)

    def _within(self, mode: Mode, depth: int) -> BoolArray:
        ranks = self.ranks[mode]
        found: BoolArray = (ranks > 0) & (ranks <= depth)
        return found


class QueryScores(NamedTuple):
    """The candidates of one query, with their names."""

    query: str
    documents: list[str]
    """(n,) their ids, in the order of the rows"""
    scored: Scored


def _fill(scores: FloatArray, found: BoolArray, *, least: bool) -> FloatArray:
    """The scores of what a first stage returned, elsewhere 0 or the least of them."""
    fill = scores[found].min() if least and found.any() else 0.0
    return np.where(found, scores, np.float32(fill))


def score_candidates(
    index: Index,
    queries: Encoded,
    stages: Sequence[Mode],
    modes: Sequence[Mode],
    depth: int,
    allowed: BoolArray | None = None,
) -> Iterator[Scored]:
    """The candidates of each query: up to `depth` of each first stage, scored in the modes.

    allowed: (rows,) what may be a candidate; None is all.
    """
    lists = {}
    for mode in stages:
        with stage(f"retrieve {mode}"):
            lists[mode] = index.retrieve(mode, queries, depth, allowed)
    for number in range(len(queries)):
        query, (rows, ranks) = queries[number : number + 1], _unite(lists, number)
        scores = {}
        for mode in modes:
            with stage(f"score {mode}"):
                none = np.zeros(0, np.float32)
                scores[mode] = index.scores(mode, query, rows) if len(rows) else none
        yield Scored(rows, scores, ranks)


def _unite(lists: Mapping[Mode, Hits], query: int) -> tuple[IntArray, dict[Mode, IntArray]]:
    """All rows that a query's lists hold, and where each stands in each list."""
    found = {mode: hits.rows[query][hits.rows[query] >= 0] for mode, hits in lists.items()}
    rows = np.unique(np.concatenate(list(found.values())))
    ranks = {mode: np.zeros(len(rows), np.int64) for mode in found}
    for mode, listed in found.items():
        ranks[mode][np.searchsorted(rows, listed)] = np.arange(1, len(listed) + 1)
    return rows, ranks
