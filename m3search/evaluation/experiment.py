"""Sets x rows: every set indexed and searched once, and a run for every row."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3search.corpus import read_run
from m3search.evaluation.baseline_runs import BaselineSearch, BM25Indexes
from m3search.evaluation.baselines import check_implementation
from m3search.evaluation.bm25 import Language
from m3search.evaluation.cache import Cache
from m3search.evaluation.collection import Collection, check_run, check_set, load_collection
from m3search.evaluation.components import ComponentScores, cut, without_same_ids
from m3search.evaluation.depths import asked_for, retrieved
from m3search.evaluation.engine import Engine, Progress
from m3search.evaluation.languages import checked_language
from m3search.evaluation.latency import Stages
from m3search.evaluation.lexical import ceil_weights
from m3search.evaluation.measures import evaluate
from m3search.evaluation.results import Experiment, SetResult
from m3search.evaluation.score_files import read_scores, scores_file
from m3search.evaluation.searches import SetSearch
from m3search.evaluation.shared_texts import SharedTexts
from m3search.evaluation.suite import BASELINES, EvaluationSet, modes_of
from m3search.evaluation.versions import versions_in_use
from m3search.lines import check_file
from m3search.model.machine import machine
from m3search.records import Qrels, Run
from m3search.stores.files import checksum

if TYPE_CHECKING:
    from m3search.encoder import Encoder

Encoders = Callable[[int | None], "Encoder"]
"""a maximum length, None for the model's own -> the encoder"""
Runs = dict[str, Run]
Keep = Callable[[SetResult, Runs, Qrels, ComponentScores | None], None]
"""called with a set's result, its runs, its judgements, and the scores that the runs are from"""


def evaluate_sets(
    sets: Sequence[EvaluationSet],
    encoders: Encoders,
    *,
    cache: Cache | None = None,
    scores: str | Path | None = None,
    keep: Keep | None = None,
    progress: Progress | None = None,
    provenance: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    latencies: bool = False,
) -> Experiment:
    """Every row of every set, measured.

    `encoders` makes the encoder for a maximum length; it is not called where only BM25 is asked.
    Indexes, encoded queries, component scores and runs of BM25 stay in `cache` and are used again
    while all that decides them is the same; without it they go with the call. `scores` is a folder
    of component scores from which rows are made in place of a search. `keep` gets each set's
    result, runs, judgements and component scores as soon as they are made: those of many sets are
    too large to hold. With `latencies` a sample of the queries is asked once more, one at a time,
    to tell how long each stage takes.
    """
    report = progress or (lambda *_: None)
    for each in sets:  # what is wrong is told now, not after hours on the sets before it
        _check(each, None if scores is None else Path(scores))
    collections = [_load(each, report, len(sets)) for each in sets]
    results = []
    with (
        _kept_or_temporary(cache) as place,
        closing(SharedTexts(_encoded(sets, collections), place.folder)) as texts,
    ):
        common = _Common(
            lru_cache(maxsize=1)(encoders), texts, BM25Indexes(), place, engine, report,
            latencies=latencies, keeps=cache is not None,
        )  # fmt: skip
        following = [*(other.corpus for other in collections[1:]), None]
        for each, collection, next_corpus in zip(sets, collections, following, strict=True):
            bench = _Bench(each, collection, common)
            result = bench.measure(None if scores is None else Path(scores))
            if keep is not None:
                keep(result, bench.runs, bench.qrels, bench.scores)
            results.append(result)
            if next_corpus is None or not next_corpus.samefile(collection.corpus):
                common.baselines.forget()
    return Experiment(tuple(results), versions_in_use() | dict(provenance or {}))


def _check(wanted: EvaluationSet, scores: Path | None) -> None:
    """An error where what a set needs is not there, or a row cannot be searched."""
    check_set(wanted)
    wanted.plans(asked_for(wanted))
    for path in wanted.run_paths().values():
        check_file(path, inside="run.trec")
    if scores is not None and any(map(modes_of, wanted.rows)):
        check_file(scores_file(scores, wanted.name), inside="scores.jsonl.gz")
    for row in baselines_of(wanted):
        check_implementation(wanted.implementation(row), "bm25" if row == "bm25" else "rows")
        if wanted.language is not None:
            checked_language(wanted.language, f"language of the set {wanted.name}")


