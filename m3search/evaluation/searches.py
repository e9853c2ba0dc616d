"""The search of a set: the component scores of its queries, made or taken from the cache.

    searches/<key>        what a report says of the index, the queries and the times; then the
                          component scores

The key is that of the queries and of what is searched for them. Neither weights nor measures
belong to it, so other ones need no search.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3search.evaluation.cache import Cache
from m3search.evaluation.checked import Tell, read_checked, write_checked
from m3search.evaluation.collection import Collection
from m3search.evaluation.components import ComponentScores, Origin, collect
from m3search.evaluation.engine import Engine, Prepared, Progress, prepare
from m3search.evaluation.keys import index_key, search_key
from m3search.evaluation.latency import Stages, measure_stages, sample_queries
from m3search.evaluation.score_files import unpack_scores
from m3search.evaluation.shared_texts import SharedTexts
from m3search.evaluation.suite import EvaluationSet
from m3search.model.machine import machine
from m3search.plan import Plan
from m3search.search import EncodedQueries

if TYPE_CHECKING:
    from m3search.encoder import Encoder

FOLDER = "searches"
KEY_DIGITS = 16


@dataclass(frozen=True)
class Search:
    """What a set's queries found, and what that took."""

    scores: ComponentScores
    seconds: dict[str, float]
    """of the index, the queries and the candidates, when each was made"""
    stages: Stages
    """of single queries; empty where they were not timed"""
    timed: str
    """when the search was made; ISO 8601"""
    machine: dict[str, Any]
    """that it was made on"""
    bytes: dict[str, int]
    """of the index, by store"""
    truncated: dict[str, int]
    """how many documents and queries are longer than what the model reads"""
    shared: int
    """documents that were not encoded for its index, as another set of an evaluation had them"""
    index_reused: bool | None = None
    """whether an earlier evaluation made the index; None where it made the whole search"""
    queries_reused: bool | None = None
    """whether it encoded the queries; None as above"""
    reused: bool = False
    """whether it made the whole search: neither index nor encoded queries are looked at then"""


@dataclass(frozen=True)
class SetSearch:
    """A set that is to be searched for some plans."""

    wanted: EvaluationSet
    collection: Collection
    encoder: Encoder
    texts: SharedTexts
    plans: Sequence[Plan]
    report: Progress
    latencies: bool
    """whether some of the queries are also asked alone, to tell how long each stage takes"""

    def run(self, engine: Engine, cache: Cache, *, keep: bool) -> Search:
        """The search, unless the cache has it; keep: it is put there."""
        index = index_key(self.collection.corpus, self.wanted.layout, self.encoder)
        model = asdict(self.encoder.identity)
        key = search_key(index, model, self.collection.queries, self.plans, self.wanted.exact)
        with cache.entry(index, self.wanted.name) as folder:
            file = folder / FOLDER / key[:KEY_DIGITS]
            kept = read_search(file, cache.report)
            if kept is not None and (kept.stages or not self.latencies):
                return replace(kept, reused=file not in cache.made)
            made = self._make(
                prepare(
                    engine,
                    folder,
                    index,
                    self.wanted.layout,
                    self.collection,
                    self.encoder,
                    self.texts,
                    self.report,
                    cache.report,
                    self.latencies,
                )
            )
            if keep:
                write_search(file, made)
            if folder in cache.made:
                made = replace(made, index_reused=False, queries_reused=False)
            cache.made.update([file] if made.index_reused else [file, folder])
        return made

    def _make(self, found: Prepared) -> Search:
        built, asked = found.built, self.collection.queries
        built.index.exact = self.wanted.exact
        queries = EncodedQueries(tuple(query.id for query in asked), found.queries.encoded)
        timed, started = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        scores = collect(
            found.searcher,
            queries,
            self.plans,
            Origin.of(self.wanted, self.collection, self.encoder, built.index),
            lambda done: self.report("scoring", done, len(asked)),
        )
        seconds = {} if built.seconds is None else {"index": built.seconds}
        seconds["encode queries"] = found.queries.seconds
        seconds["candidates"] = time.perf_counter() - started
        return Search(
            scores,
            seconds,
            self._time_alone(found, queries) if self.latencies else {},
            timed,
            machine(),
            built.index.bytes_by_store(),
            {
                "documents": built.index.manifest.truncated,
                "queries": int(queries.encoded.truncated.sum()),
            },
            built.shared,
            built.reused,
            found.queries.reused,
        )

    def _time_alone(self, found: Prepared, queries: EncodedQueries) -> Stages:
        sample = [query.id for query in sample_queries(self.collection.queries)]
        return measure_stages(
            found.searcher,
            queries,
            sample,
            found.queries.alone,
            self.plans,
            lambda done: self.report("timing", done, len(sample)),
        )


def read_search(file: Path, tell: Tell) -> Search | None:
    """The one in a file; None where it is not there, or damaged."""
    found = read_checked(file, tell)
    if found is None:
        return None
    note, content = found
    scores = unpack_scores(content, str(file))
    return Search(scores, **note, reused=True)


def write_search(file: Path, search: Search) -> None:
    """Puts it into a file, which is there whole or not at all."""
    names = ("seconds", "stages", "timed", "machine", "bytes", "truncated", "shared")
    note: dict[str, Any] = {name: getattr(search, name) for name in names}
    write_checked(file, note, search.scores.packed)
