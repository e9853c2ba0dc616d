"""The report of an evaluation in Markdown: its measures, its sets, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from m3search.evaluation.measures import in_percent, markdown_table
from m3search.evaluation.published import compare_published
from m3search.evaluation.results import Experiment
from m3search.records import MODES

CERTAIN = 0.05
"""p-value below which a difference gets its star"""


def to_markdown(experiment: Experiment) -> str:
    """One table of sets x rows for each measure, then how the numbers were made."""
    parts = ["# Evaluation\n"]
    parts += [table(experiment, measure) for measure in experiment.measures]
    parts += [found.to_markdown() for found in compare_published(experiment.sets)]
    parts.append(_differences(experiment))
    parts.append(_sets_table(experiment))
    parts.append(_settings_table(experiment))
    parts.append(_provenance(experiment))
    return "\n".join(parts)


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


def table(experiment: Experiment, measure: str) -> str:
    """A Markdown table of one measure in percent: sets x rows, the best of each set in bold."""
    header, *lines = percentages(experiment, measure)
    shown = [[name, *_best_in_bold(cells)] for name, *cells in lines]
    return f"## {measure}\n\n{markdown_table([header, *shown])}"


def _best_in_bold(cells: list[str]) -> list[str]:
    best = max(filter(None, cells), key=float, default="")
    return [f"**{cell}**" if cell and cell == best else cell for cell in cells]


def _differences(experiment: Experiment) -> str:
    """One row less every other one, the sum of all modes where there is one; sets x others."""
    rows = list(dict.fromkeys(row for each in experiment.sets for row in each.report.means))
    if len(rows) < 2:
        return ""
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
                star = "\\*" if found.holm < CERTAIN else ""
                other = found.second if sign > 0 else found.first
                cells[other] = f"{values[0]}{star} ({values[1]} to {values[2]})"
        lines.append([each.name, *(cells.get(row, "") for row in others)])
    note = (
        f"{chosen} less the others, with the bootstrap's 95 % of it; \\* where the paired "
        f"randomisation test, corrected by Holm over all pairs of rows, has p below {CERTAIN:g}."
    )
    first = {each.report.measures[0] for each in experiment.sets}
    measure = first.pop() if len(first) == 1 else "the first measure of each set"
    return f"## Differences in {measure}\n\n{markdown_table(lines)}\n{note}\n"


def _sets_table(experiment: Experiment) -> str:
    lines = [
        ["set", "documents", "queries", "judgements", "BM25 language", "index seconds", "index MB"]
    ]
    for each in experiment.sets:
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
                language,
                f"{seconds:.1f}" if seconds is not None else "",
                f"{size:.1f}" if size else "",
            ]
        )
    return f"## Sets\n\n{markdown_table(lines)}{_truncation(experiment)}"


def _settings_table(experiment: Experiment) -> str:
    """What each set was run with, defaults included."""
    names = ("split", "k", "depth", "missing", "candidates", "max_length", "title_template")
    lines = [["set", *(name.replace("_", " ") for name in names), "weights"]]
    for each in experiment.sets:
        settings = each.details["settings"] | {
            "title_template": f"`{json.dumps(each.details['settings']['title_template'])}`",
            "max_length": each.details["settings"]["max_length"] or "",
        }
        weights = [
            f"{row} {_weights(by_mode)}"
            for row, by_mode in settings["weights"].items()
            if len(by_mode) > 1
        ]
        shown = [str(settings[name]).replace("|", "\\|") for name in names]
        lines.append([each.name, *shown, "; ".join(weights)])
    note = "Weights are those of dense, sparse and multi; a mode alone weighs 1."
    return f"## Settings\n\n{markdown_table(lines)}\n{note}\n{_row_settings(experiment)}"


def _row_settings(experiment: Experiment) -> str:
    """A line for each set whose rows differ, or whose lexical weights are not the model's own."""
    notes = []
    for each in experiment.sets:
        settings = each.details["settings"]
        parts = [
            f"{row} " + ", ".join(f"{key} {value}" for key, value in own.items())
            for row, own in settings.get("row_settings", {}).items()
        ]
        if settings.get("lexical_weights", "float") != "float":
            parts.append(f"lexical weights {settings['lexical_weights']}")
        if parts:
            notes.append(f"- {each.name}: {'; '.join(parts)}\n")
    return f"\nSettings of single rows:\n\n{''.join(notes)}" if notes else ""


def _weights(by_mode: Mapping[str, float]) -> str:
    return ", ".join(f"{by_mode[mode]:g}" if mode in by_mode else "-" for mode in MODES)


def _truncation(experiment: Experiment) -> str:
    """One line: how much of each set the model did not read to its end."""
    shown = []
    for each in experiment.sets:
        if cut := each.details.get("truncated"):
            shown.append(f"{each.name} {cut['documents']} documents, {cut['queries']} queries")
    return f"\nCut at the maximum length: {'; '.join(shown)}.\n" if shown else ""


def _provenance(experiment: Experiment) -> str:
    models, baselines = {}, {}
    files: dict[str, str] = {}
    for each in experiment.sets:
        files |= each.details.get("run_files", {})
        if model := each.details.get("model"):
            models[each.name] = (
                f"{model['name']} ({model['fingerprint'][:12]}), {model['max_length']} tokens"
            )
        if bm25 := each.details.get("bm25"):
            settings = f"k1 {bm25['k1']}, b {bm25['b']}, {bm25['variant']} variant"
            baselines[each.name] = f"{bm25['implementation']}, {settings}"
    details: dict[str, Any] = _by_set("Model", models) | _by_set("BM25", baselines)
    if files:
        details["Runs from files"] = files
    for name, value in experiment.provenance.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        details[name.capitalize()] = value
    lines = [f"- {name}: {value}" for name, value in details.items()]
    note = "Values are percent; every query of the judgements counts, an absent one as 0.\n"
    return "\n".join(["## How\n", note, *lines]) + "\n"


def _by_set(what: str, found: Mapping[str, str]) -> dict[str, str]:
    """One line for all sets where they agree, else one for each set."""
    if len(set(found.values())) == 1:
        return {what: next(iter(found.values()))}
    return {f"{what} of {name}": value for name, value in found.items()}
