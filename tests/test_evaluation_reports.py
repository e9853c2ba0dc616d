"""The folder of a report: its files, its tables, and what an older report becomes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from evaluation_fakes import Log, make_set
from killing import kill_at_each_call

from m3search.corpus import read_run
from m3search.errors import ConfigError, DataError
from m3search.evaluation import (
    EvaluationSet,
    Experiment,
    Report,
    ReportFolder,
    SetResult,
    evaluate_sets,
)
from m3search.evaluation.markdown import markdown
from m3search.evaluation.tables import measure_table, to_markdown

OTHER = "one.other.trec"


def run_two_sets(tmp_path: Path, out: Path) -> Path:
    log = Log()
    sets = [
        EvaluationSet(make_set(tmp_path / name), rows=("dense", "bm25")) for name in ("one", "two")
    ]
    folder = ReportFolder(out)
    experiment = evaluate_sets(
        sets,
        log.encoders,
        engine=log.engine(),
        keep=folder.add,
        provenance={"command": "m3search eval one two"},
    )
    return folder.finish(experiment)


def test_a_report_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = run_two_sets(tmp_path, out)
    assert path == out / "report.md"
    assert sorted(each.relative_to(out).as_posix() for each in out.rglob("*")) == [
        "queries", "queries/one.tsv", "queries/two.tsv", "report.html", "report.json", "report.md",
        "runs", "runs/one.bm25.trec", "runs/one.dense.trec", "runs/two.bm25.trec",
        "runs/two.dense.trec",
        "scores", "scores/one.jsonl.gz", "scores/two.jsonl.gz",
    ]  # fmt: skip
    assert read_run(out / "runs" / "one.dense.trec")["q2"] == {"d2": 1.0}
    found = json.loads((out / "report.json").read_text())
    values = [line.split("\t") for line in (out / "queries" / "one.tsv").read_text().splitlines()]
    assert values[0] == ["row", "measure", "query", "value"]
    dense = [
        float(v) for row, measure, _, v in values[1:] if (row, measure) == ("dense", "nDCG@10")
    ]
    mean = found["sets"]["one"]["rows"]["dense"]["nDCG@10"]
    assert sum(dense) / len(dense) == pytest.approx(mean, abs=1e-6)
    text = path.read_text()
    assert f"| {100 * mean:.1f} |" in text.replace("**", "")
    for part in ("| mean |", "- Command: m3search eval one two", "- Model: fake (ffffffffffff)"):
        assert part in text


def test_an_older_report_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    (out / "runs" / "old.dense.trec").write_text("old")
    (out / "report.json").write_text('{"sets": {"old": {"rows": {"dense": {}}}}}')
    (out / "notes.txt").write_text("mine")
    (out / ".unfinished" / "runs").mkdir(parents=True)  # of a killed run
    (out / ".unfinished" / "runs" / "half.trec").write_text("half")
    run_two_sets(tmp_path, out)
    names = {each.name for each in out.rglob("*")}
    assert {"notes.txt", "one.dense.trec"} <= names
    assert not names & {"old.dense.trec", "half.trec", ".unfinished"}


def test_an_evaluation_that_fails_leaves_the_older_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_two_sets(tmp_path / "first", out)
    before = (out / "report.json").read_text()
    folder, log = ReportFolder(out), Log()
    good = EvaluationSet(make_set(tmp_path / "good"), rows=("dense",))
    bad = EvaluationSet(make_set(tmp_path / "bad", split="dev"), rows=("dense",))
    with pytest.raises(DataError):
        evaluate_sets([good, bad], log.encoders, engine=log.engine(), keep=folder.add)
    assert (out / "report.json").read_text() == before
    assert not (out / "runs" / "good.dense.trec").exists()


def test_one_evaluation_at_a_time_reports_into_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = ReportFolder(out)
    with pytest.raises(ConfigError, match="no other evaluation reports into, found one that is"):
        ReportFolder(out)
    first.close()
    run_two_sets(tmp_path, out)
    ReportFolder(out)  # what has finished lets others in


def contents(out: Path) -> dict[str, bytes]:
    """The files of the report that is in place; not the run of another system."""
    files = [each for each in out.rglob("*") if each.is_file() and each.name != OTHER]
    shown = {each.relative_to(out).as_posix(): each.read_bytes() for each in files}
    return {name: read for name, read in shown.items() if not name.startswith(".")}


def test_killed_at_any_call_the_old_or_the_new_report_is_whole(tmp_path: Path) -> None:
    log, out, safe = Log(), tmp_path / "out", tmp_path / "safe"
    sets = [EvaluationSet(make_set(tmp_path / name), rows=("dense",)) for name in ("one", "two")]

    def evaluate(wanted: EvaluationSet) -> tuple[ReportFolder, Experiment]:
        report = ReportFolder(out)
        return report, evaluate_sets([wanted], log.encoders, engine=log.engine(), keep=report.add)

    report, experiment = evaluate(sets[0])
    report.finish(experiment)
    old = contents(out)
    (out / "runs" / OTHER).write_text("of another system")
    report, experiment = evaluate(sets[1])
    report.close()  # as the end of its process does
    shutil.copytree(out, safe)
    met, recovered = [], []
    for _ in kill_at_each_call(lambda: report.finish(experiment)):
        met.append(contents(out))
        assert [found.read_text() for found in out.rglob(OTHER)] == ["of another system"]
        found = ReportFolder(out)  # the next run: it ends what was begun
        recovered.append(contents(out))
        assert not any(each.is_file() for each in (out / ".unfinished").rglob("*"))
        assert not (out / ".older").exists()
        found.close()
        shutil.rmtree(found.folder)
        shutil.copytree(safe, out)
    new = contents(out)
    assert {"runs/one.dense.trec", "report.json"} <= old.keys()
    assert {"runs/two.dense.trec", "report.json"} <= new.keys()
    whole = [found for found in met if "report.json" in found]
    assert all(found in (old, new) for found in whole)
    assert whole[0] == old and whole[-1] == new
    assert len(whole) < len(met) and len(met) > 20
    assert all(found in (old, new) for found in recovered)
    assert recovered[0] == old and recovered[-1] == new
    assert any(found == new and before != new for before, found in zip(met, recovered, strict=True))
    json.loads(new["report.json"])
    report, experiment = evaluate(sets[0])  # after any of them, another one
    report.finish(experiment)
    assert contents(out).keys() == old.keys()


def test_runs_that_are_not_of_the_report_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name, rows in (("s", ("dense", "sparse")), ("t", ("dense",)), ("t", ("dense",))):
        report = ReportFolder(out)
        folder = tmp_path / name
        folder = folder if folder.exists() else make_set(folder)
        sets, log = [EvaluationSet(folder, rows=rows)], Log()
        report.finish(evaluate_sets(sets, log.encoders, engine=log.engine(), keep=report.add))
        (out / "runs" / "theirs.trec").write_text("mine")
    names = sorted(path.name for path in (out / "runs").iterdir())
    assert names == ["t.dense.trec", "theirs.trec"]  # those of the older report are gone
    assert (out / "runs" / "theirs.trec").read_text() == "mine"


@pytest.mark.parametrize("note", [None, "{", "{}"])
def test_runs_stay_where_there_was_no_report(tmp_path: Path, note: str | None) -> None:
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    (out / "runs" / "theirs.trec").write_text("mine")
    if note is not None:
        (out / "report.json").write_text(note)
    run_two_sets(tmp_path, out)
    assert (out / "runs" / "theirs.trec").read_text() == "mine"
    assert not (out / ".older").exists()


def test_ids_with_white_space_cost_the_run_file_only(tmp_path: Path) -> None:
    texts = {"d 1": "red fox", "d2": "blue whale"}
    folder = make_set(tmp_path / "s", texts=texts, judged={"q1": {"d 1": 1}})
    report = ReportFolder(tmp_path / "out")
    sets = [EvaluationSet(folder, rows=("bm25",))]
    experiment = evaluate_sets(sets, Log().encoders, keep=report.add)
    text = report.finish(experiment).read_text()
    assert "No run of bm25 on s" in text and "'d 1'" in text
    assert not list((tmp_path / "out" / "runs").iterdir())
    assert experiment.sets[0].report.means["bm25"]["R@100"] == 1.0


def test_a_run_that_cannot_be_written_ends_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlike an id with white space: then no other run would be written either."""
    report = ReportFolder(tmp_path / "out")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("m3search.corpus.trec._write_lines", refuse)
    sets = [EvaluationSet(make_set(tmp_path / "s"), rows=("bm25",))]
    with pytest.raises(DataError, match="No space left"):
        evaluate_sets(sets, Log().encoders, keep=report.add)


