"""The run of BM25 on a set, made or taken from the cache.

    runs/<key>            what a report says of the baseline and its times; then the run, as JSON

An entry belongs to one corpus and one BM25 on it; the key is that of the queries.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from m3search.evaluation.baselines import Baseline, Implementation, make_bm25
from m3search.evaluation.bm25 import Language
from m3search.evaluation.cache import Cache
from m3search.evaluation.checked import Tell, read_checked, write_checked
from m3search.evaluation.collection import Collection
from m3search.evaluation.components import cut
from m3search.evaluation.keys import bm25_key, queries_key
from m3search.evaluation.latency import BM25, summary
from m3search.evaluation.suite import EvaluationSet
from m3search.model.machine import machine
from m3search.records import Query, Run
from m3search.timings import Timings, stage

FOLDER = "runs"
KEY_DIGITS = 16
FURTHER = 4
"""times as many documents are looked at where equal scores do not end"""


@dataclass(frozen=True)
class BaselineRun:
    """What BM25 found, and what that took."""

    run: Run
    seconds: dict[str, float]
    """'' of all queries, ' index' of its index unless another set had that, when it was made"""
    times: dict[str, float]
    """of single queries"""
    timed: str
    """when it was made; ISO 8601"""
    machine: dict[str, Any]
    """that it was made on"""
    settings: dict[str, Any]
    reused: bool = False
    """whether an earlier evaluation made it"""


class BM25Indexes:
    """The BM25 of each kind that was made last, while the sets that follow have the same corpus."""

    def __init__(self) -> None:
        self._latest: dict[Implementation, tuple[str, Baseline]] = {}

    def get(
        self, name: Implementation, key: str, make: Callable[[], Baseline]
    ) -> tuple[Baseline, bool]:
        """That of the key, and whether it was made for it now."""
        is_new = name not in self._latest or self._latest[name][0] != key
        if is_new:
            self._latest.pop(name, None)  # two of a kind may be too much for the memory
            self._latest[name] = (key, make())
        return self._latest[name][1], is_new

    def forget(self) -> None:
        """Gives their memory back, which encoding the next corpus may need."""
        self._latest.clear()


@dataclass(frozen=True)
class BaselineSearch:
    """A set that BM25 is to be run on."""

    wanted: EvaluationSet
    name: Implementation
    collection: Collection
    language: Language
    k: int
    """documents a query"""
    indexes: BM25Indexes

    def run(self, cache: Cache, *, keep: bool) -> BaselineRun:
        """The run, unless the cache has it; keep: it is put there."""
        wanted = self.wanted
        numbers = (wanted.bm25_k1, wanted.bm25_b)
        key = bm25_key(self.collection.corpus, self.name, self.language, *numbers)
        if not keep:
            return self._make(key)
        with cache.entry(key, f"{wanted.name}.bm25", small=True) as folder:
            place = queries_key(self.collection.queries, self.k)
            file = folder / FOLDER / place[:KEY_DIGITS]
            kept = read_run(file, cache.report)
            if kept is not None:
                return replace(kept, reused=file not in cache.made)
            made = self._make(key)
            write_run(file, made)
            cache.made.add(file)
        return made

    def _make(self, key: str) -> BaselineRun:
        timed, started = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        wanted, read = self.wanted, self.collection.read
        numbers = {"k1": wanted.bm25_k1, "b": wanted.bm25_b}
        bm25, is_new = self.indexes.get(
            self.name, key, lambda: make_bm25(self.name, read(), self.language, **numbers)
        )
        run: Run = {}
        indexed = time.perf_counter()
        with Timings() as timings:
            for query in self.collection.queries:
                with stage(BM25):
                    run[query.id] = _best(bm25, query, self.k)
        seconds = {" index": indexed - started} if is_new else {}
        seconds[""] = time.perf_counter() - indexed
        times = summary(timings).get(BM25, {})
        return BaselineRun(run, seconds, times, timed, machine(), bm25.settings())


def _best(bm25: Baseline, query: Query, k: int) -> dict[str, float]:
    """The k best documents; of equal scores at the end, for which it looks further, by id."""
    most = k + 1
    while True:
        found = [*bm25.run([query], most)[query.id].items()]
        if len(found) < most or found[-1][1] < found[k - 1][1]:
            return cut(found, k)
        most *= FURTHER


def read_run(file: Path, tell: Tell) -> BaselineRun | None:
    """The one in a file; None where it is not there, or damaged."""
    found = read_checked(file, tell)
    return None if found is None else BaselineRun(json.loads(found[1]), **found[0], reused=True)


def write_run(file: Path, made: BaselineRun) -> None:
    """Puts it into a file, which is there whole or not at all."""
    names = ("seconds", "times", "timed", "machine", "settings")
    note = {name: getattr(made, name) for name in names}
    write_checked(file, note, json.dumps(made.run).encode())
