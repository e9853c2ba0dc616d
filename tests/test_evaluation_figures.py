"""What plots keep of a set: recall at depths, and the landscape of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_fakes import FakeSearcher, Log, make_set

from m3search.candidates import QueryScores, Scored
from m3search.evaluation import EvaluationSet, SetResult, evaluate_sets
from m3search.evaluation.figures import DEPTHS, STEPS, SetFigures, make_figures
from m3search.records import MODES, Run

WORDS = ["red", "blue", "green", "fox", "whale", "panda", "tree", "animal"]


class Disagreeing(FakeSearcher):
    """Each mode has scores of its own for every document, which mean nothing."""

    def candidates(self, queries, *, stages, modes, depth, reach):
        count = len(self.index.documents)
        names = [each.id for each in self.index.documents]
        for query in queries.ids:
            random = np.random.default_rng(sum(map(ord, query)))
            scores = {mode: random.random(count, np.float32) for mode in MODES}
            places = {mode: np.argsort(np.argsort(-scores[mode])) + 1 for mode in stages}
            ranks = {mode: np.where(each <= depth, each, 0) for mode, each in places.items()}
            wanted = {mode: scores[mode] for mode in modes}
            yield QueryScores(query, names, Scored(np.arange(count), wanted, ranks))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 documents of a few words, and ten queries with graded judgements."""
    random = np.random.default_rng(7)
    texts = {f"d{n}": " ".join(random.choice(WORDS, 1 + n % 9)) for n in range(150)}
    queries = {f"q{n}": " ".join(random.choice(WORDS, 1 + n % 4)) for n in range(10)}
    judged = {
        query: {f"d{n}": int(random.integers(0, 3)) for n in random.integers(0, 150, 12)}
        for query in queries
    }
    return make_set(tmp_path_factory.mktemp("words") / "set", texts, queries, judged)


def figures_of(
    folder: Path, searcher: type[FakeSearcher] = Disagreeing, **changes: Any
) -> tuple[SetFigures, SetResult, Mapping[str, Run], Any]:
    kept: list[Any] = []
    wanted = replace(EvaluationSet(folder, rows=("dense", "all", "bm25")), **changes)
    log = Log()
    engine = replace(log.engine(), searcher=lambda index, _: searcher(index, log))
    evaluate_sets([wanted], log.encoders, engine=engine, keep=lambda *given: kept.append(given))
    [(result, runs, qrels, scores)] = kept
    return make_figures(result, runs, qrels, scores), result, runs, qrels


def test_recall_at_each_depth_is_that_of_a_loop_and_of_the_measure(folder: Path) -> None:
    figures, result, runs, qrels = figures_of(folder)
    assert list(figures.recall) == ["dense", "all", "bm25"]
    for row, curve in figures.recall.items():
        assert curve[-1] == result.report.means[row]["R@100"] and DEPTHS[-1] == 100
        assert list(curve) == sorted(curve) and curve[0] < curve[-1]
        for depth, value in zip(DEPTHS, curve, strict=True):
            by_query = []
            for query, grades in qrels.items():
                scored = runs[row].get(query, {})
                order = sorted(scored, key=lambda name: (scored[name], name), reverse=True)
                relevant = {name for name, grade in grades.items() if grade > 0}
                by_query.append(len(relevant & set(order[:depth])) / len(relevant))
            assert value == pytest.approx(np.mean(by_query)), (row, depth)