def baselines_of(wanted: EvaluationSet) -> list[str]:
    """The rows of a set that are a BM25."""
    return [row for row in wanted.rows if row in BASELINES]


def _load(wanted: EvaluationSet, progress: Progress, sets: int) -> Collection:
    """The set's files and other systems' runs of it, read and checked against each other."""
    collection = load_collection(wanted)
    for path in wanted.run_paths().values():
        check_run(path, read_run(path), wanted.name, collection.qrels, collection.read)
    progress("reading the sets", 1, sets)
    return collection


@dataclass(frozen=True)
class _Common:
    """What the sets of an evaluation have in common."""

    encoders: Encoders
    texts: SharedTexts
    baselines: BM25Indexes
    cache: Cache
    engine: Engine | None
    progress: Progress
    latencies: bool
    keeps: bool
    """whether what is made stays in the cache"""


class _Bench:
    """One set at work: its runs, and the time and space they took."""

    def __init__(self, wanted: EvaluationSet, collection: Collection, common: _Common) -> None:
        self.wanted, self._collection, self._common = wanted, collection, common
        self.runs: Runs = {}
        self.qrels: Qrels = {}
        self.scores: ComponentScores | None = None
        self._seconds: dict[str, float] = {}
        self._stages: Stages = {}
        self._timed: dict[str, str] = {}
        self._details: dict[str, Any] = {}
        self._foreign: dict[str, str] = {}
        self._plans = wanted.plans(asked_for(wanted))

    def measure(self, scores: Path | None) -> SetResult:
        """The set's rows, run and evaluated; scores: a folder of component scores to start from."""
        wanted, collection = self.wanted, self._collection
        if self._plans:
            if scores is None:
                self.scores = self._search(collection)
            else:
                file = scores_file(scores, wanted.name)
                self.scores = read_scores(file, wanted, collection)
                self._details["scores"] = str(file)
            counted = self.scores.without_same_ids() if wanted.drop_same_id else self.scores
            self._run_modes(counted, self._details.get("scores", wanted.name))
        for row in baselines_of(wanted):
            self._run_baseline(row, collection)
        if wanted.run_files:
            self.runs |= {row: self._read_run(path) for row, path in wanted.run_paths().items()}
            self._details["run_files"] = dict(wanted.run_files)
            paths = wanted.run_paths().items()
            self._foreign = {f"run {row}": checksum(path) for row, path in paths}
        self._fuse_and_cut()
        if wanted.published:
            self._details["published"] = wanted.published
        index = {} if self.scores is None else {"index": self.scores.origin.index}
        details = {
            "counts": collection.counts(),
            "fingerprints": collection.fingerprints() | index | self._foreign,
            "settings": self._settings(),
            "seconds": {name: round(spent, 3) for name, spent in self._seconds.items()},
        }
        if self._stages:
            details |= {"stages_ms": self._stages, "timed": self._timed}
        self.qrels = collection.judge(self.runs.values())
        report = evaluate(self.runs, self.qrels, wanted.measures)
        return SetResult(wanted.name, report, details | self._details, wanted.group)

    def _settings(self) -> dict[str, Any]:
        """What the runs were made with, defaults included; JSON-ready."""
        wanted, k = self.wanted, retrieved(self.wanted)
        model = self._details.get("model")
        return {
            "split": wanted.split,
            "k": k,
            "depth": max(wanted.depth, asked_for(wanted)) if self._plans else wanted.depth,
            "weights": {row: dict(plan.weights) for row, plan in self._plans.items()},
            "missing": wanted.missing,
            "candidates": wanted.candidates,
            "row_settings": {
                row: own.to_json() for row in self._plans if (own := wanted.settings_of(row))
            },
            "lexical_weights": wanted.lexical_weights,
            "multi_codec": wanted.multi_codec,
            "exact": wanted.exact,
            "drop_same_id": wanted.drop_same_id,
            "title_template": wanted.title_template,
            "max_length": model["max_length"] if model else wanted.max_length,
        }

    def _run_modes(self, scores: ComponentScores, where: str) -> None:
        """Every row of the modes from the scores of each."""
        origin = scores.origin
        self._details |= {"model": dict(origin.model), "precision": origin.precision}
        most = retrieved(self.wanted)
        self._plans = self.wanted.plans(asked_for(self.wanted), scores.fusion_weights)
        for row, plan in self._plans.items():
            scores.check(row, plan, where)
            k = max(most, plan.depth) if row in self._parts else most
            self.runs[row] = scores.run(replace(plan, k=k))

    def _search(self, collection: Collection) -> ComponentScores:
        encoder = self._common.encoders(self.wanted.max_length)
        if self.wanted.lexical_weights == "ceil100":
            encoder = ceil_weights(encoder)
        search = SetSearch(
            self.wanted,
            collection,
            encoder,
            self._common.texts,
            tuple(self._plans.values()),
            self._report,
            self._common.latencies,
        )
        found = search.run(
            self._common.engine or Engine.default(), self._common.cache, keep=self._common.keeps
        )
        self._seconds |= found.seconds
        self._stages |= found.stages
        self._note_times("search", found.timed, found.machine)
        self._details |= {
            "index_reused": found.index_reused,
            "queries_reused": found.queries_reused,
            "search_reused": found.reused,
            "bytes": found.bytes,
            "truncated": found.truncated,
            "shared": found.shared,
        }
        return found.scores

    def _fuse_and_cut(self) -> None:
        """The rows made of others, from all that these have; then each of this engine's rows cut
        to as many documents as a run holds. Runs of other systems are measured as they are."""
        wanted, k = self.wanted, retrieved(self.wanted)
        fused = {row: each.run(self.runs, k) for row, each in wanted.fused.items()}
        own = {
            row: {
                query: cut([*found.items()], k) if len(found) > k else found
                for query, found in self.runs[row].items()
            }
            for row in wanted.rows
        }
        self.runs = own | {row: self.runs[row] for row in wanted.run_files} | fused
        if fused:
            self._details["fused"] = {row: each.to_json() for row, each in wanted.fused.items()}

    @property
    def _parts(self) -> set[str]:
        """The rows that others are made of."""
        return {row for fused in self.wanted.fused.values() for row in fused.rows}

    def _read_run(self, path: Path) -> Run:
        """Another system's run, all of it."""
        run = read_run(path)
        return without_same_ids(run) if self.wanted.drop_same_id else run

    def _run_baseline(self, row: str, collection: Collection) -> None:
        wanted, name = self.wanted, self.wanted.implementation(row)
        language = Language.known_or_guessed(wanted.language, collection.guess)
        k = retrieved(wanted) + wanted.drop_same_id
        if row in self._parts:
            k = max(k, wanted.depth)
        search = BaselineSearch(wanted, name, collection, language, k, self._common.baselines)
        found = search.run(self._common.cache, keep=self._common.keeps)
        self.runs[row] = without_same_ids(found.run) if wanted.drop_same_id else found.run
        self._seconds |= {f"{row}{part}": spent for part, spent in found.seconds.items()}
        self._stages[row] = found.times
        self._note_times(row, found.timed, found.machine)
        self._details |= {row: found.settings, f"{row}_reused": found.reused}
        self._report(f"running {row}", len(collection.queries), len(collection.queries))

    def _note_times(self, what: str, when: str, where: Mapping[str, Any]) -> None:
        """When something was timed, and where, if that was not here."""
        self._timed[what] = when
        if dict(where) != machine():
            self._details.setdefault("timed_on", {})[what] = dict(where)

    def _report(self, what: str, done: int, total: int) -> None:
        self._common.progress(f"{self.wanted.name}: {what}", done, total)


def _encoded(
    sets: Sequence[EvaluationSet], collections: Sequence[Collection]
) -> list[tuple[EvaluationSet, Collection]]:
    """The sets that have a row of the modes."""
    pairs = zip(sets, collections, strict=True)
    return [(each, collection) for each, collection in pairs if any(map(modes_of, each.rows))]


@contextmanager
def _kept_or_temporary(cache: Cache | None) -> Iterator[Cache]:
    if cache is not None:
        yield cache.fresh()
        return
    with tempfile.TemporaryDirectory(prefix="m3search-eval-") as folder:
        yield Cache(Path(folder))
