"""Weights chosen from component scores: the grid, the best of it, and what it gains unseen."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from m3search.candidates import QueryScores, Scored
from m3search.errors import ConfigError
from m3search.evaluation.components import ComponentScores, Origin
from m3search.evaluation.measures import evaluate
from m3search.evaluation.tuning import STEPS, JudgedScores, Tuned, grid, tune
from m3search.plan import Plan
from m3search.records import MODES, Mode


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
        query = f"{name}{number}"
        found[query] = QueryScores(query, [f"d{n}" for n in range(8)], scored)
        qrels[f"{name}{number}"] = {f"d{best}": 1}
    scores = ComponentScores(found, MODES, MODES, 8, Origin("", "", {}, "", {}, ""))
    texts = {query: f"What is {query}?" for query in qrels}
    return JudgedScores(name, scores, texts, qrels, Plan.check(8, 8, MODES, None, "exact", "union"))


def value_of(judged: JudgedScores, weights: Any, only: Any = None) -> float:
    """As a search by a plan with these weights is measured."""
    plan = Plan.check(8, 8, MODES, weights, "exact", "union")
    per_query = evaluate({"r": judged.scores.run(plan)}, judged.qrels, ["RR@5"]).per_query["r"]
    values = per_query["RR@5"]
    chosen = [value for query, value in values.items() if only is None or only(query)]
    return sum(chosen) / len(chosen)


def test_the_grid_has_every_order_once() -> None:
    before: dict[Mode, float] = {"dense": 1.0, "sparse": 1.0, "multi": 1.0}
    points = grid(MODES, before)
    assert points[0] == before and len(points) == len(STEPS) ** 2 + len(STEPS) + 1
    assert grid(MODES, dict.fromkeys(before, 2.0)) == [dict.fromkeys(before, 2.0), *points[1:]]
    between: dict[Mode, float] = {"dense": 0.5, "sparse": 1.0, "multi": 1.0}
    more = grid(MODES, between)  # no step has that ratio
    assert more[0] == between and len(more) == len(points) + 1
    directions = {
        tuple(np.round(np.array([p[mode] for mode in MODES]) / max(p.values()), 6)) for p in points
    }
    assert len(directions) == len(points)
    assert {"dense": 0.0, "sparse": 0.0, "multi": 1.0} in points
    assert {"dense": 0.0, "sparse": 1.0, "multi": 0.0} in points
    assert {"dense": 1.0, "sparse": 0.0, "multi": 0.0} in points
    two = grid(("dense", "sparse"), {"dense": 1.0, "sparse": 1.0})
    assert sorted(point["dense"] for point in two) == sorted([*STEPS, 1.0])
    assert all(a < b <= 2 * a for a, b in pairwise(STEPS[1:]))
    with pytest.raises(ConfigError, match="two modes or three"):
        grid(("multi",), {"multi": 1.0})


def test_the_best_of_the_grid_is_chosen() -> None:
    sets = [make_set("a", 1), make_set("b", 2, queries=30)]
    done: list[int] = []
    tuned = tune(sets, "RR@5", progress=done.append)
    points = grid(MODES, sets[0].before.weights)
    assert len(done) == len(points) == len(tuned.landscape)
    by_point = {
        tuple(point[mode] for mode in MODES): np.mean([value_of(each, point) for each in sets])
        for point in points
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


def test_the_gain_is_that_of_queries_without_a_say() -> None:
    before, after = {"a": 0.5, "b": 0.25}, {"a": 1.0, "b": 1.0}
    for unseen, gain in (({"a": 0.75, "b": 0.5}, 0.25), ({"a": 0.25, "b": 0.375}, -0.0625)):
        tuned = Tuned({"multi": 1.0}, None, before, after, unseen, {}, {})
        assert tuned.gain == tuned.to_json()["gain"] == gain


def test_of_equal_weights_those_of_before_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = make_set("a", 1, queries=3)
    monkeypatch.setattr(
        "m3search.evaluation.tuning._values", lambda each, *_: np.full(len(each.qrels), 0.5)
    )
    plan = replace(judged.before, weights={"dense": 0.8, "sparse": 3.2, "multi": 2.0})
    assert tune([judged._replace(before=plan)]).weights == plan.weights


def test_the_depth_is_chosen_with_the_weights() -> None:
    """Multi is right about what is near the end of the lists, where the others are wrong."""
    judged = make_set("a", 1, queries=20, trust=(0, 0, 1))
    shallow = judged._replace(before=replace(judged.before, depth=2, k=8))
    tuned = tune([shallow], "RR@5", depths=[8, 2, 5])
    assert (tuned.depth, list(tuned.by_depth)) == (8, [2, 5, 8])
    assert tuned.by_depth[2] < tuned.by_depth[5] < tuned.by_depth[8] == tuned.after["a"]
    assert tuned.by_depth[8] == pytest.approx(max(tuned.landscape.values()))
    alone = tune([shallow], "RR@5")
    assert (alone.depth, alone.by_depth, alone.after["a"]) == (None, {}, tuned.by_depth[2])
    assert tuned.before == alone.before
    assert tuned.to_json()["depths"] == [
        {"depth": depth, "value": value} for depth, value in tuned.by_depth.items()
    ]
    same = judged._replace(qrels={query: {"d9": 1} for query in judged.qrels})  # never found
    for before in (2, 5, 8):  # nothing is better than it
        held = same._replace(before=replace(judged.before, depth=before))
        assert tune([held], "RR@5", depths=[8, 5, 2]).depth is None
    deep = tune([judged], "RR@5", depths=[2, 5])
    assert (deep.depth, deep.after) == (None, tuned.after)


def test_a_fold_is_measured_by_what_the_others_choose() -> None:
    sets = [make_set("a", 3), make_set("b", 4, queries=20)]
    twin = make_set("a", 3)  # the same queries, as a set with others together may have them
    sets.append(twin._replace(name="c", texts={q: t.upper() for q, t in twin.texts.items()}))
    tuned = tune(sets, "RR@5", folds=3)
    wanted = {each.name: 0.0 for each in sets}
    for fold in range(3):

        def of(each: JudgedScores, inside: bool, fold: int = fold) -> list[str]:
            return [q for q, t in each.texts.items() if (fold_of(t) == fold) == inside]

        points = grid(MODES, sets[0].before.weights)
        best = max(
            points,
            key=lambda point: round(
                sum(value_of(each, point, of(each, False).__contains__) for each in sets), 9
            ),
        )
        for each in sets:
            value = value_of(each, best, of(each, True).__contains__)
            wanted[each.name] += value * len(of(each, True)) / len(each.qrels)
    assert tuned.unseen == pytest.approx(wanted)
    assert tuned.unseen != tuned.after
    assert tuned.unseen["a"] == pytest.approx(tuned.unseen["c"])
    with pytest.raises(ConfigError, match="two or more"):
        tune(sets, "RR@5", folds=1)


def fold_of(text: str) -> int:
    """As documented: by the words alone, and the same in every process."""
    digest = hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 3


def distance(point: Any, other: Any) -> float:
    one, two = (np.array([weights[mode] for mode in MODES]) for weights in (point, other))
    return float(np.linalg.norm(one / np.linalg.norm(one) - two / np.linalg.norm(two)))
