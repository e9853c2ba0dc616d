"""Measures against numbers worked by hand, and against trec_eval itself (pytrec_eval)."""

from __future__ import annotations

import math
import random
from math import log2

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from m3search.errors import ConfigError
from m3search.evaluation.measures import (
    cutoffs,
    evaluate,
    least_depth,
    parse_measures,
    recall_curve,
)

QRELS = {"q1": {"a": 2, "b": 1, "c": 0, "d": 1}, "q2": {"a": 1}}


def test_graded_relevance_a_tie_and_an_absent_query() -> None:
    # Order of q1: x (not judged), then b before a, as equal scores go by id descending.
    run = {"q1": {"a": 2.0, "b": 2.0, "x": 3.0, "c": 1.0}}
    report = evaluate({"mine": run}, QRELS)
    dcg = 0 / log2(2) + 1 / log2(3) + 2 / log2(4) + 0 / log2(5)
    ideal = 2 / log2(2) + 1 / log2(3) + 1 / log2(4)
    assert report.per_query["mine"]["nDCG@10"] == pytest.approx({"q1": dcg / ideal, "q2": 0.0})
    assert report.per_query["mine"]["R@100"] == pytest.approx({"q1": 2 / 3, "q2": 0.0})
    assert report.means["mine"] == pytest.approx({"nDCG@10": dcg / ideal / 2, "R@100": 1 / 3})
    assert (report.queries, report.absent) == (2, {"mine": 1})


def test_a_tie_the_other_way() -> None:
    run = {"q1": {"a": 2.0, "A": 2.0}}  # a comes first: ids descend, capitals come before
    assert evaluate({"r": run}, {"q1": {"a": 1}}, ["P@1"]).means["r"]["P@1"] == 1.0


def test_the_tenth_document_counts_and_the_eleventh_does_not() -> None:
    run = {"q": {f"d{rank:02}": -float(rank) for rank in range(1, 13)}}
    for rank, value in ((1, 1.0), (2, 1 / log2(3)), (10, 1 / log2(11)), (11, 0.0)):
        report = evaluate({"r": run}, {"q": {f"d{rank:02}": 1}}, ["nDCG@10"])
        assert report.means["r"]["nDCG@10"] == pytest.approx(value), rank


def test_recall_stops_at_its_cutoff() -> None:
    run = {"q": {f"d{rank:03}": -float(rank) for rank in range(1, 151)}}
    qrels = {"q": {"d001": 1, "d100": 3, "d101": 1, "nowhere": 1, "d050": 0}}
    assert evaluate({"r": run}, qrels).means["r"]["R@100"] == pytest.approx(2 / 4)


def test_empty_and_missing_queries_count_the_same() -> None:
    runs = {"empty": {"q1": {}, "q2": {}}, "missing": {}, "unjudged only": {"zz": {"a": 1.0}}}
    report = evaluate(runs, QRELS)
    for row in runs:
        assert report.means[row] == {"nDCG@10": 0.0, "R@100": 0.0}
        assert set(report.per_query[row]["nDCG@10"]) == {"q1", "q2"}
        assert report.absent[row] == 2


def test_scores_are_numbers() -> None:
    """The order of others would be that in which they were put in."""
    for scores in ({"a": math.nan, "b": 1.0}, {"b": 1.0, "a": math.nan}):
        with pytest.raises(ConfigError, match="nan for document 'a'"):
            evaluate({"run": {"q": scores}}, {"q": {"a": 1}})
    endless = evaluate({"run": {"q": {"a": math.inf, "b": 1.0}}}, {"q": {"a": 1}}, ["RR@10"])
    assert endless.means["run"]["RR@10"] == 1


def test_a_query_without_judgement_changes_nothing() -> None:
    run = {"q1": {"a": 1.0}, "q2": {"a": 1.0}}
    more = run | {"q3": {"a": 1.0}}
    assert evaluate({"r": run}, QRELS).means == evaluate({"r": more}, QRELS).means


def test_a_query_without_anything_relevant_counts_zero() -> None:
    report = evaluate({"r": {"q": {"a": 1.0}, "p": {"a": 1.0}}}, {"q": {"a": 1}, "p": {"a": 0}})
    assert report.means["r"]["nDCG@10"] == 0.5


def test_other_measures_and_the_names_of_ir_measures() -> None:
    report = evaluate({"r": {"q1": {"b": 2.0, "a": 1.0}}}, QRELS, ["Recall@100", "RR@10", "P@1"])
    assert report.measures == ("R@100", "RR@10", "P@1")
    assert report.means["r"] == pytest.approx({"R@100": 1 / 3, "RR@10": 0.5, "P@1": 0.5})


