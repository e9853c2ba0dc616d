"""`m3search compare`: two rows of reports, or two runs, and the queries that they part on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from running_commands import (  # noqa: F401
    Result,
    command_line,
    folder_of_a_judged_set,
    folder_of_a_test,
    lines_of,
)

from m3search.corpus import write_run


@pytest.fixture
def reports(m3: Callable[..., Result], judged: Path) -> Callable[..., Result]:
    """Two reports: in `wrong` the row all has the best document of q1 last."""
    assert m3("eval", "tiny", "--out", "right").code == 0
    runs = {"q1": {"dense": 3.0, "tea": 2.0, "late": 1.0}, "q2": {"dense": 1.0}}
    write_run("wrong.trec", runs)
    asked = ("--rows", "sparse", "--set", "run_files.other=wrong.trec")
    assert m3("eval", "tiny", "--out", "wrong", *asked).code == 0
    return m3


def test_two_reports(reports: Callable[..., Result], place: Path) -> None:
    result = reports("compare", "right:sparse", "wrong:other", "--data", str(place))
    assert result.code == 0
    header, line, _, *changes = result.out.splitlines()
    assert header.split()[:5] == ["nDCG@10", "A", "B", "B", "-"]
    assert line.split()[:4] == ["tiny", "100.0", "75.0", "-25.0"]
    assert line.split()[-3:] == ["0", "1", "2"]  # better, worse, of how many
    assert changes[:2] == ["tiny q1  100.0 -> 50.0", "  late token"]
    assert changes[2].startswith("  A  late  Late interaction")
    assert [each.split()[:2] for each in changes[-3:]] == [
        ["B", n] for n in ("dense", "tea", "late")
    ]


@pytest.mark.parametrize("split", ["test", "dev"])
@pytest.mark.parametrize("layout", ["flag", "trec"])
def test_texts_are_shown_of_every_layout(
    m3: Callable[..., Result], judged: Path, place: Path, layout: str, split: str
) -> None:
    """A report says by which split its sets were judged; of two runs --split does."""
    lines = (judged / "qrels" / "test.tsv").read_text().splitlines()[1:]
    triples = [line.split("\t") for line in lines]
    queries = lines_of((judged / "queries.jsonl").read_text())
    if layout == "flag":
        names = (f"{split}_queries.jsonl", f"{split}_qrels.jsonl")
        asked = [json.dumps({"id": each["_id"], "text": each["text"]}) for each in queries]
        graded = [json.dumps({"qid": q, "docid": d, "relevance": int(g)}) for q, d, g in triples]
    else:
        names = (f"topics.{split}.tsv", f"qrels.{split}.txt")
        asked = [f"{each['_id']}\t{each['text']}" for each in queries]
        graded = [f"{q} 0 {d} {g}" for q, d, g in triples]
    shutil.rmtree(judged / "qrels")
    (judged / "queries.jsonl").unlink()
    for name, written in zip(names, (asked, graded), strict=True):
        (judged / name).write_text("".join(line + "\n" for line in written))
    (judged / "other_queries.jsonl").write_text(json.dumps({"id": "q1", "text": "wrong"}) + "\n")
    write_run("wrong.trec", {"q1": {"dense": 2.0, "late": 1.0}, "q2": {"dense": 1.0}})
    options = ("--rows", "sparse", "--set", "run_files.other=wrong.trec", "--set", f"split={split}")
    assert m3("eval", "tiny", "--out", "report", *options).code == 0
    of_reports = ("report:sparse", "report:other", "--data", str(place))
    of_runs = ("report/runs/tiny.sparse.trec", "wrong.trec", "--set", "tiny", "--split", split)
    for arguments in (of_reports, of_runs):
        result = m3("compare", *arguments)
        assert result.code == 0, result.err
        assert "\n  late token\n  A  late  Late interaction A vector" in result.out
    (judged / names[1]).unlink()  # the judgements are in the report
    assert "\n  late token\n" in m3("compare", *of_reports).out
    (judged / "corpus.jsonl").unlink()
    without = m3("compare", *of_reports)
    assert without.code == 0 and "late token" not in without.out


def test_json_holds_all_of_it(reports: Callable[..., Result]) -> None:
    (found,) = lines_of(reports("compare", "right:sparse", "wrong:other", "--json", "-n", "1").out)
    assert (found["first"], found["second"]) == ("right:sparse", "wrong:other")
    compared = found["sets"]["tiny"]
    assert compared["difference"] == pytest.approx(compared["second"] - compared["first"])
    assert compared["interval"]["low"] <= compared["difference"] <= compared["interval"]["high"]
    assert 0 < compared["p"] <= compared["holm"] <= 1
    (change,) = compared["changes"]
    assert change["query"] == "q1" and change["second_hits"] == ["dense", "tea", "late"]


def test_runs_of_a_set(reports: Callable[..., Result]) -> None:
    runs = ("right/runs/tiny.sparse.trec", "wrong.trec")
    assert reports("compare", *runs).code == 2
    (found,) = lines_of(reports("compare", *runs, "--set", "tiny", "--json").out)
    assert found["sets"]["tiny"]["difference"] == pytest.approx(-0.25)
    for foreign in ({"other": {"dense": 1.0}}, {"q1": {"elsewhere": 1.0}}):
        write_run("foreign.trec", foreign)
        wrong = reports("compare", runs[0], "foreign.trec", "--set", "tiny")
        assert wrong.code == 1 and "of the set tiny, found none of them" in wrong.err
    write_run("part.trec", {"q1": {"dense": 2.0, "late": 1.0}})
    told = "tiny: B has nothing for 1 of the 2 queries; an absent one counts 0"
    assert told in reports("compare", runs[0], "part.trec", "--set", "tiny").out
    counted = reports("compare", runs[0], "part.trec", "--set", "tiny", "--measure", "NumRet").out
    assert "2 -> 0" in counted and "200" not in counted
    same = reports("compare", runs[0], runs[0], "--set", "tiny").out
    assert len(same.splitlines()) == 2 and "+0.0" in same


def test_a_row_and_its_own_run_are_the_same(
    reports: Callable[..., Result], judged: Path, place: Path
) -> None:
    """Also where a value has more digits than a report keeps of it."""
    assert (
        reports("eval", "tiny", "--out", "third", "--rows", "sparse", "--measures", "P@3").code == 0
    )
    sides = ("third:sparse", "third/runs/tiny.sparse.trec")
    for one, other in (sides, sides[::-1]):
        asked = ("--set", "tiny", "--measure", "P@3", "--json")
        (found,) = lines_of(reports("compare", one, other, *asked).out)
        same = found["sets"]["tiny"]
        assert 0 < same["first"] < 1
        assert (same["difference"], same["p"], same["better"], same["worse"]) == (0, 1, 0, 0)
        assert not same["changes"] and same["absent"] == [0, 0]


def test_other_judgements_are_refused_and_other_words_told(
    reports: Callable[..., Result], judged: Path
) -> None:
    """Queries of the same ids are not the same experiment."""
    queries = judged / "queries.jsonl"
    queries.write_text(queries.read_text().replace("late token", "token late"))
    assert reports("eval", "tiny", "--out", "reworded", "--rows", "sparse").code == 0
    told = reports("compare", "right:sparse", "reworded:sparse")
    assert told.code == 0 and "tiny: the two differ in their queries\n" in told.out
    (found,) = lines_of(reports("compare", "right:sparse", "reworded:sparse", "--json").out)
    assert found["sets"]["tiny"]["differing"] == ["queries"]
    dropped = ("--rows", "sparse", "--set", "drop_same_id=true")
    assert reports("eval", "tiny", "--out", "dropped", *dropped).code == 0
    told = reports("compare", "reworded:sparse", "dropped:sparse")
    assert "tiny: the two differ in their drop_same_id\n" in told.out
    beside = ("dropped:sparse", "right/runs/tiny.sparse.trec", "--set", "tiny")
    assert "tiny: the two differ in their drop_same_id\n" in reports("compare", *beside).out
    qrels = judged / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text().replace("q2\tdense", "q2\tlate"))
    assert reports("eval", "tiny", "--out", "regraded", "--rows", "sparse").code == 0
    run = "right/runs/tiny.sparse.trec"
    for pair in (("right:sparse", "regraded:sparse"), ("right:sparse", run, "--set", "tiny")):
        wrong = reports("compare", *pair)
        assert wrong.code == 1 and "expected the judgements by which right:sparse" in wrong.err
    right = reports("compare", "regraded:sparse", run, "--set", "tiny")
    assert right.code == 0, right.err


@pytest.mark.parametrize(("name", "folder"), [("kind-tiny", "kind/tiny"), ("ir-a-b", "ir/a+b")])
def test_words_of_a_set_that_was_had_by_name(
    m3: Callable[..., Result], judged: Path, place: Path, name: str, folder: str
) -> None:
    write_run("wrong.trec", {"q1": {"dense": 1.0}})
    options = ("--rows", "sparse", "--set", "run_files.other=wrong.trec")
    named = ("--set", f"sets.1.name={name}")
    assert m3("eval", "tiny", "--out", "report", *options, *named).code == 0
    pair = ("compare", "report:sparse", "report:other", "--data", str(place))
    without = m3(*pair)
    assert without.code == 0 and "no words are shown" in without.err
    (place / folder).parent.mkdir()
    judged.rename(place / folder)
    found = m3(*pair)
    assert "late token" in found.out and not found.err
    for sides in (("report:sparse", "wrong.trec"), ("wrong.trec", "report:sparse")):
        beside = m3("compare", *sides, "--set", folder)  # a run has the set by its folder's name
        assert beside.code == 0 and "late token" in beside.out


def test_sets_of_one_side_alone_are_told(reports: Callable[..., Result], judged: Path) -> None:
    shutil.copytree(judged, "second")
    assert reports("eval", "tiny", "second", "--out", "both", "--rows", "sparse").code == 0
    for sides in (("both:sparse", "right:sparse"), ("right:sparse", "both:sparse")):
        told = reports("compare", *sides)
        assert told.code == 0
        assert told.err.endswith("not compared, as both:sparse alone has them: second\n")


def test_a_report_without_its_runs_shows_no_hits(reports: Callable[..., Result]) -> None:
    shutil.rmtree("wrong/runs")
    assert "found nothing" not in reports("compare", "right:sparse", "wrong:other").out
    (found,) = lines_of(reports("compare", "right", "wrong:other", "--json").out)
    assert found["sets"]["tiny"]["changes"][0]["second_hits"] == []


def test_what_cannot_be_compared(reports: Callable[..., Result], place: Path) -> None:
    for arguments, expected in (
        (("right", "nowhere"), "nowhere: expected the folder of a report"),
        (("right:dance", "wrong"), "expected the row 'dance' measured by nDCG@10"),
        (("right", "wrong", "--measure", "P@1"), "measured by P@1"),
    ):
        result = reports("compare", *arguments)
        assert result.code == 1 and expected in result.err, result.err
    for content in ("{", "{}", "[]"):
        (place / "right" / "report.json").rename(place / "kept.json")
        (place / "right" / "report.json").write_text(content)
        damaged = reports("compare", "right", "wrong")
        assert damaged.code == 1 and "report.json: expected the numbers of a report" in damaged.err
        (place / "kept.json").rename(place / "right" / "report.json")
    values = place / "wrong" / "queries" / "tiny.tsv"
    whole = values.read_text()
    values.write_text(whole + "garbage\n")
    damaged = reports("compare", "right:sparse", "wrong:other")
    line = whole.count("\n") + 1
    assert damaged.code == 1 and f"and a value in line {line}" in damaged.err, damaged.err
    values.write_text(whole)
    values.write_text(re.sub(r"\tq(\d)\t", r"\tz\1\t", values.read_text()))
    assert (
        "expected queries that right:sparse has"
        in reports("compare", "right:sparse", "wrong:other").err
    )
