"""The query pipeline: encode, retrieve in each mode, unite, score exactly, weigh.

The pipeline asks an index only for the candidates of a query in a mode and for the exact scores
of given rows in a mode. It knows neither how vectors are stored nor how they were made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from m3search.candidates import QueryScores, Reach, retrieve_documents, score_candidates
from m3search.errors import ConfigError
from m3search.explain import Explanation, explain_hit
from m3search.origin import check_identity, load_encoder
from m3search.plan import Plan, Weights
from m3search.records import (
    MODES,
    BoolArray,
    Candidates,
    Encoded,
    FloatArray,
    Hit,
    Hits,
    IntArray,
    Missing,
    Mode,
    Passage,
    Query,
    Run,
)
from m3search.snippet import Snippet, cut_snippet, term_spans
from m3search.stores.filter import Filter
from m3search.timings import WEIGH, stage

if TYPE_CHECKING:
    from m3search.encoder import Encoder
    from m3search.index import Index
    from m3search.stores.manifest import Manifest

MARKED_WEIGHT = 0.4
"""of the heaviest term's weight in the query: what a word must weigh to be marked in a snippet"""
BATCH = 256
"""queries retrieved together: the candidate lists of one batch are held at a time"""


@dataclass(frozen=True)
class EncodedQueries:
    """Queries encoded once, to be run in as many ways as wanted."""

    ids: tuple[str, ...]
    encoded: Encoded

    def __len__(self) -> int:
        return len(self.ids)

    def one(self, name: str) -> EncodedQueries:
        """The query of an id, alone; ValueError where there is none."""
        place = self.ids.index(name)
        return EncodedQueries((name,), self.encoded[place : place + 1])


