"""Rows that fuse the runs of others: by rank, and with a fourth signal beside the modes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_fakes import Log, make_set

from m3search.errors import ConfigError
from m3search.evaluation import ReportFolder, evaluate_sets, load_sets
from m3search.evaluation.fused import Fused
from m3search.records import Run

RUNS: dict[str, Run] = {
    "one": {"q": {"a": 3.0, "b": 2.0, "c": 1.0}, "only": {"x": 1.0}},
    "two": {"q": {"c": 9.0, "d": 8.0}},
}


def test_ranks_by_hand() -> None:
    found = Fused(("one", "two")).run(RUNS, 10)
    assert list(found["q"]) == ["c", "a", "d", "b"]  # equal ones as measures take them
    wanted = {"c": 1 / 63 + 1 / 61, "a": 1 / 61, "b": 1 / 62, "d": 1 / 62}
    assert found["q"] == pytest.approx(wanted)
    assert found["only"] == pytest.approx({"x": 1 / 61})
    other = Fused(("one", "two"), weights=(0.0, 2.0), constant=0).run(RUNS, 2)
    assert other["q"] == pytest.approx({"c": 2.0, "d": 1.0})


def test_a_row_that_weighs_nothing_adds_no_documents() -> None:
    for by in ("rank", "score"):
        fused: Any = Fused(("one", "two"), by=by, weights=(0.0, 2.0))
        assert fused.run(RUNS, 10)["q"].keys() == RUNS["two"]["q"].keys()


def test_scores_by_hand() -> None:
    found = Fused(("one", "two"), by="score", weights=(1.0, 0.5)).run(RUNS, 3)
    assert found["q"] == {"c": 5.5, "d": 4.0, "a": 3.0}
    assert found["only"] == {"x": 1.0}
    assert Fused(("one", "two"), by="score").run(RUNS, 1)["q"] == {"c": 10.0}


def test_a_run_that_found_nothing() -> None:
    for by in ("rank", "score"):
        fused: Any = Fused(("one", "two"), by=by)
        assert fused.run({"one": {"q": {}}, "two": {}}, 5) == {"q": {}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[fused.rrf]\nrows = ['dense']", "two or more that differ"),
        ("[fused.rrf]\nrows = ['dense', 'dense']", "two or more that differ"),
        ("[fused.rrf]\nrows = ['dense', 'other']", "'other'"),
        ("[fused.rrf]\nrows = ['dense', 'bm25']\nweights = [1]", "1 weights of 2 rows"),
        ("[fused.rrf]\nrows = ['dense', 'bm25']\nweights = [1, -1]", "not from 0 to"),
        ("[fused.rrf]\nrows = ['dense', 'bm25']\nweights = [0, 0]", "all 0"),
        ("[fused.rrf]\nrows = ['dense', 'bm25']\nconstant = -1", "not from 0 to"),
        ("[fused.rrf]\nrows = ['dense', 'bm25']\nby = 'place'", "'place'"),
        ("[fused.all]\nrows = ['dense', 'bm25']", "names that no other row has, found 'all'"),
        ("[fused.'a/b']\nrows = ['dense', 'bm25']", "not of letters"),
    ],
)
def test_what_cannot_be_fused_is_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(f"rows = ['dense', 'bm25']\n{text}\n[[sets]]\npath = 'a'\n")
    with pytest.raises(ConfigError) as caught:
        load_sets([path])
    assert said in str(caught.value)


def test_rows_of_a_report_fuse_each_other_and_run_files(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "one")
    other = tmp_path / "other.trec"
    log = Log()
    (tmp_path / "suite.toml").write_text(
        "rows = ['dense', 'sparse', 'all', 'bm25']\n"
        f"[run_files]\nother = '{other}'\n"
        "[fused.rrf]\nrows = ['dense', 'sparse', 'other']\n"
        "[fused.with-bm25]\nrows = ['all', 'bm25']\nby = 'score'\nweights = [1, 0.1]\n"
        f"[[sets]]\npath = '{folder}'\n"
    )
    (wanted,) = load_sets([tmp_path / "suite.toml"])
    lines = (folder / "queries.jsonl").read_text().splitlines()
    asked = [json.loads(line)["_id"] for line in lines]
    lines = [f"{query} Q0 nobody 1 1.0 other\n" for query in asked]
    other.write_text("".join([*lines, f"{asked[0]} Q0 d1 2 0.5 other\n"]))
    kept: dict[str, Run] = {}
    report = ReportFolder(tmp_path / "out")

    def keep(result: Any, runs: dict[str, Run], qrels: Any, scores: Any) -> None:
        kept.update(runs)
        report.add(result, runs, qrels, scores)

    experiment = evaluate_sets([wanted], log.encoders, engine=log.engine(), keep=keep)
    text = report.finish(experiment).read_text()
    assert list(kept) == ["dense", "sparse", "all", "bm25", "other", "rrf", "with-bm25"]
    for query, found in kept["with-bm25"].items():
        for name, score in found.items():
            parts = [kept[row].get(query, {}).get(name, 0.0) for row in ("all", "bm25")]
            assert score == pytest.approx(parts[0] + 0.1 * parts[1], rel=1e-6)
    assert all("nobody" in found for found in kept["rrf"].values())
    assert (tmp_path / "out" / "runs" / "one.rrf.trec").exists()
    assert "rrf by rank (constant 60): 1 dense, 1 sparse, 1 other" in text
    assert "with-bm25 by score: 1 all, 0.1 bm25" in text
    assert {*experiment.sets[0].report.means} == {*kept}