@pytest.mark.parametrize(
    ("weights", "used", "more"),
    [
        ((1.0, 0.3, 1.0), (0.3, 1.0), (0, 0)),
        ((1.0, 0.5, 20.0), (0.5, 20.0), (1, 1)),
        ((2.0, 0.6, 0.5), (0.3, 0.25), (0, 1)),
        ((0.0, 0.6, 0.5), None, (0, 0)),
    ],
)
def test_the_landscape_holds_what_the_report_says_of_its_weights(
    folder: Path, weights: Any, used: Any, more: tuple[int, int]
) -> None:
    figures, result, *_ = figures_of(folder, weights=weights)
    found = figures.landscape
    assert found is not None and found.used == used and found.queries == 10
    assert found.values.shape == tuple(len(STEPS) + number for number in more)
    assert len(np.unique(found.values)) > 20
    if used is not None:
        at = tuple(steps.index(weight) for steps, weight in zip(found.steps, used, strict=True))
        assert found.values[at] == pytest.approx(result.report.means["all"]["nDCG@10"])


class Tied(Disagreeing):
    """Of the scores of each mode there are three."""

    def candidates(self, queries, **options):
        for query, names, scored in super().candidates(queries, **options):
            scores = {mode: np.round(2 * values) for mode, values in scored.scores.items()}
            yield QueryScores(query, names, replace(scored, scores=scores))


@pytest.mark.parametrize("measure", ["nDCG@10", "P@1", "P(judged_only=True)@3", "RR", "R@100"])
@pytest.mark.parametrize("depth", [100, 120])
def test_a_landscape_looks_no_deeper_than_its_measure_and_is_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, measure: str, depth: int
) -> None:
    """Also among equal scores, of which some are in the run and others are not."""
    settings: dict[str, Any] = {"measures": (measure,), "rows": ("all",), "depth": depth}
    found = figures_of(folder, Tied, **settings)[0].landscape
    monkeypatch.setattr("m3search.evaluation.figures.least_depth", lambda _, k: k)
    whole = figures_of(folder, Tied, **settings)[0].landscape
    assert found is not None and whole is not None
    assert np.array_equal(found.values, whole.values)
    for at in ((0, 0), (4, 4), (6, 1)):
        weights = (1.0, *(STEPS[step] for step in at))
        _, other, *_ = figures_of(folder, Tied, weights=weights, **settings)
        assert found.values[at] == pytest.approx(other.report.means["all"][measure])


def test_a_query_without_candidates_counts_0_in_the_landscape(folder: Path) -> None:
    class Empty(Disagreeing):
        def candidates(self, queries, *, stages, modes, **options):
            for number, each in enumerate(
                super().candidates(queries, stages=stages, modes=modes, **options)
            ):
                none = np.zeros(0, np.int64)
                scores = {mode: np.zeros(0, np.float32) for mode in modes}
                empty = Scored(none, scores, dict.fromkeys(stages, none))
                yield each if number else QueryScores(each.query, [], empty)

    found, result, *_ = figures_of(folder, Empty)
    assert found.landscape is not None
    assert found.landscape.values[3, 4] == pytest.approx(result.report.means["all"]["nDCG@10"])


@pytest.mark.parametrize("at", [(0, 0), (2, 5), (6, 1)])
def test_every_point_of_the_landscape_is_an_evaluation_with_its_weights(
    folder: Path, at: tuple[int, int]
) -> None:
    settings: dict[str, Any] = {"missing": "min", "measures": ("AP@20",), "rows": ("all",)}
    landscape = figures_of(folder, **settings)[0].landscape
    weights = (1.0, *(STEPS[step] for step in at))
    _, other, *_ = figures_of(folder, weights=weights, **settings)
    assert landscape is not None and landscape.steps == (STEPS, STEPS)
    assert landscape.values[at] == pytest.approx(other.report.means["all"]["AP@20"])


def test_of_many_queries_some_make_the_landscape(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m3search.evaluation.figures.MOST_QUERIES", 4)
    landscape = figures_of(folder)[0].landscape
    assert landscape is not None and landscape.queries == 4


def test_without_a_row_of_all_modes_there_is_no_landscape(folder: Path) -> None:
    assert figures_of(folder, rows=("dense", "dense+sparse"))[0].landscape is None
    assert figures_of(folder, rows=("bm25",))[0].landscape is None
    assert figures_of(folder, rows=("multi+sparse+dense",))[0].landscape is not None
