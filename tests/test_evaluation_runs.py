"""How deep runs are: what is measured, what is fused, and what is left out of them."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval
from evaluation_fakes import Log, make_set

from m3search.corpus import write_run
from m3search.errors import DataError
from m3search.evaluation import EvaluationSet, ReportFolder, evaluate_sets
from m3search.evaluation.fused import Fused
from m3search.evaluation.suite import RowSettings
from m3search.evaluation.tuning import judged_scores, tune
from m3search.records import Qrels, Run


def measured(wanted: EvaluationSet, **options: Any) -> tuple[dict[str, Any], dict[str, Run]]:
    """What a report says of the set, and its runs."""
    log, kept = Log(), {}
    experiment = evaluate_sets(
        [wanted],
        log.encoders,  # type: ignore[arg-type]
        engine=log.engine(),
        keep=lambda _, runs, *__: kept.update(runs),
        **options,
    )
    return experiment.to_json()["sets"][wanted.name], kept


def make_large(folder: Path, documents: int = 300) -> tuple[EvaluationSet, Qrels]:
    """Two queries; every document has a word of the first, fewer have the second one's."""
    texts = {f"d{n}": "red" + " fox" * (n % 2) + " whale" * (n % 3 == 0) for n in range(documents)}
    queries = {"q1": "red fox", "q2": "whale"}
    judged = {"q1": {f"d{n}": 1 for n in range(0, documents, 5)}, "q2": {"d7": 1, "d9": 2}}
    return EvaluationSet(make_set(folder, texts, queries, judged)), judged


def test_a_measure_of_whole_runs_looks_at_all_of_them(tmp_path: Path) -> None:
    wanted, judged = make_large(tmp_path / "s")
    random = np.random.default_rng(3)
    run = {
        query: {f"d{n}": float(random.integers(20)) for n in random.permutation(300)[:250]}
        for query in judged
    }
    write_run(tmp_path / "other.trec", run)
    wanted = replace(
        wanted, measures=("AP", "R@100"), rows=("sparse", "bm25"), depth=150,
        run_files={"other": str(tmp_path / "other.trec")},
    )  # fmt: skip
    found, runs = measured(wanted)
    theirs = pytrec_eval.RelevanceEvaluator(judged, {"map", "recall.100"}).evaluate(run)
    for ours, name in (("AP", "map"), ("R@100", "recall_100")):
        mean = sum(values[name] for values in theirs.values()) / len(theirs)
        assert found["rows"]["other"][ours] == pytest.approx(mean, abs=1e-6)
    assert [len(runs[row]["q1"]) for row in ("sparse", "bm25", "other")] == [150, 150, 250]
    content = (tmp_path / "other.trec").read_bytes()
    assert found["fingerprints"]["run other"] == sha256(content).hexdigest()
    assert (found["settings"]["k"], found["settings"]["depth"]) == (150, 150)
    assert len(measured(replace(wanted, measures=("R@100",)))[1]["sparse"]["q1"]) == 100


def test_rows_that_are_not_run_decide_nothing(tmp_path: Path) -> None:
    wanted, _ = make_large(tmp_path / "s")
    own = {"all": RowSettings(depth=120)}
    alone = replace(wanted, rows=("sparse",), measures=("AP",), row_settings=own, depth=250)
    assert len(measured(alone)[1]["sparse"]["q1"]) == 250
    both = replace(alone, rows=("sparse", "all"))
    lengths = {row: len(run["q1"]) for row, run in measured(both)[1].items()}
    assert lengths == {"sparse": 250, "all": 120}  # each as deep as it goes
    deep = replace(both, row_settings={"sparse": RowSettings(depth=280)}, depth=120)
    lengths = {row: len(run["q1"]) for row, run in measured(deep)[1].items()}
    assert lengths == {"sparse": 280, "all": 120}  # no deeper for it
    hundred = replace(both, measures=("R@100",), row_settings={"all": RowSettings(depth=20)})
    assert len(measured(hundred)[1]["all"]["q1"]) == 20


def test_one_more_is_asked_for_where_the_query_is_left_out(tmp_path: Path) -> None:
    """So that a run is as long as any, and tuning begins from what the report has."""
    texts = {f"d{n}": "red" for n in range(150)}
    judged = {"d3": {"d149": 1}, "d140": {"d100": 1}}
    folder = make_set(tmp_path / "s", texts, dict.fromkeys(judged, "red"), judged)
    wanted = EvaluationSet(folder, depth=100, drop_same_id=True, rows=("sparse", "all", "bm25"))
    report, log = ReportFolder(tmp_path / "out"), Log()
    experiment = evaluate_sets([wanted], log.encoders, engine=log.engine(), keep=report.add)  # type: ignore[arg-type]
    report.finish(experiment)
    _, runs = measured(wanted)
    assert {len(run["d3"]) for run in runs.values()} == {100}
    assert log.searches[0]["depth"] == 101
    scores = judged_scores(wanted, tmp_path / "out" / "scores", "all", "R@100")
    assert scores.before.depth == 101
    assert tune([scores], "R@100", folds=2).before["s"] == pytest.approx(
        experiment.sets[0].report.means["all"]["R@100"]
    )


