"""An evaluation beside published values: ours, theirs and the difference, cell by cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from m3search.evaluation.measures import in_percent
from m3search.evaluation.presets import PublishedTable, find_preset, read_published
from m3search.evaluation.suite import LUCENE_ROW

if TYPE_CHECKING:
    from m3search.evaluation.results import SetResult


@dataclass(frozen=True)
class Beside:
    """A value of ours and a published one, 0 to 1."""

    ours: float
    published: float

    def to_json(self) -> dict[str, float]:
        """Both, and ours less the published one."""
        return {
            "ours": self.ours,
            "published": self.published,
            "difference": self.ours - self.published,
        }

    def __str__(self) -> str:
        """In percent; the difference is that of the values shown."""
        ours, published = (round(100 * value, 1) for value in (self.ours, self.published))
        return f"{in_percent(self.ours)} ({in_percent(self.published)}, {ours - published:+z.1f})"


@dataclass(frozen=True)
class RowBeside:
    """One row of an evaluation in one measure."""

    sets: dict[str, Beside]
    """by name, of the sets that have a published value"""
    average: Beside | None
    """over the languages below; None where nothing is published for them"""
    languages: int
    """that the average is over"""


@dataclass(frozen=True)
class Comparison:
    """One measure of the sets of a preset."""

    preset: str
    table: PublishedTable
    rows: dict[str, RowBeside]
    bm25: tuple[str, ...]
    """what our row of that name is, as a report says it; of different sets it may be another"""

    def to_json(self) -> dict[str, Any]:
        """By row: the sets, and the average with the number of languages that it is over."""
        rows = {
            row: {
                "sets": {name: cell.to_json() for name, cell in found.sets.items()},
                "average": found.average and found.average.to_json() | {"sets": found.languages},
            }
            for row, found in self.rows.items()
        }
        return {"place": self.table.place, "rows": rows}


def compare_published(sets: Sequence[SetResult]) -> list[Comparison]:
    """The sets that say what they are of, beside what was published: of each preset each measure
    in which there is anything to compare."""
    by_preset: dict[str, dict[str, SetResult]] = {}
    for each in sets:
        if name := each.details.get("published"):
            preset, _, language = name.partition("/")
            by_preset.setdefault(preset, {})[language] = each
    found = (
        Comparison(preset, table, _rows(preset, table, of_language), _bm25(of_language.values()))
        for preset, of_language in by_preset.items()
        for table in read_published(preset)
    )
    return [each for each in found if each.rows]


def comparisons_to_json(found: Iterable[Comparison]) -> dict[str, Any]:
    """By preset and measure; values are 0 to 1."""
    content: dict[str, Any] = {}
    for each in found:
        content.setdefault(each.preset, {})[each.table.measure] = each.to_json()
    return content


def _bm25(sets: Iterable[SetResult]) -> tuple[str, ...]:
    """Implementation and numbers of the BM25 that stands beside the published one, each once."""
    used = [each.details[row] for each in sets if (row := _ours("bm25", each)) in each.details]
    shown = (f"{bm25['implementation']} with k1 {bm25['k1']:g}, b {bm25['b']:g}" for bm25 in used)
    return tuple(dict.fromkeys(shown))


def _rows(
    preset: str, table: PublishedTable, of_language: Mapping[str, SetResult]
) -> dict[str, RowBeside]:
    found = {row: _row(preset, table, row, of_language) for row in table.average}
    return {row: beside for row, beside in found.items() if beside.sets or beside.average}


def _row(
    preset: str, table: PublishedTable, row: str, of_language: Mapping[str, SetResult]
) -> RowBeside:
    ours = {
        language: means[table.measure]
        for language, each in of_language.items()
        if table.measure in (means := each.report.means.get(_ours(row, each), {}))
    }
    theirs = table.languages.get(row, {})
    known = {
        language: Beside(value, theirs[language] / 100)
        for language, value in ours.items()
        if language in theirs
    }
    sets = {of_language[language].name: cell for language, cell in known.items()}
    if ours.keys() == set(find_preset(preset).languages):
        average = Beside(_mean(ours.values()), table.average[row] / 100)
        return RowBeside(sets, average, len(ours))
    if not known:
        return RowBeside({}, None, 0)
    cells = known.values()
    average = Beside(_mean(cell.ours for cell in cells), _mean(cell.published for cell in cells))
    return RowBeside(sets, average, len(known))


def _ours(row: str, result: SetResult) -> str:
    """Our row that stands beside a published one: the published BM25 is Lucene's."""
    return LUCENE_ROW if row == "bm25" and LUCENE_ROW in result.report.means else row


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
