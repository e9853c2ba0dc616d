"""What an evaluation found: the measures of each set, and their means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from m3search.evaluation.measures import Report
from m3search.evaluation.published import compare_published, comparisons_to_json
from m3search.evaluation.significance import Difference, compare_rows
from m3search.plan import Plan

REUSED = {
    "search_reused": "searches",
    "index_reused": "indexes",
    "queries_reused": "encoded queries",
    "bm25_reused": "BM25",
    "bm25-lucene_reused": "Lucene's BM25",
}
"""what may have been taken from the cache, by the detail that says so"""


@dataclass(frozen=True)
class SetResult:
    """One set's measures, and what was found out beside them."""

    name: str
    report: Report
    details: dict[str, Any]
    """counts, fingerprints, settings, truncated, shared, seconds, stages_ms, timed, timed_on,
    bytes, index_reused, queries_reused, search_reused, model, precision, run_files, published, and
    of each BM25 its settings by its row, as bm25, and bm25_reused; JSON-ready

    Where the whole search is an earlier evaluation's, neither its index nor its encoded queries
    are looked at: index_reused and queries_reused are None.
    """
    group: str = ""

    @cached_property
    def differences(self) -> list[Difference]:
        """Between every two rows, in the first measure."""
        report, first = self.report, self.report.measures[0]
        return compare_rows({row: by[first] for row, by in report.per_query.items()})

    def plan(self, row: str) -> Plan | None:
        """How a row of modes was searched; None for a BM25 and the run of another system."""
        settings = self.details["settings"]
        weights = settings["weights"].get(row)
        if weights is None:
            return None
        own = settings | settings.get("row_settings", {}).get(row, {})
        how = (own[name] for name in ("missing", "candidates"))
        k, depth = own["k"], own["depth"]
        plan = Plan.check(min(k, depth), depth, tuple(weights), weights, *how)
        return replace(plan, k=k)  # a run holds more than one stage gives, where these are several

    def to_json(self) -> dict[str, Any]:
        """The means under "rows", the differences, then the details."""
        differences = {"differences": [each.to_json() for each in self.differences]}
        group = {"group": self.group} if self.group else {}
        return self.report.to_json() | differences | group | self.details


@dataclass(frozen=True)
class Experiment:
    """All sets of an evaluation."""

    sets: tuple[SetResult, ...]
    provenance: dict[str, Any]
    """date, versions, and what the caller added, such as the command"""

    @property
    def measures(self) -> list[str]:
        """All that any set was measured by, in the order asked."""
        return list(dict.fromkeys(name for each in self.sets for name in each.report.measures))

    @property
    def groups(self) -> list[str]:
        """The groups of the sets, in the order of the sets."""
        return list(dict.fromkeys(each.group for each in self.sets if each.group))

    def sets_of(self, group: str | None) -> list[SetResult]:
        """The sets of a group; None is all."""
        return [each for each in self.sets if group is None or each.group == group]

    def means(self, group: str | None = None) -> dict[str, dict[str, float]]:
        """Row -> measure -> mean over the sets of a group, for what each of them has."""
        sets = self.sets_of(group)
        if not sets:
            return {}
        means: dict[str, dict[str, float]] = {}
        for row, values in sets[0].report.means.items():
            for name in values:
                column = [each.report.means.get(row, {}).get(name) for each in sets]
                there = [value for value in column if value is not None]
                if len(there) == len(sets):
                    means.setdefault(row, {})[name] = sum(there) / len(there)
        return means

    def to_json(self) -> dict[str, Any]:
        """{"sets": {name: {"rows": {row: {measure: value}}, ...}}}, "mean" where sets are several,
        "groups" by name where they are in groups, "published" by preset where sets are of one.

        Values are 0 to 1.
        """
        content: dict[str, Any] = {"sets": {each.name: each.to_json() for each in self.sets}}
        if len(self.sets) > 1:
            content["mean"] = {"rows": self.means()}
        if self.groups:
            content["groups"] = {group: {"rows": self.means(group)} for group in self.groups}
        if beside := compare_published(self.sets):
            content["published"] = comparisons_to_json(beside)
        return content | {"provenance": self.provenance}


def rows_that_found_nothing(sets: Sequence[SetResult]) -> list[str]:
    """Set and row of each that has no document for any query, as runs from empty files."""
    return [
        f"{each.name} {row}"
        for each in sets
        for row, absent in each.report.absent.items()
        if absent == each.report.queries
    ]


def describe_reuse(sets: Sequence[SetResult]) -> str:
    """What was taken from the cache, and for how many of the sets; "" where nothing was."""
    counts = {
        what: sum(each.details.get(name) is True for each in sets) for name, what in REUSED.items()
    }
    parts = [f"{what} of {count}" for what, count in counts.items() if count]
    return f"{', '.join(parts)} (of {len(sets)} sets)" if parts else ""
