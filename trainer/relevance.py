"""How relevant the positives of pairs are to their queries, by a model's own scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from m3search.fusion import weighted_sum
from m3search.records import DEFAULT_WEIGHTS, MODES, Encoded, FloatArray, IntArray, Kind, Mode
from m3search.scoring import dense_scores, exact_scores, maxsim, maxsim_many, sparse_scores

Scoring = Literal["dense", "all"]
"""the dense mode alone, or the weighted sum of all three (arXiv 2402.03216v4, section 4.1)"""
_WEIGHTS = dict(zip(MODES, DEFAULT_WEIGHTS, strict=True))


class TextEncoder(Protocol):
    """An encoder, as far as this module knows one."""

    def encode(self, texts: Sequence[str], kind: Kind = "document") -> Encoded:
        """All texts, in their order."""


class Relevance(NamedTuple):
    """How relevant the positives of some pairs are."""

    scores: FloatArray
    """(pairs,) of the positive that scores lowest; higher is better"""
    ranks: IntArray
    """(pairs,) 1 + the texts of the sample that score above it; 1 without a sample"""


class Judge:
    """An encoder that scores pairs, and places them among a sample of passages."""

    def __init__(self, encoder: TextEncoder, mode: Scoring, sample: Sequence[str] = ()) -> None:
        self._encoder, self._mode = encoder, mode
        self._rows = {text: row for row, text in enumerate(dict.fromkeys(sample))}
        self._sample = encoder.encode(list(self._rows), "document") if self._rows else None
        if self._sample is not None:
            self._offsets = np.cumsum([0, *map(len, self._sample.multi)])
            self._vectors = np.concatenate(self._sample.multi)

    def judge(self, queries: Sequence[str], positives: Sequence[Sequence[str]]) -> Relevance:
        """The relevance of each pair, every one with at least one positive."""
        asked = self._encoder.encode(list(queries), "query")
        rows = {
            text: row for row, text in enumerate(dict.fromkeys(t for p in positives for t in p))
        }
        found = self._encoder.encode(list(rows), "document")
        scores = np.zeros(len(queries), np.float32)
        ranks = np.ones(len(queries), np.int64)
        for row, own in enumerate(positives):
            query = asked[row : row + 1]
            places = [rows[text] for text in own]
            scores[row] = min(self._score(query, found[each : each + 1]) for each in places)
            if self._sample is not None:
                others = self._sample_scores(query)
                others[[self._rows[text] for text in own if text in self._rows]] = -np.inf
                ranks[row] += int((others > scores[row]).sum())
        return Relevance(scores, ranks)

    def _score(self, query: Encoded, text: Encoded) -> float:
        dense = exact_scores(query.dense[0], text.dense)
        if self._mode == "dense":
            return float(dense[0])
        scores: dict[Mode, FloatArray] = {
            "dense": dense,
            "sparse": sparse_scores(query.sparse, text.sparse)[0],
            "multi": np.array([maxsim(query.multi[0], text.multi[0])], np.float32),
        }
        return float(weighted_sum(scores, _WEIGHTS)[0])

    def _sample_scores(self, query: Encoded) -> FloatArray:
        """(sample,) the scores of the sample for one query."""
        assert self._sample is not None
        dense: FloatArray = dense_scores(query.dense, self._sample.dense)[0]
        if self._mode == "dense":
            return dense
        scores: dict[Mode, FloatArray] = {
            "dense": dense,
            "sparse": sparse_scores(query.sparse, self._sample.sparse)[0],
            "multi": maxsim_many(query.multi[0], self._vectors, self._offsets),
        }
        return weighted_sum(scores, _WEIGHTS)