def test_a_measure_that_counts_is_summed() -> None:
    run = {"q1": {"b": 2.0, "a": 1.0}, "q2": {"x": 1.0}}
    found = evaluate({"r": run}, QRELS, ["NumRet"])
    assert found.means["r"] == {"NumRet": 3.0} and "| r | 3 |" in found.to_markdown()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("ndcg@10", "Did you mean 'nDCG@10'?"),
        ("recall@5", "Did you mean 'Recall@5'?"),
        ("nDCG@", "as ir_measures does"),
        ("R@0", "as ir_measures does"),
        ("hits@10", "as ir_measures does"),
        ("", "as ir_measures does"),
        ("__import__('os')", "as ir_measures does"),
    ],
)
def test_an_unknown_measure(name: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        evaluate({}, QRELS, [name])
    assert caught.value.found == repr(name)
    assert remedy in caught.value.remedy


def test_no_measures_and_no_judgements() -> None:
    with pytest.raises(ConfigError):
        evaluate({}, QRELS, [])
    with pytest.raises(ConfigError):
        evaluate({}, {})


def test_cutoffs() -> None:
    assert cutoffs(["nDCG@10", "R@1000", "AP", "AnswerRecall@20"]) == [10, 1000, None, 20]
    assert list(parse_measures(["R@100", "Recall@100"])) == ["R@100"]


def test_how_many_documents_decide_a_measure() -> None:
    for name, depth in (
        ("nDCG@10", 10), ("P@500", 100), ("AP", 100), ("RR", 100), ("Success@1", 1),
        ("nDCG(judged_only=True)@10", 100), ("AnswerRecall@20", 20),
    ):  # fmt: skip
        assert least_depth(name, 100) == depth, name


def test_forms() -> None:
    report = evaluate({"dense": {"q1": {"a": 1.0}}, "bm25": {}}, {"q1": {"a": 1}}, ["nDCG@10"])
    assert report.to_json() == {
        "rows": {"dense": {"nDCG@10": 1.0}, "bm25": {"nDCG@10": 0.0}},
        "queries": 1,
        "absent": {"dense": 0, "bm25": 1},
    }
    assert report.to_markdown().splitlines() == [
        "| run | nDCG@10 |",
        "|---|---:|",
        "| dense | 100.0 |",
        "| bm25 | 0.0 |",
        "",
        "Means in percent over 1 queries; an absent one counts 0.",
        "Absent: bm25 1.",
    ]


ids = st.sampled_from("abcdefghijklmnop")


@given(
    st.dictionaries(ids, st.integers(0, 3), min_size=1),
    st.dictionaries(ids, st.integers(-3, 3).map(float)),
)
def test_ndcg_is_that_of_a_slow_loop(judged: dict[str, int], scored: dict[str, float]) -> None:
    order = sorted(scored, key=lambda name: (scored[name], name), reverse=True)[:10]
    dcg = sum(judged.get(name, 0) / log2(rank + 1) for rank, name in enumerate(order, start=1))
    best = sorted(judged.values(), reverse=True)[:10]
    ideal = sum(grade / log2(rank + 1) for rank, grade in enumerate(best, start=1))
    expected = dcg / ideal if ideal else 0.0
    report = evaluate({"r": {"q": scored}}, {"q": judged}, ["nDCG@10"])
    assert report.means["r"]["nDCG@10"] == pytest.approx(expected)


TREC_EVAL = {
    "nDCG@10": "ndcg_cut_10", "nDCG@20": "ndcg_cut_20", "nDCG": "ndcg", "R@5": "recall_5",
    "R@100": "recall_100", "P@1": "P_1", "P@5": "P_5", "AP": "map", "AP@100": "map_cut_100",
    "RR": "recip_rank", "Rprec": "Rprec", "Success@5": "success_5", "Bpref": "bpref",
}  # fmt: skip
"""our name -> trec_eval's"""


def random_judgements(draw: random.Random, names: list[str]) -> dict[str, dict[str, int]]:
    """Of 12 queries, with few or many documents each; some have none that is relevant."""
    return {
        f"q{query}": {
            name: draw.choice((0, 0, 1, 2, 3)) if query % 5 else 0
            for name in draw.sample(names, draw.randint(1, 40))
        }
        for query in range(12)
    }


def random_run(draw: random.Random, names: list[str]) -> dict[str, dict[str, float]]:
    """Scores of which many are equal, as float32 numbers at least; some queries are absent, some
    are not judged, and some have more documents than any cut-off."""
    return {
        f"q{query}": {
            name: draw.choice((0.25, 0.25 + 1e-12, 0.5, -1.0, 1e-9, draw.random()))
            for name in draw.sample(names, draw.choice((1, 5, 30, 150)))
        }
        for query in draw.sample(range(15), 10)
    }


@pytest.mark.parametrize("seed", range(25))
def test_measures_are_those_of_trec_eval_to_four_digits(seed: int) -> None:
    """With -c: a query that is judged and absent counts 0, one that is not judged does not."""
    draw = random.Random(seed)
    letters = "aAbB09-_é茶"
    names = sorted({"".join(draw.choices(letters, k=draw.randint(1, 4))) for _ in range(400)})
    qrels, run = random_judgements(draw, names), random_run(draw, names)
    oracle = pytrec_eval.RelevanceEvaluator(qrels, set(TREC_EVAL.values())).evaluate(run)
    assert oracle.keys() == run.keys() & qrels.keys() < qrels.keys()
    report = evaluate({"mine": run}, qrels, list(TREC_EVAL))
    for name, its_name in TREC_EVAL.items():
        expected = {query: oracle.get(query, {}).get(its_name, 0.0) for query in qrels}
        found = report.per_query["mine"][name]
        assert found == pytest.approx(expected, abs=5e-5), name
        assert found.keys() == qrels.keys()
        mean = sum(expected.values()) / len(qrels)
        assert report.means["mine"][name] == pytest.approx(mean, abs=5e-5), name


@pytest.mark.parametrize("seed", range(10))
def test_a_curve_of_recall_is_the_measure_at_each_depth(seed: int) -> None:
    draw = random.Random(seed)
    names = [f"d{number}" for number in range(200)]
    qrels, run = random_judgements(draw, names), random_run(draw, names)
    depths = (1, 3, 20, 100, 500)
    means = evaluate({"mine": run}, qrels, [f"R@{depth}" for depth in depths]).means["mine"]
    found = recall_curve(run, qrels, depths)
    assert found == tuple(means.values()) and found[0] < found[-1]


@pytest.mark.parametrize("seed", range(10))
def test_the_reciprocal_rank_within_ten_is_that_of_the_ten_best(seed: int) -> None:
    """trec_eval -M 10, by leaving out what it would not look at: of equal scores the lower ids."""
    draw = random.Random(seed)
    names = [f"d{number}" for number in range(200)]
    qrels, run = random_judgements(draw, names), random_run(draw, names)
    best = {
        query: dict(sorted(found.items(), key=lambda pair: (np.float32(pair[1]), pair[0]))[-10:])
        for query, found in run.items()
    }
    oracle = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(best)
    expected = {query: oracle.get(query, {}).get("recip_rank", 0.0) for query in qrels}
    report = evaluate({"mine": run}, qrels, ["RR@10"])
    assert report.per_query["mine"]["RR@10"] == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("name", ["R", "BPM", "SDCG@10", "INST"])
def test_a_measure_without_what_it_needs_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a measure of ir_measures with its cut-off"):
        parse_measures([name])


def test_a_measure_of_a_package_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"found 'RBP.*need another package"):
        parse_measures(["RBP(p=0.8)"])


def test_queries_need_no_numbers_as_names() -> None:
    run = {"1": {"a": 2.0, "x": 1.0}, "2": {"c": 2.0, "d": 1.0}}
    qrels = {"1": {"a": 2, "b": 1}, "2": {"d": 1}}
    names = {"1": "which tea?", "2": "7 b"}

    def named(table: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        return {names[query]: values for query, values in table.items()}

    measures = ["ERR@20", "nDCG@10"]
    plain = evaluate({"r": run}, qrels, measures).per_query["r"]
    report = evaluate({"r": named(run)}, {names[q]: each for q, each in qrels.items()}, measures)
    assert report.per_query["r"] == {measure: {names[q]: v for q, v in values.items()}
                                     for measure, values in plain.items()}  # fmt: skip
    assert all(value > 0 for value in plain["ERR@20"].values())


def test_a_measure_that_not_every_query_has_a_value_of_is_refused() -> None:
    qrels = {"q1": {"d": 1}}
    with pytest.raises(ConfigError, match="P@1"):
        evaluate({"r": {"q1": {"d": 1.0}}}, qrels, ["Accuracy@1"])
