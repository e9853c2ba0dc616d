"""Two rows side by side: of two reports, of one, or two runs; and the queries that they part on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from m3search.corpus import read_run
from m3search.errors import ArtifactError, ConfigError, DataError
from m3search.evaluation.measures import evaluate
from m3search.evaluation.significance import Interval, compare_rows, holm_correction
from m3search.lines import read_lines
from m3search.records import Qrels, Run

SHOWN_HITS = 3
RULE = "drop_same_id"
"""by which a set's runs may have been measured, or not"""
DIGITS = 6
"""behind the point, of the values of queries: what a report keeps of them"""
Values = Mapping[str, Mapping[str, float]]
"""set -> query -> value of the measure"""


class Side(NamedTuple):
    """One of the two, as it was named."""

    name: str
    values: Values
    run: Callable[[str], Run | None]
    """the run on a set; None where it is not there any more"""
    splits: Mapping[str, str]
    """set -> the split of its judgements"""
    fingerprints: Mapping[str, Mapping[str, str]]
    """set -> SHA-256 of its judgements, and where they are known of its corpus and queries, and
    whether the RULE held"""
    absent: Mapping[str, int]
    """set -> judged queries that the run lacks, which count 0"""


@dataclass(frozen=True)
class Change:
    """A query on which the two differ, and the ids of the best hits of each."""

    query: str
    first: float
    second: float
    first_hits: list[str]
    second_hits: list[str]


@dataclass(frozen=True)
class SetComparison:
    """The two on the queries of one set."""

    name: str
    queries: int
    differing: list[str]
    """what the two have not in common beside the system: "corpus", "queries", the RULE"""
    first: float
    second: float
    interval: Interval
    """of second less first, as `significance` has it"""
    p: float
    holm: float
    """p, corrected for all sets that are compared"""
    better: int
    """queries that the second does better"""
    worse: int
    absent: tuple[int, int]
    """queries that the run of each lacks, which count 0"""
    changes: list[Change]
    """the largest differences first"""

    @property
    def difference(self) -> float:
        """Second less first."""
        return self.second - self.first

    def to_json(self) -> dict[str, Any]:
        """Its fields, and the difference."""
        return {**asdict(self), "difference": self.difference}


def read_report_side(folder: Path, row: str, measure: str) -> Side:
    """A row of a report folder; ConfigError where it has no such row or measure."""
    path = folder / "report.json"
    if not path.is_file():
        raise ConfigError(
            str(folder),
            expected="the folder of a report, with report.json in it",
            found="none",
            remedy="Make one with m3search eval, or give two runs and --set.",
        )
    with _sound(path, "the numbers of a report"):
        report = json.loads(path.read_bytes())
        measured = {
            name: found
            for name, found in report["sets"].items()
            if measure in found["rows"].get(row, {})
        }
        splits = {name: found["settings"]["split"] for name, found in measured.items()}
        fingerprints = {
            name: found["fingerprints"] | {RULE: str(found["settings"].get(RULE, False))}
            for name, found in measured.items()
        }
        rows = {each for found in report["sets"].values() for each in found["rows"]}
        measures = {
            m for found in report["sets"].values() for r in found["rows"].values() for m in r
        }
        absent = {name: int(found["absent"][row]) for name, found in measured.items()}
    if not splits:
        what = f"rows {', '.join(sorted(rows))}; measures {', '.join(sorted(measures))}"
        raise ConfigError(
            str(folder),
            expected=f"the row {row!r} measured by {measure}",
            found=what,
            remedy="Name one of these with FOLDER:ROW and --measure.",
        )
    values = {
        name: _read_values(folder / "queries" / f"{name}.tsv", row, measure) for name in splits
    }
    return Side(
        f"{folder}:{row}",
        values,
        lambda name: _read_run(folder, name, row),
        splits,
        fingerprints,
        absent,
    )


def read_run_side(
    path: Path, run: Run, name: str, qrels: Qrels, judgements: str, split: str, measure: str
) -> Side:
    """The run of a file on a set of that name, judged by the split; judgements: their SHA-256."""
    report = evaluate({"run": run}, qrels, [measure])
    (exact,) = report.per_query["run"].values()
    values = {query: round(value, DIGITS) for query, value in exact.items()}
    fingerprints = {name: {"judgements": judgements, RULE: "False"}}
    absent = {name: report.absent["run"]}
    return Side(str(path), {name: values}, lambda _: run, {name: split}, fingerprints, absent)