def test_a_file_in_the_place_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="a folder for the report"):
        ReportFolder(tmp_path / "out")


def test_a_place_that_cannot_be_written_to_is_named_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "out")
    expected = f"{place}: expected a folder for the report, which can be written to, found Not a"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        ReportFolder(place)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "a folder inside")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        ConfigError, match=r"out: .*, found Permission denied\. Give another folder"
    ):
        ReportFolder(tmp_path / "out")


def test_the_best_row_is_bold_and_a_row_that_a_set_lacks_is_empty(tmp_path: Path) -> None:
    log = Log()
    sets = [
        EvaluationSet(make_set(tmp_path / "one"), rows=("dense", "bm25"), measures=("P@1",)),
        EvaluationSet(
            make_set(tmp_path / "two", judged={"q1": {"d4": 1}}), rows=("bm25",), measures=("P@1",)
        ),
    ]
    experiment = evaluate_sets(sets, log.encoders, engine=log.engine())
    assert markdown(measure_table(experiment, "P@1")).splitlines()[2:] == [
        "| set | dense | bm25 |",
        "|---|---:|---:|",
        "| one | **100.0** | **100.0** |",
        "| two |  | **0.0** |",
        "| mean |  | **50.0** |",
    ]


def test_rows_are_told_apart_by_their_differences(tmp_path: Path) -> None:
    values = {"dense": [0.1, 0.2] * 20, "all": [0.4, 0.5] * 20, "bm25": [0.4, 0.5, 0.5, 0.4] * 10}
    per_query = {
        row: {"P@1": {f"q{n}": value for n, value in enumerate(column)}}
        for row, column in values.items()
    }
    means = {row: {"P@1": sum(column) / 40} for row, column in values.items()}
    report = Report(("P@1",), 40, means, per_query, dict.fromkeys(values, 0))
    details = {
        "counts": {"documents": 1, "queries": 40, "judgements": 40},
        "seconds": {},
        "settings": {
            "split": "test", "k": 1, "depth": 1, "missing": "exact", "candidates": "union",
            "max_length": 8, "title_template": "{text}", "weights": {},
        },
    }  # fmt: skip
    result = SetResult("s", report, details)
    text = to_markdown(Experiment((result,), {}))
    table = text.split("## Differences in P@1\n\n")[1].split("\n\n")[0].splitlines()
    assert table[0] == "| set | dense | bm25 |"
    assert table[2].startswith("| s | +30.0\\* (+30.0 to +30.0) | +0.0 (-")
    assert "less the others" in text
    (dense_all, dense_bm25, all_bm25) = result.to_json()["differences"]
    assert dense_all["first"] == "dense" and dense_all["mean"] == pytest.approx(-0.3)
    assert all_bm25["holm"] == 1.0 and dense_bm25["holm"] < 0.01
