"""The folder that an evaluation leaves: report.md, report.json, runs and values per query.

    report.md, report.json     report.json comes last: a folder without it holds no whole report
    runs/<set>.<row>.trec      TREC runs
    queries/<set>.tsv          row, measure, query, value

All is first written to `.unfinished` inside the folder, which a killed run leaves behind and the
next one clears.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m3search.corpus import write_run
from m3search.errors import ConfigError, DataError
from m3search.evaluation.experiment import Experiment, SetResult
from m3search.evaluation.measures import in_percent, markdown_table
from m3search.records import Run

PARTS = ("report.json", "report.md", "runs", "queries")
"""in the order in which an older report goes; a new one comes in the reverse order"""


class ReportFolder:
    """Takes the sets one by one (`add`), then makes the whole report appear (`finish`)."""

    def __init__(self, folder: str | Path) -> None:
        """An older report in the folder stays until `finish`; other files stay altogether."""
        self.folder = Path(folder)
        self._staged = self.folder / ".unfinished"
        self._notes: list[str] = []
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(
                str(folder),
                expected="a folder for the report",
                found="a file",
                remedy="Give another name.",
            )
        if self._staged.exists():
            shutil.rmtree(self._staged)
        (self._staged / "runs").mkdir(parents=True)
        (self._staged / "queries").mkdir()

    def add(self, result: SetResult, runs: Mapping[str, Run]) -> None:
        """Writes the runs and the values per query of one set."""
        for row, run in runs.items():
            try:
                write_run(self._staged / "runs" / f"{result.name}.{row}.trec", run, row)
            except DataError as error:
                if error.expected.startswith("a place"):
                    raise
                # An id with white space must not cost the results of hours.
                note = f"No run of {row} on {result.name}: {error.expected}; {error.found}."
                self._notes.append(note)
        with (self._staged / "queries" / f"{result.name}.tsv").open("w", encoding="utf-8") as file:
            file.write("row\tmeasure\tquery\tvalue\n")
            for row, measures in result.report.per_query.items():
                for measure, values in measures.items():
                    for query, value in values.items():
                        file.write(f"{row}\t{measure}\t{query}\t{value:.6f}\n")

    def finish(self, experiment: Experiment) -> Path:
        """The path of report.md, when the whole report is in place."""
        content = json.dumps(experiment.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
        (self._staged / "report.json").write_text(content + "\n", encoding="utf-8")
        (self._staged / "report.md").write_text(self._markdown(experiment), encoding="utf-8")
        for name in PARTS:
            old = self.folder / name
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)
        for name in reversed(PARTS):
            (self._staged / name).rename(self.folder / name)
        self._staged.rmdir()
        return self.folder / "report.md"

    def _markdown(self, experiment: Experiment) -> str:
        notes = "".join(f"- {note}\n" for note in self._notes)
        text = to_markdown(experiment)
        return f"{text}\n## Not written\n\n{notes}" if notes else text


def to_markdown(experiment: Experiment) -> str:
    """One table of sets x rows for each measure, then how the numbers were made."""
    parts = ["# Evaluation\n"]
    parts += [table(experiment, measure) for measure in experiment.measures]
    parts.append(_sets_table(experiment))
    parts.append(_provenance(experiment))
    return "\n".join(parts)


def percentages(experiment: Experiment, measure: str) -> list[list[str]]:
    """One measure as a table of sets x rows, the names of the rows first, the mean last."""
    rows = list(dict.fromkeys(row for each in experiment.sets for row in each.report.means))
    lines = [(each.name, each.report.means) for each in experiment.sets]
    if len(lines) > 1:
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


def _truncation(experiment: Experiment) -> str:
    """One line: how much of each set the model did not read to its end."""
    shown = []
    for each in experiment.sets:
        if cut := each.details.get("truncated"):
            shown.append(f"{each.name} {cut['documents']} documents, {cut['queries']} queries")
    return f"\nCut at the maximum length: {'; '.join(shown)}.\n" if shown else ""


def _provenance(experiment: Experiment) -> str:
    details: dict[str, Any] = {}
    for each in experiment.sets:
        if model := each.details.get("model"):
            details[f"Model of {each.name}"] = (
                f"{model['name']} ({model['fingerprint'][:12]}), {model['max_length']} tokens"
            )
    if len(set(details.values())) == 1:
        details = {"Model": next(iter(details.values()))}
    first_bm25 = next((e.details["bm25"] for e in experiment.sets if "bm25" in e.details), None)
    if first_bm25:
        settings = f"k1 {first_bm25['k1']}, b {first_bm25['b']}, {first_bm25['variant']} variant"
        details["BM25"] = f"{first_bm25['implementation']}, {settings}"
    for name, value in experiment.provenance.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        details[name.capitalize()] = value
    lines = [f"- {name}: {value}" for name, value in details.items()]
    note = "Values are percent; every query of the judgements counts, an absent one as 0.\n"
    return "\n".join(["## How\n", note, *lines]) + "\n"
