"""The folder that an evaluation leaves: its reports, runs, scores and values per query.

    report.md                  the tables
    report.html                the tables and plots in one page that needs no other file
    report.json                all numbers; it comes last: a folder without it has no whole report
    runs/<set>.<row>.trec      TREC runs
    scores/<set>.jsonl.gz      component scores: any other weights or rows can be made from them
    queries/<set>.tsv          row, measure, query, value

All is first written to `.unfinished` inside the folder, which a killed run leaves behind and the
next one clears. While a new report takes the place of an older one, that one waits in `.older`: a
kill in between leaves a whole report on the disk, and the next run puts the new one in its place.
Other files stay, in `runs` as well.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from m3search.corpus import write_run
from m3search.errors import ConfigError, DataError
from m3search.evaluation.comparing import DIGITS
from m3search.evaluation.components import ComponentScores
from m3search.evaluation.figures import SetFigures, make_figures
from m3search.evaluation.html import to_html
from m3search.evaluation.results import Experiment, SetResult
from m3search.evaluation.score_files import scores_file
from m3search.evaluation.tables import to_markdown
from m3search.records import Qrels, Run

SCORES = "scores"
PARTS = ("report.json", "report.html", "report.md", "runs", SCORES, "queries")
"""in the order in which an older report goes; a new one comes in the reverse order"""
UNFINISHED, OLDER = ".unfinished", ".older"


def scores_of(report: Path) -> Path:
    """The folder of component scores in that of a report; ConfigError where that is none."""
    if not report.is_dir():
        raise ConfigError(
            str(report),
            expected="the folder of a report",
            found="a file" if report.exists() else "nothing at this path",
            remedy="Give the folder with report.json in it, as m3search eval --out leaves one.",
        )
    return report / SCORES


class ReportFolder:
    """Takes the sets one by one (`add`), then makes the whole report appear (`finish`)."""

    def __init__(self, folder: str | Path) -> None:
        """An older report in the folder stays until `finish`; other files stay altogether."""
        self.folder = Path(folder)
        self._staged, self._older = self.folder / UNFINISHED, self.folder / OLDER
        self.notes: list[str] = []
        """what could not be written, a sentence each"""
        self._figures: dict[str, SetFigures] = {}
        self._close: Callable[[], object] = lambda: None
        try:
            self._lock()
            self._begin()
        except OSError as error:  # no permission, a full disk, a file above it
            self.close()
            raise ConfigError(
                str(folder),
                expected="a folder for the report, which can be written to",
                found=error.strerror or str(error),
                remedy="Give another folder, or make this one writable.",
            ) from error

    def _lock(self) -> None:
        """Makes the folder, and keeps others from reporting into it until `finish`.

        The kernel takes the lock back when the process ends. File systems without locks go without.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(
                str(self.folder),
                expected="a folder for the report",
                found="a file",
                remedy="Give another name.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise ConfigError(
                str(self.folder),
                expected="a folder that no other evaluation reports into",
                found="one that is at it, or a ReportFolder that was not closed",
                remedy="Give the report another with --out, or wait for the other to end.",
            ) from error
        except OSError:
            return

    def _begin(self) -> None:
        """Ends what a killed run has left, and makes the folders of a new report."""
        if self._older.exists():
            self._exchange()
        elif self._staged.exists():
            shutil.rmtree(self._staged)
        (self._staged / "runs").mkdir(parents=True)
        (self._staged / "queries").mkdir()
        (self._staged / SCORES).mkdir()

    def add(
        self,
        result: SetResult,
        runs: Mapping[str, Run],
        qrels: Qrels,
        scores: ComponentScores | None = None,
    ) -> None:
        """Writes the runs, the component scores and the values per query of one set, and keeps
        what the plots need of them."""
        self._figures[result.name] = make_figures(result, runs, qrels, scores)
        if scores is not None:
            scores.write(scores_file(self._staged / SCORES, result.name))
        for row, run in runs.items():
            try:
                write_run(self._staged / "runs" / f"{result.name}.{row}.trec", run, row)
            except DataError as error:
                if isinstance(error.__cause__, OSError):  # a full disk, no permission
                    raise
                # An id with white space must not cost the results of hours.
                note = f"No run of {row} on {result.name}: {error.expected}; {error.found}."
                self.notes.append(note)
        with (self._staged / "queries" / f"{result.name}.tsv").open("w", encoding="utf-8") as file:
            file.write("row\tmeasure\tquery\tvalue\n")
            for row, measures in result.report.per_query.items():
                for measure, values in measures.items():
                    for query, value in values.items():
                        file.write(f"{row}\t{measure}\t{query}\t{value:.{DIGITS}f}\n")

    def finish(self, experiment: Experiment) -> Path:
        """The path of report.md, when the whole report is in place."""
        content = json.dumps(experiment.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
        (self._staged / "report.json").write_text(content + "\n", encoding="utf-8")
        page = to_html(experiment, self._figures, self.notes)
        (self._staged / "report.html").write_text(page, encoding="utf-8")
        (self._staged / "report.md").write_text(self._markdown(experiment), encoding="utf-8")
        self._older.mkdir()
        self._exchange()
        self.close()
        return self.folder / "report.md"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets others report into the folder; `finish` and the end of a `with` do so, too."""
        self._close()

    def _exchange(self) -> None:
        """Puts the whole report that is staged in the place of the older one; begun or not.

        A part in the folder is the older report's as long as the new one's is staged.
        """
        waiting = [name for name in PARTS if (self._staged / name).exists()]
        for name in waiting:
            if (self.folder / name).exists():
                (self.folder / name).rename(self._older / name)
        for name in reversed(waiting):
            (self._staged / name).rename(self.folder / name)
        shutil.rmtree(self._staged, ignore_errors=True)
        self._keep_others()
        # its report.json, which says what is its own, goes last
        for name in (*reversed(PARTS), ""):
            place = self._older / name
            if place.is_dir():
                shutil.rmtree(place)

    def _keep_others(self) -> None:
        """Moves what stands beside the older report's own runs to those of the new one."""
        try:
            sets = json.loads((self._older / "report.json").read_bytes())["sets"]
            own = {f"{name}.{row}.trec" for name, found in sets.items() for row in found["rows"]}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):  # no report
            own = set()
        for path in (self._older / "runs").glob("*"):
            kept = self.folder / "runs" / path.name
            if path.name not in own and not kept.exists():
                path.rename(kept)

    def _markdown(self, experiment: Experiment) -> str:
        notes = "".join(f"- {note}\n" for note in self.notes)
        text = to_markdown(experiment)
        return f"{text}\n## Not written\n\n{notes}" if notes else text
