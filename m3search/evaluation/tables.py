"""What a report says in tables: its measures, its sets and how it was made; and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from m3search.evaluation.latency import when_timed
from m3search.evaluation.measures import in_percent, markdown_table
from m3search.evaluation.published import Comparison, compare_published
from m3search.evaluation.results import Experiment
from m3search.records import MODES

CERTAIN = 0.05
"""p-value below which a difference gets its star"""
PERCENT = "Values are percent; every query of the judgements counts, an absent one as 0."


@dataclass(frozen=True)
class Table:
    """Lines of cells under a title, in plain text."""

    title: str
    lines: list[list[str]]
    """the names of the columns first"""
    note: str = ""
    code: str = ""
    """the column that holds code"""
    compared: bool = False
    """whether the largest number of a line stands out"""

    def best(self, cells: Sequence[str]) -> set[int]:
        """The columns of a line that hold its largest number, where lines are compared."""
        if not self.compared:
            return set()
        numbers = {column: float(cell) for column, cell in enumerate(cells) if column and cell}
        most = max(numbers.values(), default=0.0)
        return {column for column, number in numbers.items() if number == most}


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


def markdown(table: Table) -> str:
    """A section with the table, the largest numbers in bold where lines are compared."""
    header, *lines = table.lines
    shown = [header]
    for cells in lines:
        best = table.best(cells)
        shown.append([])
        for column, cell in enumerate(cells):
            escaped = cell.replace("|", "\\|")
            if header[column] == table.code:
                escaped = f"`{escaped}`"
            else:
                escaped = escaped.replace("*", "\\*")
            shown[-1].append(f"**{escaped}**" if column in best else escaped)
    note = table.note.replace("*", "\\*")
    return f"## {table.title}\n\n{markdown_table(shown)}" + (f"\n{note}\n" if note else "")


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
            [name, *(in_percent(means.get(row, {}).get(measure)) for row in rows)]
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
        f"In brackets the value of BAAI/bge-m3 in arXiv 2402.03216v4 ({found.table.place}) and "
        "the difference. An average is over the languages that were run and have a value."
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
        cells = {}
        for found in each.differences:
            if chosen in (found.first, found.second):
                sign = 1 if found.first == chosen else -1
                low, high = sorted((sign * found.interval.low, sign * found.interval.high))
                values = [f"{100 * value:+.1f}" for value in (sign * found.mean, low, high)]
                star = "*" if found.holm < CERTAIN else ""
                other = found.second if sign > 0 else found.first
                cells[other] = f"{values[0]}{star} ({values[1]} to {values[2]})"
        lines.append([each.name, *(cells.get(row, "") for row in others)])
    note = (
        f"{chosen} less the others, with the bootstrap's 95 % of it; * where the paired "
        f"randomisation test, corrected by Holm over all pairs of rows, has p below {CERTAIN:g}."
    )
    first = {each.report.measures[0] for each in experiment.sets}
    measure = first.pop() if len(first) == 1 else "the first measure of each set"
    return [Table(f"Differences in {measure}", lines, note)]


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


def sets_table(experiment: Experiment) -> Table:
    """How large each set is, and what its index took."""
    header = ("documents", "queries", "judgements", "SHA-256 of these", "BM25 language")
    lines = [["set", *header, "index seconds", "index MB"]]
    for each in experiment.sets:
        sums = ", ".join(found[:8] for found in each.details.get("fingerprints", {}).values())
        counts, bm25 = each.details["counts"], each.details.get("bm25")
        language = f"{bm25['language'] or 'none'}, {bm25['language_origin']}" if bm25 else ""
        seconds = each.details["seconds"].get("index")
        size = sum(each.details.get("bytes", {}).values()) / 1e6
        lines.append(
            [
                each.name,
                str(counts["documents"]),
                str(counts["queries"]),
                str(counts["judgements"]),
                sums,
                language,
                f"{seconds:.1f}" if seconds is not None else "",
                f"{size:.1f}" if size else "",
            ]
        )
    notes = [_truncation(experiment), _absent(experiment)]
    return Table("Sets", lines, "\n".join(note for note in notes if note))


def settings_table(experiment: Experiment) -> Table:
    """What each set was run with, defaults included."""
    names = ("split", "k", "depth", "missing", "candidates", "max_length", "title_template")
    lines = [["set", *(name.replace("_", " ") for name in names), "weights"]]
    for each in experiment.sets:
        settings = each.details["settings"] | {
            "title_template": json.dumps(each.details["settings"]["title_template"]),
            "max_length": each.details["settings"]["max_length"] or "",
        }
        weights = [
            f"{row} {_weights(by_mode)}"
            for row, by_mode in settings["weights"].items()
            if len(by_mode) > 1
        ]
        lines.append([each.name, *(str(settings[name]) for name in names), "; ".join(weights)])
    note = "Weights are those of dense, sparse and multi; a mode alone weighs 1."
    notes = "\n".join([note, *_row_settings(experiment)])
    return Table("Settings", lines, notes, code="title template")


def _row_settings(experiment: Experiment) -> list[str]:
    """A line for each set with rows of settings or of runs of their own, or other weights."""
    notes = []
    for each in experiment.sets:
        settings = each.details["settings"]
        parts = [
            f"{row} " + ", ".join(f"{key} {_taken(key, own, settings)}" for key in own)
            for row, own in settings.get("row_settings", {}).items()
        ]
        if settings.get("lexical_weights", "float") != "float":
            parts.append(f"lexical weights {settings['lexical_weights']}")
        parts += [_fused(row, made) for row, made in each.details.get("fused", {}).items()]
        if parts:
            notes.append(f"Of {each.name}: {'; '.join(parts)}.")
    return notes


def _taken(key: str, own: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """A setting of a row as it was used: no depth is below the documents that its run holds."""
    return max(own[key], settings["k"]) if key == "depth" else own[key]


def _fused(row: str, made: Mapping[str, Any]) -> str:
    """What a row of other rows is made of."""
    weighed = zip(made["rows"], made["weights"], strict=True)
    by = f"rank (constant {made['constant']:g})" if made["by"] == "rank" else "score"
    return f"{row} by {by}: " + ", ".join(f"{weight:g} {part}" for part, weight in weighed)


def _weights(by_mode: Mapping[str, float]) -> str:
    return ", ".join(f"{by_mode[mode]:g}" if mode in by_mode else "-" for mode in MODES)


def _truncation(experiment: Experiment) -> str:
    """One line: how much of each set the model did not read to its end."""
    shown = []
    for each in experiment.sets:
        if cut := each.details.get("truncated"):
            shown.append(f"{each.name} {cut['documents']} documents, {cut['queries']} queries")
    return f"Cut at the maximum length: {'; '.join(shown)}." if shown else ""


def _absent(experiment: Experiment) -> str:
    """One line: for how many queries of each set a row has no document, so that they count 0."""
    shown = [
        f"{each.name} {row} {count}"
        for each in experiment.sets
        for row, count in each.report.absent.items()
        if count
    ]
    return f"Queries without a document, which count 0: {'; '.join(shown)}." if shown else ""


def provenance(experiment: Experiment) -> dict[str, str]:
    """Models, baselines, other systems' runs, and what the experiment says of its making."""
    models, baselines = {}, {}
    files: dict[str, str] = {}
    for each in experiment.sets:
        files |= each.details.get("run_files", {})
        if model := each.details.get("model"):
            models[each.name] = (
                f"{model['name']} ({model['fingerprint'][:12]}), {model['max_length']} tokens"
            )
            if precision := each.details.get("precision"):
                models[each.name] += f", {precision}"
        if bm25 := each.details.get("bm25"):
            settings = f"k1 {bm25['k1']}, b {bm25['b']}, {bm25['variant']} variant"
            baselines[each.name] = f"{bm25['implementation']}, {settings}"
    details = _by_set("Model", models) | _by_set("BM25", baselines)
    if files:
        details["Runs from files"] = _pairs(files)
    for name, value in experiment.provenance.items():
        details[name.capitalize()] = _pairs(value) if isinstance(value, Mapping) else str(value)
    return details


def _pairs(found: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _by_set(what: str, found: Mapping[str, str]) -> dict[str, str]:
    """One line for all sets where they agree, else one for each set."""
    if len(set(found.values())) == 1:
        return {what: next(iter(found.values()))}
    return {f"{what} of {name}": value for name, value in found.items()}
