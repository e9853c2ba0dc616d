"""Weights chosen from component scores: the grid, the best of it, and what it gains unseen."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from m3search.candidates import Scored
from m3search.errors import ConfigError
from m3search.evaluation.components import ComponentScores, QueryScores
from m3search.evaluation.measures import evaluate
from m3search.evaluation.tuning import STEPS, JudgedScores, grid, tune
from m3search.plan import Plan
from m3search.records import MODES


def make_set(name: str, seed: int, queries: int = 12, trust: Any = (0.2, 2.0, 1.0)) -> JudgedScores:
    """Queries whose relevant document is the first by the sum of scores weighed by `trust`."""
    random = np.random.default_rng(seed)
    found, qrels = {}, {}
    for number in range(queries):
        scores = random.random((3, 8), np.float32)
        noise = random.normal(0, 0.3, 8)
        best = int((np.array(trust) @ scores + noise).argmax())
        ranks = dict.fromkeys(MODES, np.arange(1, 9))
        scored = Scored(np.arange(8), dict(zip(MODES, scores, strict=True)), ranks)
        found[f"{name}{number}"] = QueryScores([f"d{n}" for n in range(8)], scored)
        qrels[f"{name}{number}"] = {f"d{best}": 1}
    scores = ComponentScores(found, MODES, MODES, 8, {})
    return JudgedScores(name, scores, qrels, Plan.check(8, 8, MODES, None, "exact", "union"))


def value_of(judged: JudgedScores, weights: Any, only: Any = None) -> float:
    """As a search by a plan with these weights is measured."""
    plan = Plan.check(8, 8, MODES, weights, "exact", "union")
    per_query = evaluate({"r": judged.scores.run(plan)}, judged.qrels, ["RR@5"]).per_query["r"]
    values = per_query["RR@5"]
    chosen = [value for query, value in values.items() if only is None or only(query)]
    return sum(chosen) / len(chosen)


def test_the_grid_has_every_order_once() -> None:
    points = grid(MODES)
    assert len(points) == len(STEPS) ** 2 + len(STEPS)
    directions = {
        tuple(np.round(np.array([p[mode] for mode in MODES]) / max(p.values()), 6)) for p in points
    }
    assert len(directions) == len(points)
    assert {"dense": 0.0, "sparse": 0.0, "multi": 1.0} in points
    assert {"dense": 0.0, "sparse": 1.0, "multi": 0.0} in points
    assert [point["dense"] for point in grid(("dense", "sparse"))] == list(STEPS)
    assert all(a < b <= 2 * a for a, b in pairwise(STEPS[1:]))
    with pytest.raises(ConfigError, match="two modes or three"):
        grid(("multi",))


def test_the_best_of_the_grid_is_chosen() -> None:
    sets = [make_set("a", 1), make_set("b", 2, queries=30)]
    done: list[int] = []
    tuned = tune(sets, "RR@5", progress=done.append)
    assert len(done) == len(grid(MODES)) == len(tuned.landscape)
    by_point = {
        tuple(point.values()): np.mean([value_of(each, point) for each in sets])
        for point in grid(MODES)
    }
    for point, value in by_point.items():
        assert tuned.landscape[point] == pytest.approx(value)  # each set counts as much
    best = tuple(tuned.weights[mode] for mode in MODES)
    assert by_point[best] == pytest.approx(max(by_point.values()))
    for each in sets:
        assert tuned.after[each.name] == pytest.approx(value_of(each, tuned.weights))
        assert tuned.before[each.name] == pytest.approx(value_of(each, (1, 0.3, 1)))
    assert sum(tuned.after.values()) > sum(tuned.before.values())
    assert tuned.weights["sparse"] > tuned.weights["multi"] > tuned.weights["dense"]
    first, *_ = tuned.to_json()["landscape"]
    assert first["value"] == pytest.approx(max(by_point.values()))


def test_a_fold_is_measured_by_what_the_others_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "m3search.evaluation.tuning._fold", lambda query, folds: int(query[1:]) % folds
    )
    sets = [make_set("a", 3), make_set("b", 4, queries=20)]
    tuned = tune(sets, "RR@5", folds=3)
    wanted = {each.name: 0.0 for each in sets}
    for fold in range(3):
        best = max(
            grid(MODES),
            key=lambda point: round(
                sum(
                    value_of(each, point, lambda query, out=fold: int(query[1:]) % 3 != out)
                    for each in sets
                ),
                9,
            ),
        )
        for each in sets:
            of_fold = [query for query in each.qrels if int(query[1:]) % 3 == fold]
            value = value_of(each, best, of_fold.__contains__)
            wanted[each.name] += value * len(of_fold) / len(each.qrels)
    assert tuned.unseen == pytest.approx(wanted)
    assert tuned.unseen != tuned.after
    with pytest.raises(ConfigError, match="two or more"):
        tune(sets, "RR@5", folds=1)
