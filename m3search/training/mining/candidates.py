"""Where hard negatives come from: passages for a query, best first, and its positives' scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from m3search.corpus import TITLE_TEMPLATE, document_text
from m3search.errors import ArtifactError
from m3search.fusion import weighted_sum
from m3search.plan import Plan, Weights
from m3search.records import MODES, Document, Encoded, FloatArray, Mode, Query
from m3search.scoring import exact_scores, maxsim, sparse_scores
from m3search.search import EncodedQueries, Searcher
from m3search.training.keys import id_key, text_key

ENCODED_TOGETHER = 32
"""positives that no list holds, encoded at a time: their token vectors stay in memory as long"""


class KeyedText(NamedTuple):
    """A text that can become a negative."""

    text: str
    """title and text, as the index encodes them"""
    key: bytes
    """`text_key` of the text"""
    names: frozenset[bytes]
    """all that it may be known by: the key, the key of the text without its title, its id's key"""
    body: str
    """the text without the title, as a line of training files has it"""
    title: str = ""

    @classmethod
    def of(cls, document: Document, template: str = TITLE_TEMPLATE) -> KeyedText:
        """The passage that a document is."""
        text = document_text(document, template)
        key = text_key(text)
        names = {key, text_key(document.text)} if document.text else {key}
        if document.id:
            names.add(id_key(document.id))
        body, title = (document.text, document.title) if document.text else (text, "")
        return cls(text, key, frozenset(names), body, title)


class Candidate(NamedTuple):
    """A passage that was retrieved for a query."""

    rank: int
    """from 1"""
    score: float
    """of the retrieving mode, or the weighted sum of several; higher is nearer to the query"""
    passage: KeyedText


class Example(NamedTuple):
    """A query, and the positives whose scores are wanted."""

    query: str
    positives: tuple[Document, ...]
    prompt: str = ""
    """what an encoder is to read before the query; no word of the query itself"""


class Found(NamedTuple):
    """What was found for one example."""

    candidates: list[Candidate]
    """best first"""
    positive_scores: list[float]
    """on the candidates' scale, one for each positive; NaN where the source cannot tell"""


class CandidateSource(Protocol):
    """A corpus that can be searched for negatives."""

    def find(self, examples: Sequence[Example], depth: int) -> list[Found]:
        """The `depth` best passages for each query, and the scores of its positives."""

    def draw(self, count: int, rng: np.random.Generator) -> list[KeyedText]:
        """At most `count` different passages of the whole corpus, all as likely."""


class IndexSource:
    """Candidates from an index, in any modes."""

    def __init__(self, searcher: Searcher, modes: Sequence[Mode], weights: Weights = None) -> None:
        """Reads the commit that the searcher's index is at now. ArtifactError if it is empty.

        weights: of several modes, by default and by the rules of `Searcher.search`.
        """
        self._index = searcher.index.pinned()
        if not len(self._index):
            raise ArtifactError(
                f"index {self._index.path}",
                expected="documents to take negatives from",
                found="none",
                remedy="Index a corpus first, or leave the index out.",
            )
        self._searcher = Searcher(self._index, searcher.encoder)
        self._template = self._index.manifest.title_template
        default = self._index.manifest.fusion_weights
        plan = Plan.check(1, 1, modes, weights, "exact", "union", default)
        self._modes, self._weights = plan.modes, plan.weights

    def find(self, examples: Sequence[Example], depth: int) -> list[Found]:
        """The `depth` best passages for each query, and the scores of its positives.

        A positive among the candidates has its score there, as the index stores it. Another one is
        encoded and scored exactly, whether the index holds it or not.
        """
        queries = [
            Query(str(row), example.prompt + example.query) for row, example in enumerate(examples)
        ]
        encoded = self._searcher.encode(queries)
        weights = [self._weights.get(mode, 0.0) for mode in MODES]
        run = self._searcher.run(encoded, depth, modes=self._modes, weights=weights)
        passages = self._read({name for ranked in run.values() for name in ranked})
        lists = [rank_passages(run[query.id], passages) for query in queries]
        scores = self._score_positives(encoded, examples, lists)
        return [Found(*pair) for pair in zip(lists, scores, strict=True)]

    def draw(self, count: int, rng: np.random.Generator) -> list[KeyedText]:
        """At most `count` different passages of the whole index, all as likely."""
        rows = np.unique(rng.integers(self._index.rows, size=count))
        rows = rng.permutation(rows)  # np.unique sorts
        live = rows[self._index.rows_of(self._index.ids(rows)) == rows]
        return [KeyedText.of(document, self._template) for document in self._index.documents(live)]

    def _read(self, ids: Iterable[str]) -> dict[str, KeyedText]:
        names = sorted(ids)
        documents = self._index.documents(self._index.rows_of(names))
        return {document.id: KeyedText.of(document, self._template) for document in documents}

    def _score_positives(
        self,
        queries: EncodedQueries,
        examples: Sequence[Example],
        lists: Sequence[Sequence[Candidate]],
    ) -> list[list[float]]:
        scores = [
            listed_scores(candidates, example.positives)
            for candidates, example in zip(lists, examples, strict=True)
        ]
        places: dict[str, list[tuple[int, int]]] = {}
        for row, example in enumerate(examples):
            for place, positive in enumerate(example.positives):
                if math.isnan(scores[row][place]):
                    text = document_text(positive, self._template)
                    places.setdefault(text, []).append((row, place))
        texts = list(places)
        asked = self._index.with_rarity(queries.encoded)
        for start in range(0, len(texts), ENCODED_TOGETHER):
            some = texts[start : start + ENCODED_TOGETHER]
            encoded = self._index.as_stored(self._searcher.encoder.encode(some, "document"))
            for number, text in enumerate(some):
                for row, place in places[text]:
                    query = asked[row : row + 1]
                    scores[row][place] = self._score(query, encoded[number : number + 1])
        return scores

    def _score(self, query: Encoded, text: Encoded) -> float:
        """The score of one text for one query, as the index would give it."""
        scores: dict[Mode, FloatArray] = {}
        for mode in self._modes:
            if mode == "dense":
                scores[mode] = exact_scores(query.dense[0], text.dense)
            elif mode == "sparse":
                scores[mode] = sparse_scores(query.sparse, text.sparse)[0]
            else:
                scores[mode] = np.array([maxsim(query.multi[0], text.multi[0])], np.float32)
        return float(weighted_sum(scores, self._weights)[0])


def rank_passages(
    ranked: Mapping[str, float], passages: Mapping[str, KeyedText]
) -> list[Candidate]:
    """The candidates of one query from its run, document id -> score, best first."""
    return [
        Candidate(rank, score, passages[name])
        for rank, (name, score) in enumerate(ranked.items(), start=1)
    ]


def listed_scores(candidates: Sequence[Candidate], positives: Sequence[Document]) -> list[float]:
    """The score of each positive among the candidates, at its best rank; NaN where it is not."""
    known = {name: each.score for each in reversed(candidates) for name in each.passage.names}
    found = []
    for positive in positives:
        whole_first = (KeyedText.of(positive).key, text_key(positive.text))
        found.append(next((known[name] for name in whole_first if name in known), math.nan))
    return found
