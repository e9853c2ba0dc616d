"""The candidates of a query: which first stages returned them, and what each mode says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from m3search.fusion import top_k, weighted_sum
from m3search.plan import Plan
from m3search.records import BoolArray, Encoded, FloatArray, Hits, IntArray, Mode
from m3search.timings import stage

if TYPE_CHECKING:
    from m3search.index import Index

PASSAGES_MORE = 4
"""times as many passages as documents are asked for, and again where they are of too few"""


class Reach(NamedTuple):
    """Some of the candidates of a query: those among the first `depth` of any of the stages."""

    stages: tuple[Mode, ...]
    depth: int

    def within(self, ranks: Mapping[Mode, IntArray]) -> BoolArray:
        """(n,) which of the candidates, by their ranks, they are."""
        found = [(ranks[mode] > 0) & (ranks[mode] <= self.depth) for mode in self.stages]
        inside: BoolArray = np.logical_or.reduce(found)
        return inside


@dataclass(frozen=True)
class Scored:
    """The n candidates of one query, each with its exact score in every mode."""

    rows: IntArray
    """(n,) ascending"""
    scores: Mapping[Mode, FloatArray]
    """(n,) by mode; NaN out of the reach of a mode"""
    ranks: Mapping[Mode, IntArray]
    """(n,) by first stage: the place in what it returned, from 1; 0 where it did not return it.
    Of passages it counts the documents that are begun up to there"""
    heads: IntArray | None = None
    """(n,) the row that stands for the document, where rows are passages; it has its best score"""

    def ranked(self, plan: Plan) -> tuple[IntArray, FloatArray]:
        """The k best by the plan, best first, of what its first stages return.

        Its modes and first stages are among those here, its depth is no larger than theirs, and
        its candidates are within the reach of its modes.
        """
        places, scores = self.columns(plan)
        rows, fused = self.rows[places], weighted_sum(scores, plan.weights)
        if self.heads is None:
            return top_k(rows, fused, plan.k)
        rows, fused = top_k(rows, fused, len(rows))
        kept = _first_of_each(self.heads[np.searchsorted(self.rows, rows)])[: plan.k]
        return rows[kept], fused[kept]

    def take(self, kept: BoolArray) -> Scored:
        """Those of the candidates (n,) that are kept; their places stay as they were."""
        return Scored(
            self.rows[kept],
            {mode: scores[kept] for mode, scores in self.scores.items()},
            {mode: ranks[kept] for mode, ranks in self.ranks.items()},
            None if self.heads is None else self.heads[kept],
        )

    def columns(self, plan: Plan) -> tuple[IntArray, dict[Mode, FloatArray]]:
        """What the plan fuses: the places (m,) of the candidates that its first stages return, and
        by mode their scores (m,), with what it takes for missing ones."""
        found = {mode: Reach((mode,), plan.depth).within(self.ranks) for mode in plan.first_stages}
        places = np.flatnonzero(np.logical_or.reduce(list(found.values())))
        scores: dict[Mode, FloatArray] = {}
        for mode in plan.modes:
            exact = self.scores[mode]
            if plan.missing != "exact" and mode in found:
                exact = _fill(exact, found[mode], least=plan.missing == "min")
            scores[mode] = exact[places]
        return places, scores


class QueryScores(NamedTuple):
    """The candidates of one query, with their names."""

    query: str
    documents: list[str]
    """(n,) their ids, in the order of the rows"""
    scored: Scored

    def without(self, document: str) -> QueryScores:
        """The same without the candidates of a document."""
        kept = np.array([name != document for name in self.documents], dtype=bool)
        if kept.all():
            return self
        names = [name for name in self.documents if name != document]
        return self._replace(documents=names, scored=self.scored.take(kept))


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
    reach: Mapping[Mode, Reach] = MappingProxyType({}),
) -> Iterator[Scored]:
    """The candidates of each query: `depth` documents of each first stage, scored in the modes.

    Of an index of passages they are all passages that stand before those of one document more.

    allowed: (rows,) what may be a candidate; None is all. reach: of a mode that scores some of the
    candidates alone, which.
    """
    lists = {}
    for mode in stages:
        with stage(f"retrieve {mode}"):
            lists[mode] = _retrieve(index, mode, queries, depth, allowed)
    for number in range(len(queries)):
        query, (rows, ranks) = queries[number : number + 1], _unite(index, lists, number)
        scores = {}
        for mode in modes:
            scores[mode] = np.full(len(rows), np.nan, np.float32)
            asked = reach[mode].within(ranks) if mode in reach else np.ones(len(rows), bool)
            with stage(f"score {mode}"):
                if asked.any():
                    scores[mode][asked] = index.scores(mode, query, rows[asked])
        yield Scored(rows, scores, ranks, index.heads(rows) if index.has_passages else None)


def retrieve_documents(
    index: Index, mode: Mode, queries: Encoded, k: int, allowed: BoolArray | None = None
) -> Hits:
    """The k best documents of each query in one mode; of passages, the row of each one's best."""
    found = _retrieve(index, mode, queries, k, allowed)
    if not index.has_passages:
        return found
    lines = []
    for rows, scores in zip(found.rows, found.scores, strict=True):
        kept = _first_of_each(index.heads(rows[rows >= 0]))
        lines.append((rows[kept], scores[kept]))
    return Hits.stack(lines, k)


