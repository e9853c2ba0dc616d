"""Experiments: the rows, measures, means and cut texts of evaluated sets."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_fakes import FakeEncoder, FakeManifest, Log, WordEncoder, make_set

from m3search.corpus import write_run
from m3search.errors import ConfigError, DataError
from m3search.evaluation import EvaluationSet, ReportFolder, evaluate_sets, load_sets
from m3search.evaluation.cache import Cache
from m3search.evaluation.suite import ROWS, modes_of
from m3search.evaluation.tables import percentages, to_markdown
from m3search.records import MODES, Encoded
from m3search.stores.files import checksum


def test_rows_and_measures_of_a_set(tmp_path: Path) -> None:
    log, steps = Log(), []
    [wanted] = load_sets([make_set(tmp_path / "animals")])
    wanted = replace(wanted, depth=30, weights=(1.0, 0.3, 1.0), language="en", max_length=64)
    found = evaluate_sets(
        [wanted],
        log.encoders,
        engine=log.engine(),
        progress=lambda *step: steps.append(step),
        provenance={"command": "m3search eval animals"},
    ).to_json()
    assert set(found) == {"sets", "provenance"}
    [animals] = found["sets"].values()
    assert list(animals["rows"]) == list(ROWS)
    assert animals["rows"]["dense"] == {"nDCG@10": pytest.approx(0.93, 0.01), "R@100": 1.0}
    assert animals["rows"]["bm25"]["R@100"] == 1.0
    assert animals["counts"]["queries"] == 2
    assert animals["bytes"] == {"dense": 1_500_000, "sparse": 500_000}
    assert animals["bm25"]["language_origin"] == "given"
    assert animals["model"]["max_length"] == 64
    stages = {"index", "encode queries", "candidates", "bm25 index", "bm25"}
    assert set(animals["seconds"]) == stages
    assert found["provenance"]["command"] == "m3search eval animals"
    assert "bm25s" in found["provenance"]["versions"]
    json.dumps(found, allow_nan=False)
    assert log.encoded == [2]
    assert log.lengths == [64]
    assert log.searches == [{"stages": MODES, "modes": MODES, "depth": 100}]
    default = {"dense": 1.0, "sparse": 0.3, "multi": 1.0}
    for row, weights in animals["settings"]["weights"].items():
        modes = modes_of(row) or ()
        assert weights == {mode: default[mode] if len(modes) > 1 else 1.0 for mode in modes}
    assert steps[:2] == [("reading the sets", 1, 1), ("animals: indexing", 4, 4)]


def test_what_was_run_is_reported_with_its_defaults(tmp_path: Path) -> None:
    log = Log()
    one = EvaluationSet(make_set(tmp_path / "one"), depth=300)
    two = EvaluationSet(
        make_set(tmp_path / "two"), depth=7, row_weights={"dense+sparse": (0.2, 0.8, 0.0)},
        weights=(0.0, 0.0, 1.0), rows=("dense", "multi", "dense+sparse", "all"), max_length=64,
        title_template="{title} | {text}",
    )  # fmt: skip
    three = EvaluationSet(make_set(tmp_path / "three"), rows=("bm25",), measures=("R@1000",))
    report = ReportFolder(tmp_path / "out")
    experiment = evaluate_sets(
        [one, two, three], log.encoders, engine=log.engine(), keep=report.add
    )
    found = {each.name: each.details["settings"] for each in experiment.sets}
    assert found["one"]["weights"] == {
        "dense": {"dense": 1.0}, "sparse": {"sparse": 1.0}, "multi": {"multi": 1.0},
        "dense+sparse": {"dense": 1.0, "sparse": 0.3},
        "all": {"dense": 1.0, "sparse": 0.3, "multi": 1.0},
    }  # fmt: skip
    assert (found["one"]["depth"], found["one"]["max_length"]) == (300, 512)
    assert found["two"]["weights"]["dense+sparse"] == {"dense": 0.2, "sparse": 0.8}
    assert found["two"]["weights"]["all"] == {"dense": 0.0, "sparse": 0.0, "multi": 1.0}
    assert (found["two"]["depth"], found["two"]["max_length"]) == (100, 64)
    assert (found["three"]["k"], found["three"]["weights"]) == (1000, {})
    text = report.finish(experiment).read_text()
    assert [line for line in text.splitlines() if line.startswith("| ") and "`" in line] == [
        '| one | test | 100 | 300 | exact | union | 512 | `"{title}\\n{text}"` '
        "| dense+sparse 1, 0.3, -; all 1, 0.3, 1 |",
        '| two | test | 100 | 100 | exact | union | 64 | `"{title} \\| {text}"` '
        "| dense+sparse 0.2, 0.8, -; all 0, 0, 1 |",
        '| three | test | 1000 | 200 | exact | union |  | `"{title}\\n{text}"` |  |',
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": (0.2, 0.8, 0.0), "rows": ("dense", "sparse+multi", "multi+dense")}, ""),
        (
            {"weights": (0.0, 0.0, 1.0)},
            "row dense+sparse of the set bad, weights: expected a weight above 0 for dense or",
        ),
        (
            {"row_weights": {"all": (0.0, 0.0, 0.0)}},
            "row all of the set bad, weights: expected a weight above 0 for dense or sparse or",
        ),
    ],
)
def test_every_row_is_checked_before_anything_is_indexed(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    log = Log()
    good = EvaluationSet(make_set(tmp_path / "good"), rows=("dense",))
    bad = replace(EvaluationSet(make_set(tmp_path / "bad")), **changes)
    if not said:
        evaluate_sets([good, bad], log.encoders, engine=log.engine())
        return
    with pytest.raises(ConfigError, match=re.escape(said)):
        evaluate_sets([good, bad], log.encoders, engine=log.engine())
    assert (log.built, log.lengths) == ([], [])


def test_a_measure_that_looks_further_gets_longer_runs(tmp_path: Path) -> None:
    log = Log()
    wanted = EvaluationSet(make_set(tmp_path / "s"), measures=("R@1000",), rows=("sparse",))
    evaluate_sets([wanted], log.encoders, engine=log.engine())
    assert log.searches == [{"stages": ("sparse",), "modes": ("sparse",), "depth": 1000}]


def test_bm25_alone_needs_no_model(tmp_path: Path) -> None:
    def refuse(_: int | None) -> FakeEncoder:
        raise AssertionError

    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("bm25",))
    [result] = evaluate_sets([wanted], refuse).sets
    assert list(result.report.means) == ["bm25"]
    assert "model" not in result.details


def test_the_mean_is_over_sets_and_for_what_all_have(tmp_path: Path) -> None:
    log = Log()
    one = EvaluationSet(make_set(tmp_path / "one"), rows=("bm25", "dense"))
    two = EvaluationSet(
        make_set(tmp_path / "two", judged={"q1": {"d4": 1}}),
        rows=("dense", "sparse"),
        measures=("R@100", "P@1"),
    )
    found = evaluate_sets([one, two], log.encoders, engine=log.engine()).to_json()
    assert found["mean"] == {"rows": {"dense": {"R@100": 0.5}}}
    assert log.lengths == [None]  # one encoder serves sets of the same length


def test_groups_have_means_of_their_own(tmp_path: Path) -> None:
    log = Log()
    hard = make_set(tmp_path / "one", judged={"q1": {"d4": 1}})
    folders = (hard, make_set(tmp_path / "two"), make_set(tmp_path / "three"))
    sets = [
        EvaluationSet(folder, rows=("dense",), measures=("R@100",), group=group)
        for folder, group in zip(folders, ("b", "b", "a"), strict=True)
    ]
    experiment = evaluate_sets(sets, log.encoders, engine=log.engine())
    assert experiment.groups == ["b", "a"]
    values = [each.report.means["dense"]["R@100"] for each in experiment.sets]
    assert values[0] != values[1]
    found = experiment.to_json()
    of_b, of_a = (sum(values[:2]) / 2, values[2])
    assert found["groups"]["b"]["rows"]["dense"]["R@100"] == pytest.approx(of_b)
    assert found["groups"]["a"]["rows"]["dense"]["R@100"] == pytest.approx(of_a)
    names = [line[0] for line in percentages(experiment, "R@100")]
    assert names == ["set", "one", "two", "three", "mean of b", "mean"]


def test_runs_of_other_systems_stand_beside(tmp_path: Path) -> None:
    log = Log()
    for name, document in (("one", "d1"), ("two", "d2")):
        write_run(tmp_path / f"{name}.trec", {"q1": {document: 1.0}})
    others = {"other": str(tmp_path / "{set}.trec")}
    sets = [
        EvaluationSet(
            make_set(tmp_path / name, judged={"q1": {"d1": 1}}),
            rows=("dense",),
            run_files=others,
        )
        for name in ("one", "two")
    ]
    report = ReportFolder(tmp_path / "report")
    experiment = evaluate_sets(sets, log.encoders, engine=log.engine(), keep=report.add)
    text = report.finish(experiment).read_text()
    found = [each.report.means["other"]["R@100"] for each in experiment.sets]
    assert found == [1.0, 0.0]
    assert list(experiment.sets[0].report.means) == ["dense", "other"]
    assert "| set | dense | other |" in text and str(tmp_path / "{set}.trec") in text
    assert (tmp_path / "report" / "runs" / "two.other.trec").exists()
    [alone] = evaluate_sets([replace(sets[0], rows=())], log.encoders, engine=log.engine()).sets
    assert list(alone.report.means) == ["other"]
    (tmp_path / "two.trec").unlink()
    encoded = list(log.encoded)
    with pytest.raises(DataError, match=r"two\.trec: expected a file"):
        evaluate_sets(sets, log.encoders, engine=log.engine())
    assert log.encoded == encoded  # nothing was begun


def test_a_run_that_names_no_document_of_the_corpus_is_refused(tmp_path: Path) -> None:
    log = Log()
    write_run(tmp_path / "other.trec", {"q1": {"d1#0": 1.0}})
    others = {"other": str(tmp_path / "other.trec")}
    one = EvaluationSet(make_set(tmp_path / "one"), rows=(), run_files=others)
    with pytest.raises(DataError, match=r"documents of the set one, found .*'d1#0'"):
        evaluate_sets([one], log.encoders, engine=log.engine())
    write_run(tmp_path / "other.trec", {"q1": {"d1#0": 2.0, "d3": 1.0}})  # judged or not
    assert evaluate_sets([one], log.encoders, engine=log.engine()).sets


def test_a_report_says_on_what_data_and_machine_it_was_made(tmp_path: Path) -> None:
    log = Log()
    found = []
    for name, judged in (("one", {"q1": {"d1": 1}}), ("two", {"q1": {"d2": 1}})):
        sets = [EvaluationSet(make_set(tmp_path / name, judged=judged), rows=("dense",))]
        experiment = evaluate_sets(sets, log.encoders, engine=log.engine())
        (details,) = experiment.to_json()["sets"].values()
        assert details["precision"] in to_markdown(experiment)
        for shown in details["fingerprints"].values():
            assert shown[:8] in to_markdown(experiment)
        assert details["fingerprints"]["index"] == FakeManifest(3).fingerprint
        found.append(details["fingerprints"])
    assert found[0]["corpus"] == checksum(next((tmp_path / "one").glob("corpus.jsonl*")))
    assert [name for name in found[0] if found[0][name] != found[1][name]] == ["judgements"]
    machine = experiment.to_json()["provenance"]["machine"]
    assert machine["processor"] and machine["cores"] >= 1 and machine["threads"] >= 1
    assert machine["processor"] in to_markdown(experiment)


def test_queries_without_a_document_are_told_of(tmp_path: Path) -> None:
    log = Log()
    write_run(tmp_path / "other.trec", {"q1": {"d1": 1.0}})
    folder = make_set(tmp_path / "one", judged={"q1": {"d1": 1}, "q2": {"d2": 1}})
    one = EvaluationSet(folder, rows=("dense",), run_files={"other": str(tmp_path / "other.trec")})
    experiment = evaluate_sets([one], log.encoders, engine=log.engine())
    assert "Queries without a document, which count 0: one other 1." in to_markdown(experiment)


def test_missing_candidates_and_template_of_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    folder = make_set(tmp_path / "one")
    path.write_text(
        f"""
        missing = "zero"
        candidates = "dense"
        title_template = "{{text}} {{title}}"
        rows = ["multi"]
        [[sets]]
        path = "{folder}"
        [[sets]]
        path = "{folder}"
        name = "again"
        missing = "min"
        title_template = "{{text}}"
        """
    )
    log = Log()
    one, again = load_sets([path])
    found = evaluate_sets([one, again], log.encoders, engine=log.engine()).to_json()["sets"]
    assert log.searches == [{"stages": ("dense",), "modes": ("multi",), "depth": 200}] * 2
    assert log.templates == ["{text} {title}", "{text}"]
    assert found["one"]["settings"]["missing"] == "zero"
    assert found["again"]["settings"]["candidates"] == "dense"
    assert found["again"]["settings"]["title_template"] == "{text}"


def test_what_was_cut_is_counted_and_told(tmp_path: Path) -> None:
    log, work = Log(), tmp_path / "work"
    sets = [EvaluationSet(make_set(tmp_path / name), rows=("dense",)) for name in ("one", "two")]
    for _ in range(2):  # built, and used again
        report = ReportFolder(tmp_path / "out")
        experiment = evaluate_sets(
            sets, log.encoders, engine=log.engine(), cache=Cache(work), keep=report.add
        )
        text = report.finish(experiment).read_text()
        found = json.loads((tmp_path / "out" / "report.json").read_text())
        for name in ("one", "two"):
            assert found["sets"][name]["truncated"] == {"documents": 3, "queries": 1}
        assert (
            "\nCut at the maximum length: one 3 documents, 1 queries; two 3 documents, 1 queries.\n"
        ) in text


def test_what_was_cut_of_an_index_of_m3search_itself(tmp_path: Path) -> None:
    """Documents in two chunks, and a query."""
    texts = {f"d{number}": "red fox" + " x" * (number % 3 == 0) for number in range(600)}
    wanted = EvaluationSet(make_set(tmp_path / "s", texts=texts, judged={"q1": {"d1": 1}}))
    wanted = replace(wanted, rows=("dense",), depth=2)

    class Cutting(WordEncoder):
        def encode(self, texts, kind="document", **options: object) -> Encoded:
            cut = np.array([text.endswith((" x", "animal")) for text in texts])
            return replace(super().encode(texts, kind, **options), truncated=cut)

    [result] = evaluate_sets([wanted], lambda _: Cutting(["red", "fox"])).sets
    assert result.details["truncated"] == {"documents": 200, "queries": 1}
