"""The report of an evaluation as one page of HTML, which needs nothing beside itself.

It is well-formed XML, too, asks for no other file, runs no script, and follows the reader's choice
of a light or a dark page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from m3search.evaluation.charts import (
    Chart,
    Figures,
    latency_chart,
    quality_charts,
    recall_chart,
    rows_of,
    scatter_chart,
    weights_chart,
)
from m3search.evaluation.making import provenance, sets_table, settings_table
from m3search.evaluation.markdown import Table
from m3search.evaluation.published import compare_published
from m3search.evaluation.results import Experiment
from m3search.evaluation.style import STYLE
from m3search.evaluation.svg import element, plain
from m3search.evaluation.tables import (
    PERCENT,
    differences_table,
    latency_table,
    measure_table,
    published_table,
    size_table,
)

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""what a browser may load for the page: nothing"""


class Section(NamedTuple):
    """A part of the page, with a link from its top."""

    key: str
    title: str
    parts: Sequence[Chart | Table | str]
    """a str is markup"""


def to_html(experiment: Experiment, figures: Figures, notes: Sequence[str] = ()) -> str:
    """The page; figures: those of each set that has some; notes: what could not be written."""
    sections = [each for each in _sections(experiment, figures, notes) if each.parts]
    links = [element("a", plain(each.title), href=f"#{each.key}") for each in sections]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", plain(_title(experiment))),
        element("style", STYLE),
    )
    body = element(
        "body",
        element(
            "main",
            element("h1", plain(_title(experiment))),
            element("p", plain(_summary(experiment))),
            element("nav", *links, aria_label="Sections"),
            *map(_section, sections),
        ),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _sections(experiment: Experiment, figures: Figures, notes: Sequence[str]) -> list[Section]:
    measures = [measure_table(experiment, measure) for measure in experiment.measures]
    quality: list[Chart | Table] = [
        *quality_charts(experiment),
        *measures,
        *map(published_table, compare_published(experiment.sets)),
        *differences_table(experiment),
    ]
    costs: list[Chart | Table] = [
        *latency_chart(experiment),
        *latency_table(experiment),
        *size_table(experiment),
    ]
    made = [
        element("dt", plain(name)) + element("dd", plain(value))
        for name, value in provenance(experiment).items()
    ]
    how = element("p", plain(PERCENT)) + element("dl", *made)
    lost = element("ul", *(element("li", plain(note)) for note in notes)) if notes else ""
    return [
        Section("quality", "Quality", quality),
        Section("queries", "Query by query", scatter_chart(experiment)),
        Section("weights", "Weights", weights_chart(experiment, figures)),
        Section("recall", "Recall by depth", recall_chart(experiment, figures)),
        Section("costs", "Time and space", costs),
        Section("sets", "Sets and settings", [sets_table(experiment), settings_table(experiment)]),
        Section("how", "How", [how]),
        Section("not-written", "Not written", [lost] if lost else []),
    ]


def _section(section: Section) -> str:
    parts = [
        part if isinstance(part, str) else _table(part) if isinstance(part, Table) else _chart(part)
        for part in section.parts
    ]
    return element("section", element("h2", plain(section.title)), *parts, id=section.key)


def _chart(chart: Chart) -> str:
    drawings = element("div", *chart.drawings, class_="drawings")
    return element("figure", drawings, element("figcaption", plain(chart.caption)))


def _table(table: Table) -> str:
    header, *lines = table.lines
    head = element("tr", *(element("th", plain(name), scope="col") for name in header))
    body = [element("tr", *_cells(table, cells)) for cells in lines]
    found = element(
        "table",
        element("caption", plain(table.title)),
        element("thead", head),
        element("tbody", *body),
    )
    note = element("p", plain(table.note), class_="note") if table.note else ""
    return element("div", found, class_="wide") + note


def _cells(table: Table, cells: Sequence[str]) -> list[str]:
    first, *others = cells
    best, shown = table.best(cells), [element("th", plain(first), scope="row")]
    for column, cell in enumerate(others, start=1):
        inside = plain(cell)
        if column in best:
            inside = element("strong", inside)
        elif table.lines[0][column] == table.code:
            inside = element("code", inside)
        shown.append(element("td", inside))
    return shown


def _title(experiment: Experiment) -> str:
    names = [each.name for each in experiment.sets]
    return f"Evaluation of {names[0]}" if len(names) == 1 else f"Evaluation of {len(names)} sets"


def _summary(experiment: Experiment) -> str:
    queries = sum(each.report.queries for each in experiment.sets)
    rows, sets = rows_of(experiment), len(experiment.sets)
    return (
        f"Rows: {', '.join(rows)}. Measures: {', '.join(experiment.measures)}. "
        f"Sets: {sets}. Queries with judgements: {queries}."
    )