def _retrieve(
    index: Index, mode: Mode, queries: Encoded, k: int, allowed: BoolArray | None
) -> Hits:
    """The rows of the k best documents of each query: of passages all that stand before those of
    one document more."""
    if not index.has_passages:
        return index.retrieve(mode, queries, k, allowed)
    asked = min(PASSAGES_MORE * k, index.rows)
    found = index.retrieve(mode, queries, asked, allowed)
    lines = []
    for number, line in enumerate(zip(found.rows, found.scores, strict=True)):
        passages = _before_next(index, *line, k)
        most = asked
        while passages is None and most < index.rows:
            most = min(PASSAGES_MORE * most, index.rows)
            more = index.retrieve(mode, queries[number : number + 1], most, allowed)
            passages = _before_next(index, more.rows[0], more.scores[0], k)
            line = (more.rows[0], more.scores[0])
        lines.append(line if passages is None else passages)
    return Hits.stack(lines, max((len(rows) for rows, _ in lines), default=0))


def _before_next(
    index: Index, rows: IntArray, scores: FloatArray, k: int
) -> tuple[IntArray, FloatArray] | None:
    """Of a list (rows, scores) what stands before document k + 1; None where it may not end there,
    as the list is full and has no more than k."""
    there = rows >= 0
    firsts = _first_of_each(index.heads(rows[there]))
    if len(firsts) <= k:
        return None if there.all() else (rows[there], scores[there])
    return rows[: firsts[k]], scores[: firsts[k]]


def _first_of_each(values: IntArray) -> IntArray:
    """The places, ascending, at which a value comes for the first time."""
    return np.sort(np.unique(values, return_index=True)[1])


def _unite(
    index: Index, lists: Mapping[Mode, Hits], query: int
) -> tuple[IntArray, dict[Mode, IntArray]]:
    """All rows that a query's lists hold, and where each stands in each list."""
    found = {mode: hits.rows[query][hits.rows[query] >= 0] for mode, hits in lists.items()}
    rows = np.unique(np.concatenate(list(found.values())))
    ranks = {mode: np.zeros(len(rows), np.int64) for mode in found}
    for mode, listed in found.items():
        places = np.arange(len(listed))
        if index.has_passages:
            _, firsts, numbers = np.unique(
                index.heads(listed), return_index=True, return_inverse=True
            )
            places = np.maximum.accumulate(np.argsort(np.argsort(firsts))[numbers])
        ranks[mode][np.searchsorted(rows, listed)] = places + 1
    return rows, ranks