def test_a_report_has_the_depth_of_the_rows_without_one(tmp_path: Path) -> None:
    wanted, _ = make_large(tmp_path / "s")
    wanted = replace(wanted, row_settings={"all": RowSettings(depth=250)}, depth=120)
    settings = measured(wanted)[0]["settings"]
    assert (settings["depth"], settings["row_settings"]) == (120, {"all": {"depth": 250}})
    other = replace(wanted, rows=("sparse+dense", "dense+sparse+multi"), row_settings={
        "dense+sparse": RowSettings(depth=130), "all": RowSettings(depth=250),
        "multi": RowSettings(depth=9),
    })  # fmt: skip
    found = measured(other)[0]["settings"]["row_settings"]
    assert found == {"sparse+dense": {"depth": 130}, "dense+sparse+multi": {"depth": 250}}


def test_rows_are_fused_as_deep_as_they_were_searched(tmp_path: Path) -> None:
    """A document that two rows have far down may be among the best of both."""
    wanted, judged = make_large(tmp_path / "s")
    first = {f"d{n}": 300.0 - n for n in range(150)}
    second = {f"d{n}": 300.0 - n for n in (*range(150, 290), 149)}
    for name, run in (("one", first), ("two", second)):
        write_run(tmp_path / f"{name}.trec", dict.fromkeys(judged, run))
    wanted = replace(
        wanted, rows=("sparse", "bm25"), depth=200,
        run_files={name: str(tmp_path / f"{name}.trec") for name in ("one", "two")},
        fused={"files": Fused(("one", "two")), "ours": Fused(("sparse", "bm25"))},
    )  # fmt: skip
    _, runs = measured(wanted)
    assert len(runs["files"]["q1"]) == len(runs["ours"]["q1"]) == 100
    assert runs["files"]["q1"]["d149"] == pytest.approx(1 / 210 + 1 / 61)
    assert len(runs["one"]["q1"]) == 150  # measured as it is
    deep = replace(wanted, measures=("R@200",), fused={})
    _, parts = measured(deep)
    whole = wanted.fused["ours"].run(parts, 100)
    assert runs["ours"] == whole
    shallow = {row: dict([*parts[row].items()]) for row in parts}
    for row in ("sparse", "bm25"):
        shallow[row] = {q: dict([*f.items()][:100]) for q, f in parts[row].items()}
    assert wanted.fused["ours"].run(shallow, 100) != whole


def test_a_document_with_the_id_of_the_query_is_left_out_where_that_is_asked(
    tmp_path: Path,
) -> None:
    texts = {"q1": "red fox", "a": "red fox fox", "b": "red whale", "q2": "red"}
    queries = {"q1": "red fox", "q2": "red whale"}
    judged = {"q1": {"a": 1}, "q2": {"b": 1}}
    write_run(tmp_path / "own.trec", {q: {"q1": 3.0, "q2": 2.0, "a": 1.0} for q in queries})
    wanted = EvaluationSet(
        make_set(tmp_path / "s", texts, queries, judged),
        run_files={"own": str(tmp_path / "own.trec")},
        fused={"rrf": Fused(("bm25", "all"))},
        measures=("RR@10",),
    )
    with_it, runs = measured(wanted)
    assert all("q1" in runs[row]["q1"] for row in runs)
    without, runs = measured(replace(wanted, drop_same_id=True))
    for run in runs.values():
        assert run.keys() == queries.keys()
        assert all(query not in found for query, found in run.items())
        assert "q2" in run["q1"]  # another query's is a document like others
    report = ReportFolder(tmp_path / "out")
    log = Log()
    dropping = replace(wanted, drop_same_id=True)
    report.finish(
        evaluate_sets([dropping], log.encoders, engine=log.engine(), keep=report.add)  # type: ignore[arg-type]
    )
    scores = tmp_path / "out" / "scores"  # of all documents, whatever the rule
    assert measured(wanted, scores=scores)[0]["rows"] == with_it["rows"]
    assert measured(dropping, scores=scores)[0]["rows"] == without["rows"]
    values = [found["rows"]["own"]["RR@10"] for found in (with_it, without)]
    assert values == pytest.approx([1 / 6, 1 / 4])
    assert without["settings"]["drop_same_id"] and not with_it["settings"]["drop_same_id"]


def test_what_is_wrong_with_a_later_set_is_told_before_the_first_is_encoded(
    tmp_path: Path,
) -> None:
    first, second = (EvaluationSet(make_set(tmp_path / name)) for name in ("first", "second"))
    write_run(tmp_path / "foreign.trec", {"other": {"d1": 1.0}})
    foreign = replace(second, run_files={"x": str(tmp_path / "foreign.trec")})
    qrels = second.path / "qrels" / "test.tsv"
    whole = qrels.read_text()
    for sets, content, said in (
        ([first, foreign], whole, "of the set second"),
        ([first, second], whole + whole.splitlines()[1] + "\n", "test.tsv"),
        ([first, second], whole + "q1\tnowhere\t1\n", "nowhere"),
        ([first, second], whole + "nobody\td1\t1\n", "nobody"),
    ):
        qrels.write_text(content)
        log = Log()
        with pytest.raises(DataError, match=said):
            evaluate_sets(sets, log.encoders, engine=log.engine())  # type: ignore[arg-type]
        assert not log.built and not log.lengths