class Searcher:
    """Answers queries over an index; any number of threads may share it.

    Each call sees one commit of the index, the newest that `index` itself has. To follow a writer
    in another process, set `searcher.index = searcher.index.refresh()`.
    """

    def __init__(self, index: Index, encoder: Encoder | None = None) -> None:
        """With no encoder, the one that made the index is loaded at the first query."""
        self.index = index
        self._encoder = encoder
        self._lock = threading.Lock()
        self._latest: tuple[str, Encoded] | None = None
        self._latest_asked: tuple[tuple[Manifest, str, str | Filter | None], Encoded] | None = None
        if encoder is not None:
            check_identity(encoder.identity, index.manifest.model)

    @property
    def encoder(self) -> Encoder:
        """The encoder that made the index, loaded at the first use."""
        with self._lock:
            if self._encoder is None:
                with stage("load model"):
                    self._encoder = load_encoder(self.index.manifest.model)
            return self._encoder

    @property
    def _weights(self) -> tuple[float, float, float]:
        """Where a search names none."""
        return self.index.manifest.fusion_weights

    def _pin(self) -> Index:
        """The commit that a call sees, from its candidates to their texts; ArtifactError where
        `index` is meanwhile one that another model made."""
        index = self.index.pinned()
        if self._encoder is not None:
            check_identity(self._encoder.identity, index.manifest.model)
        return index

    def _require(self, modes: Sequence[Mode]) -> None:
        """ArtifactError where the encoder given lacks a mode; one that is found here has all."""
        if self._encoder is not None:
            self._encoder.require(modes)

    @stage("search")
    def search(
        self,
        text: str,
        k: int = 10,
        *,
        weights: Weights = None,
        depth: int = 200,
        modes: Sequence[str] = MODES,
        filter: str | Filter | None = None,  # noqa: A002
        missing: Missing = "exact",
        candidates: Candidates = "union",
    ) -> list[Hit]:
        """The k best documents, each with its exact score in all three modes.

        `score` is w1*dense + w2*sparse + w3*multi over the modes asked, or the raw score where
        one mode is asked. Order is score descending, then row ascending. `weights` are
        (w1, w2, w3) or a mapping by mode; by default those of the index's model. `depth` documents
        come from each first stage, never fewer than k. Of an index of passages a document has the
        score of its best one among these. `filter` is a condition on metadata, as
        'lang=de'.
        """
        if not isinstance(text, str):
            raise ConfigError(
                "search",
                expected="one text",
                found=type(text).__name__,
                remedy="For several queries: run([Query(id, text), ...]).",
            )
        plan = Plan.check(k, depth, modes, weights, missing, candidates, self._weights)
        self._require(MODES)  # a hit has its score in each
        index = self._pin()
        allowed = _allowed(index, filter)
        if not len(index):
            return []
        encoded = self.encode_query(text)
        asked = _with_rarity(index, encoded, MODES, allowed)
        self._latest_asked = ((index.manifest, text, filter), asked)
        found = rank(index, asked, plan.clip(len(index)), allowed)
        kept = found.rows[0] >= 0
        return _to_hits(index, asked, plan, found.rows[0][kept], found.scores[0][kept])

    def run(
        self,
        queries: Iterable[Query] | EncodedQueries,
        k: int = 100,
        *,
        weights: Weights = None,
        depth: int = 200,
        modes: Sequence[str] = MODES,
        filter: str | Filter | None = None,  # noqa: A002
        missing: Missing = "exact",
        candidates: Candidates = "union",
        progress: Callable[[int], None] | None = None,
    ) -> Run:
        """The k best documents of every query, as query id -> document id -> score.

        Takes queries or what `encode` made of them. A query without hits has an empty entry.
        `progress` is called with the number of queries done since its last call.
        """
        plan = Plan.check(k, depth, modes, weights, missing, candidates, self._weights)
        self._require(plan.modes)
        index = self._pin()
        allowed = _allowed(index, filter)
        encoded = queries if isinstance(queries, EncodedQueries) else self.encode(queries)
        asked = _with_rarity(index, encoded.encoded, (*plan.modes, *plan.first_stages), allowed)
        run: Run = {}
        for start in range(0, len(encoded), BATCH):
            ids = encoded.ids[start : start + BATCH]
            if len(index):
                batch = asked[start : start + BATCH]
                found = rank(index, batch, plan.clip(len(index)), allowed)
                run.update(_to_run(index, ids, found))
            else:
                run.update((query_id, {}) for query_id in ids)
            if progress is not None:
                progress(len(ids))
        return run

    def candidates(
        self,
        queries: EncodedQueries,
        *,
        stages: Sequence[Mode] = ("dense", "sparse"),
        modes: Sequence[Mode] = MODES,
        depth: int = 200,
        reach: Mapping[Mode, Reach] = MappingProxyType({}),
    ) -> Iterator[QueryScores]:
        """The candidates of every query, with their exact scores in each mode.

        Any plan whose stages, modes and depth are within these can be ranked from them, as `run`
        would: see `Scored.ranked`. `reach` says which candidates a mode scores where it is not all.
        """
        self._require([*modes, *stages])
        index = self._pin()
        asked = _with_rarity(index, queries.encoded, (*modes, *stages))
        for start in range(0, len(queries), BATCH):
            ids, batch = queries.ids[start : start + BATCH], asked[start : start + BATCH]
            most = min(depth, len(index))
            found = score_candidates(index, batch, stages, modes, most, reach=reach)
            for query, scored in zip(ids, found, strict=True):
                yield QueryScores(query, index.ids(scored.rows), scored)

    def encode(
        self, queries: Iterable[Query], progress: Callable[[int], None] | None = None
    ) -> EncodedQueries:
        """All queries encoded, for several calls of `run`. Two queries must not share an id."""
        ids, texts, seen = [], [], set()
        for query in queries:
            if query.id in seen:
                raise ConfigError(
                    "queries",
                    expected="ids that differ",
                    found=f"the id {query.id!r} twice",
                    remedy="Give every query an id of its own.",
                )
            seen.add(query.id)
            ids.append(query.id)
            texts.append(query.text)
        encoder = self.encoder
        with stage("encode"):
            return EncodedQueries(tuple(ids), encoder.encode(texts, "query", progress=progress))

    def encode_query(self, text: str) -> Encoded:
        """One query encoded; the latest is kept, so explaining its hits encodes nothing anew."""
        latest = self._latest
        if latest is None or latest[0] != text:
            encoder = self.encoder
            with stage("encode"):
                latest = self._latest = (text, encoder.encode([text], "query"))
        return latest[1]

    def explain(
        self,
        text: str,
        hit: Hit,
        filter: str | Filter | None = None,  # noqa: A002
    ) -> Explanation:
        """Why `hit` answers `text`: the matched terms, and each query token's best match.

        filter: that of the search, as rarity is among what it lets through. Where the index has
        changed since, weights are those of now.
        """
        index = self._pin()
        query = self._asked(index, text, filter)
        return explain_hit(index, self.encoder, text, query, hit)

    def _asked(self, index: Index, text: str, condition: str | Filter | None) -> Encoded:
        """What the index is asked with for a text; a search keeps it for all of its hits."""
        of = (index.manifest, text, condition)
        latest = self._latest_asked
        if latest is None or latest[0] != of:
            allowed = _allowed(index, condition)
            latest = self._latest_asked = (
                of,
                _with_rarity(index, self.encode_query(text), MODES, allowed),
            )
        return latest[1]

    def snippet(
        self,
        text: str,
        hit: Hit,
        width: int = 240,
        filter: str | Filter | None = None,  # noqa: A002
    ) -> Snippet:
        """About `width` characters of the hit's text around the terms that matched `text`.

        Words that weigh little in the query, such as articles, are not marked. filter: that of the
        search, as of `explain`.
        """
        terms = self._asked(self._pin(), text, filter).sparse
        asked = dict(zip(terms.indices.tolist(), terms.data.tolist(), strict=True))
        least = MARKED_WEIGHT * max(asked.values(), default=0.0)
        body = hit.text
        tokens = self.encoder.tokens(body, "document")
        weights = self.encoder.token_weights(tokens, asked)
        return cut_snippet(body, term_spans(body, tokens, weights, least), width)