def compare(first: Side, second: Side, most: int) -> list[SetComparison]:
    """Every set that both have, with the `most` queries that changed most.

    DataError where a set was measured by other judgements, or has no query in common.
    """
    if not first.values.keys() & second.values.keys():
        second = _named_as(first, second)
    names = [name for name in first.values if name in second.values]
    if not names:
        raise ConfigError(
            second.name,
            expected=f"a set that {first.name} has: {', '.join(first.values)}",
            found=", ".join(second.values),
            remedy="Compare reports on the same sets.",
        )
    found = [_compare_set(name, first, second, most) for name in names]
    corrected = holm_correction([each.p for each in found])
    return [replace(each, holm=holm) for each, holm in zip(found, corrected, strict=True)]


def _named_as(first: Side, second: Side) -> Side:
    """The second with the names that the first has for sets of the same judgements, as a run is
    on a folder, which a report may call by another name."""
    known = {found["judgements"]: name for name, found in [*first.fingerprints.items()][::-1]}
    own = {
        known[found["judgements"]]: name
        for name, found in [*second.fingerprints.items()][::-1]
        if found["judgements"] in known
    }
    if not own:
        return second
    return Side(
        second.name,
        {name: second.values[old] for name, old in own.items()},
        lambda name: second.run(own[name]),
        {name: second.splits[old] for name, old in own.items()},
        {name: second.fingerprints[old] for name, old in own.items()},
        {name: second.absent[old] for name, old in own.items()},
    )


def _compare_set(name: str, first: Side, second: Side, most: int) -> SetComparison:
    differing = _differing(name, first, second)
    before, after = first.values[name], second.values[name]
    if before.keys() != after.keys():  # as their judgements are the same, so are their queries
        raise DataError(
            f"{second.name}, set {name}",
            expected=f"queries that {first.name} has",
            found=f"{len(before.keys() ^ after.keys())} that one of the two has alone",
            remedy="The reports have been changed: make them again with m3search eval.",
        )
    common = list(before)
    values = {"second": after, "first": before}
    (difference,) = compare_rows(values)
    moved = sorted(common, key=lambda query: (-abs(after[query] - before[query]), query))
    moved = [query for query in moved if after[query] != before[query]]
    runs: tuple[Run, Run] = ({}, {})
    if moved and most:
        one, other = first.run(name), second.run(name)
        if one is not None and other is not None:  # the hits of one alone would tell half
            runs = (one, other)
    return SetComparison(
        name,
        len(common),
        differing,
        sum(before[query] for query in common) / len(common),
        sum(after[query] for query in common) / len(common),
        difference.interval,
        difference.p,
        difference.p,
        sum(after[query] > before[query] for query in common),
        sum(after[query] < before[query] for query in common),
        (first.absent[name], second.absent[name]),
        [
            Change(query, before[query], after[query], *(_best(run, query) for run in runs))
            for query in moved[:most]
        ],
    )


def _differing(name: str, first: Side, second: Side) -> list[str]:
    """What the two had not in common of a set, which must not be its judgements."""
    one, other = first.fingerprints[name], second.fingerprints[name]
    found = [what for what in one.keys() & other.keys() if one[what] != other[what]]
    if "judgements" in found:
        raise DataError(
            f"{second.name}, set {name}",
            expected=f"the judgements by which {first.name} was measured, of the split "
            f"{first.splits[name]!r}",
            found=f"others, of the split {second.splits[name]!r}",
            remedy="Measure both by the same judgements.",
        )
    return sorted({"corpus", "queries", RULE}.intersection(found))


def _best(run: Run, query: str) -> list[str]:
    return list(run.get(query, {}))[:SHOWN_HITS]


@contextmanager
def _sound(path: Path, expected: str) -> Iterator[None]:
    """Inside the block what a damaged file raises becomes an ArtifactError."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            str(path),
            expected=expected,
            found=f"something else ({type(error).__name__}: {error})",
            remedy="The file is damaged: make the report again with m3search eval.",
        ) from error


def _read_values(path: Path, row: str, measure: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for number, line in read_lines(path):
        with _sound(path, f"a row, a measure, a query and a value in line {number}"):
            named, by, *query, value = line.decode("utf-8").rstrip("\r\n").split("\t")
            if number > 1 and (named, by) == (row, measure):
                values["\t".join(query)] = float(value)
    return values


def _read_run(folder: Path, name: str, row: str) -> Run | None:
    """The run of a row; None where the report was committed without its runs."""
    path = folder / "runs" / f"{name}.{row}.trec"
    return read_run(path) if path.exists() else None
