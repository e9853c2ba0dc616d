"""What a report says in tables: what was found, how long it took, how it was made; as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from m3search.evaluation.latency import when_timed
from m3search.evaluation.making import provenance, sets_table, settings_table
from m3search.evaluation.markdown import Table, markdown
from m3search.evaluation.measures import is_count, shown, shown_difference
from m3search.evaluation.published import Comparison, compare_published
from m3search.evaluation.results import Experiment

CERTAIN = 0.05
"""p-value below which a difference gets its star"""
PERCENT = (
    "Values are percent, but for counts; every query of the judgements counts, an absent one as 0."
)


def to_markdown(experiment: Experiment) -> str:
    """One table of sets x rows for each measure, then how the numbers were made."""
    how = "".join(f"- {name}: {value}\n" for name, value in provenance(experiment).items())
    parts = ["# Evaluation\n", *map(markdown, tables(experiment)), f"## How\n\n{PERCENT}\n\n{how}"]
    return "\n".join(parts)


def tables(experiment: Experiment) -> list[Table]:
    """All that the experiment has something for."""
    return [
        *(measure_table(experiment, measure) for measure in experiment.measures),
        *map(published_table, compare_published(experiment.sets)),
        *differences_table(experiment),
        *latency_table(experiment),
        *size_table(experiment),
        sets_table(experiment),
        settings_table(experiment),
    ]


def percentages(experiment: Experiment, measure: str) -> list[list[str]]:
    """One measure as a table of sets x rows, the names of the rows first, the means last."""
    rows = list(dict.fromkeys(row for each in experiment.sets for row in each.report.means))
    lines = [(each.name, each.report.means) for each in experiment.sets]
    several = [group for group in experiment.groups if len(experiment.sets_of(group)) > 1]
    lines += [(f"mean of {group}", experiment.means(group)) for group in several]
    if len(experiment.sets) > 1:
        lines.append(("mean", experiment.means()))
    return [
        ["set", *rows],
        *(
            [name, *(shown(means.get(row, {}).get(measure), measure) for row in rows)]
            for name, means in lines
        ),
    ]


def measure_table(experiment: Experiment, measure: str) -> Table:
    """One measure in percent: sets x rows."""
    return Table(measure, percentages(experiment, measure), compared=True)


def published_table(found: Comparison) -> Table:
    """What was measured, the published value and the difference; sets x rows, the average last."""
    sets = list(dict.fromkeys(name for row in found.rows.values() for name in row.sets))
    lines = [["set", *found.rows]]
    for name in sets:
        cells = (row.sets.get(name) for row in found.rows.values())
        lines.append([name, *("" if cell is None else str(cell) for cell in cells)])
    averages = [row.average for row in found.rows.values()]
    if len(sets) != 1 and any(averages):
        lines.append(["average", *("" if cell is None else str(cell) for cell in averages)])
    note = (
        f"In brackets the value of BAAI/bge-m3 in arXiv 2402.03216v4 ({found.table.place}), of "
        "bm25 that of Lucene with its analysers, and the difference. An average is over the "
        "languages that were run and have a value."
    )
    if "bm25" in found.rows:
        note += (
            f" Our bm25 is {'; '.join(found.bm25)}; what pyserini has by default, as there, is "
            "asked for by `--set bm25=lucene --set bm25_k1=0.9 --set bm25_b=0.4`."
        )
    title = f"{found.table.measure} on {found.preset} beside the published values"
    return Table(title, lines, note)


def differences_table(experiment: Experiment) -> list[Table]:
    """One row less every other one, the sum of all modes where there is one; sets x others."""
    rows = list(dict.fromkeys(row for each in experiment.sets for row in each.report.means))
    if len(rows) < 2:
        return []
    chosen = "all" if "all" in rows else rows[0]
    others = [row for row in rows if row != chosen]
    lines = [["set", *others]]
    for each in experiment.sets:
        cells, measure = {}, each.report.measures[0]
        for found in each.differences:
            if chosen in (found.first, found.second):
                sign = 1 if found.first == chosen else -1
                low, high = sorted((sign * found.interval.low, sign * found.interval.high))
                values = [shown_difference(v, measure) for v in (sign * found.mean, low, high)]
                star = "*" if found.holm < CERTAIN else ""
                other = found.second if sign > 0 else found.first
                cells[other] = f"{values[0]}{star} ({values[1]} to {values[2]})"
        lines.append([each.name, *(cells.get(row, "") for row in others)])
    note = (
        f"{chosen} less the others, with the bootstrap's 95 % of it; * where the paired "
        f"randomisation test, corrected by Holm over all pairs of rows, has p below {CERTAIN:g}."
    )
    first = {each.report.measures[0] for each in experiment.sets}
    named = first.pop() if len(first) == 1 else "the first measure of each set"
    named += " of a query" if is_count(named) else ""
    return [Table(f"Differences in {named}", lines, note)]


def latency_table(experiment: Experiment) -> list[Table]:
    """The time of a query by stage: sets x stages; nothing where nothing was timed."""
    timed = {each.name: each.details.get("stages_ms", {}) for each in experiment.sets}
    stages = list(dict.fromkeys(stage for of_set in timed.values() for stage in of_set))
    cells = {
        name: [
            f"{of_set[stage]['p50']:.1f} / {of_set[stage]['p95']:.1f}" if stage in of_set else ""
            for stage in stages
        ]
        for name, of_set in timed.items()
    }
    note = (
        "Milliseconds of a query asked alone on a warm index: the median and the 95th percentile. "
        "The 99th, and how many queries were timed, are in report.json."
    ) + when_timed(experiment.sets)
    if any(each.details["settings"].get("exact") for each in experiment.sets):
        note += " Where every document was looked at (see the settings), searches take that long."
    return _by_store_or_stage("Latency", stages, cells, note)


def size_table(experiment: Experiment) -> list[Table]:
    """The bytes of a document in each store: sets x stores; nothing where nothing was indexed."""
    sizes = {each.name: each.details.get("bytes", {}) for each in experiment.sets}
    stores = list(dict.fromkeys(store for of_set in sizes.values() for store in of_set))
    documents = {each.name: each.details["counts"]["documents"] for each in experiment.sets}
    cells = {
        name: [
            f"{of_set[store] / max(1, documents[name]):.0f}" if store in of_set else ""
            for store in stores
        ]
        for name, of_set in sizes.items()
    }
    return _by_store_or_stage("Bytes of a document", stores, cells, "")


def _by_store_or_stage(
    title: str, columns: Sequence[str], cells: Mapping[str, Sequence[str]], note: str
) -> list[Table]:
    """Sets x columns, of the sets that have any; no table where none has."""
    lines = [[name, *of_set] for name, of_set in cells.items() if any(of_set)]
    return [Table(title, [["set", *columns], *lines], note)] if lines else []