def rank(index: Index, queries: Encoded, plan: Plan, allowed: BoolArray | None = None) -> Hits:
    """The k best rows of every query by the plan; (n_queries, k), padded with -1."""
    if plan.retrieves_only:
        with stage(f"retrieve {plan.modes[0]}"):
            return retrieve_documents(index, plan.modes[0], queries, plan.k, allowed)
    scored = score_candidates(index, queries, plan.first_stages, plan.modes, plan.depth, allowed)
    return Hits.stack((each.ranked(plan) for each in scored), plan.k)


def _to_hits(
    index: Index, query: Encoded, plan: Plan, rows: IntArray, fused: FloatArray
) -> list[Hit]:
    """Hits in the order of `rows`, with the exact scores of all three modes."""
    if not len(rows):
        return []
    with stage("read documents"):
        documents, passages = index.documents(rows), _passages(index, rows)
    exact = {mode: index.scores(mode, query, rows).tolist() for mode in MODES}
    if plan.retrieves_only:  # one number for one thing, to the last digit
        exact[plan.modes[0]] = fused.tolist()
    return [
        Hit(i + 1, score, documents[i], {mode: exact[mode][i] for mode in MODES}, passages[i])
        for i, score in enumerate(fused.tolist())
    ]


def _passages(index: Index, rows: IntArray) -> Sequence[Passage | None]:
    if not index.has_passages:
        return [None] * len(rows)
    numbers, spans = (rows - index.heads(rows)).tolist(), index.spans(rows).tolist()
    return [Passage(number, *span) for number, span in zip(numbers, spans, strict=True)]


def _to_run(index: Index, ids: Sequence[str], found: Hits) -> Run:
    rows = np.unique(found.rows[found.rows >= 0])
    names = dict(zip(rows.tolist(), index.ids(rows), strict=True))
    return {
        query_id: {names[row]: score for row, score in zip(line, scores, strict=True) if row >= 0}
        for query_id, line, scores in zip(
            ids, found.rows.tolist(), found.scores.tolist(), strict=True
        )
    }


def _with_rarity(
    index: Index, queries: Encoded, modes: Sequence[Mode], allowed: BoolArray | None = None
) -> Encoded:
    """What the index is asked with for the queries in these modes."""
    if "sparse" not in modes or not index.manifest.model.idf:
        return queries
    with stage(WEIGH):
        return index.with_rarity(queries, allowed)


def _allowed(index: Index, condition: str | Filter | None) -> BoolArray | None:
    if not (condition is None or isinstance(condition, str | Filter)):
        raise ConfigError(
            "filter",
            expected="a condition as text, or a Filter",
            found=type(condition).__name__,
            remedy="Write it as in 'lang=de,year>=2000'.",
        )
    if condition is None:
        return None
    with stage("filter"):
        return index.select(Filter.parse(condition) if isinstance(condition, str) else condition)
