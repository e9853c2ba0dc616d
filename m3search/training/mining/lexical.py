"""Candidates by BM25, as the evaluation's baselines retrieve them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np

from m3search.errors import ConfigError
from m3search.evaluation.baselines import Implementation, make_bm25
from m3search.evaluation.bm25 import Language
from m3search.evaluation.collection import SAMPLE_CHARACTERS, Sample
from m3search.evaluation.languages import guess_language
from m3search.records import Document, Query
from m3search.training.mining.candidates import (
    Candidate,
    Example,
    Found,
    KeyedText,
    listed_scores,
    rank_passages,
)


class LexicalSource:
    """Candidates by BM25, over passages in memory."""

    def __init__(
        self, passages: dict[str, KeyedText], implementation: Implementation = "bm25s"
    ) -> None:
        """By document id. ConfigError if there are none, or without what Lucene needs."""
        if not passages:
            raise ConfigError(
                "candidates",
                expected="documents to take negatives from",
                found="none",
                remedy="Give a corpus or an index with documents.",
            )
        sample = Sample()
        for passage in passages.values():
            sample.add(passage.text[:SAMPLE_CHARACTERS])
        language = Language.known_or_guessed(None, guess_language(sample.texts))
        documents = (Document(name, passage.text) for name, passage in passages.items())
        self._bm25 = make_bm25(implementation, documents, language)
        self._passages = passages
        self._ids = list(passages)
        self._names = frozenset(chain.from_iterable(each.names for each in passages.values()))

    def find(self, examples: Sequence[Example], depth: int) -> list[Found]:
        """The `depth` best passages for each query, and the scores of its positives.

        A positive that the corpus has not got has no score: NaN.
        """

        queries = [Query(str(row), example.query) for row, example in enumerate(examples)]
        run = self._bm25.run(queries, depth)
        found = []
        for query, example in zip(queries, examples, strict=True):
            candidates = rank_passages(run[query.id], self._passages)
            found.append(Found(candidates, self._positive_scores(candidates, example, depth)))
        return found

    def draw(self, count: int, rng: np.random.Generator) -> list[KeyedText]:
        """At most `count` different passages of the whole corpus, all as likely."""
        size = min(count, len(self._ids))
        rows = rng.choice(len(self._ids), size=size, replace=False).tolist()
        return [self._passages[self._ids[row]] for row in rows]

    def _positive_scores(
        self, candidates: list[Candidate], example: Example, depth: int
    ) -> list[float]:
        """Scores as listed. Of a passage below a full list it is known only that it scores no more
        than the last one there, and that is taken; below a list that is not full, it scores 0."""

        below = candidates[-1].score if len(candidates) == depth else 0.0
        scores = listed_scores(candidates, example.positives)
        return [
            below if math.isnan(score) and KeyedText.of(positive).names & self._names else score
            for score, positive in zip(scores, example.positives, strict=True)
        ]
