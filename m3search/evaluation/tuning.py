"""Weights of the three modes, and how deep first stages go, chosen on judged queries from component
scores, and what they gain.

Order depends on the ratios of the weights alone, so the grid holds the weight of multi at 1 and
steps the others by about a half, without multi that of sparse. The gain is told by queries that had
no say: each fold of them is measured with the weights that are best on the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from m3search.errors import ConfigError
from m3search.evaluation.collection import load_collection
from m3search.evaluation.components import ComponentScores
from m3search.evaluation.depths import asked_for, retrieved
from m3search.evaluation.measures import cutoffs, evaluate
from m3search.evaluation.score_files import read_scores, scores_file
from m3search.evaluation.suite import EvaluationSet
from m3search.plan import Plan
from m3search.records import MODES, Mode, Qrels

STEPS = (0.0, 0.1, 0.2, 0.4, 0.6, 1.0, 1.5, 2.5, 4.0)
"""weights in the grid beside one of 1"""
NEAR = 1e-6
"""between weights that differ in their length alone"""
FOLDS = 5

Values = npt.NDArray[np.float64]


class JudgedScores(NamedTuple):
    """A set as tuning needs it."""

    name: str
    scores: ComponentScores
    texts: Mapping[str, str]
    """of the queries, by id"""
    qrels: Qrels
    before: Plan
    """as it is searched without tuning; tuned plans differ from it in weights and depth alone"""


@dataclass(frozen=True)
class Tuned:
    """What was chosen; a value is the mean over the queries of a set, 0 to 1."""

    weights: Mapping[Mode, float]
    depth: int | None
    """candidates that a first stage gives; None where that of each set was kept"""
    before: Mapping[str, float]
    """set -> value with the weights of before"""
    after: Mapping[str, float]
    """set -> value with the weights chosen, on the queries that chose them"""
    unseen: Mapping[str, float]
    """set -> value of each part of the queries with the weights that the others choose"""
    landscape: Mapping[tuple[float, ...], float]
    """weights of the modes -> mean over the sets, at the depth chosen"""
    by_depth: Mapping[int, float]
    """depth -> mean over the sets with the weights that are best there, of the depths asked"""

    @property
    def gain(self) -> float:
        """What queries that had no say gain over the weights of before, the mean over the sets.

        Below 0 tuning has not gained anything that holds for other queries.
        """
        return sum(self.unseen[name] - self.before[name] for name in self.before) / len(self.before)

    def to_json(self) -> dict[str, Any]:
        """Weights and depth, the gain, values by set, and the points at that depth, best first."""
        points = sorted(self.landscape.items(), key=lambda point: -point[1])
        return {
            "weights": dict(self.weights),
            "depth": self.depth,
            "gain": self.gain,
            "sets": {
                name: {
                    "before": self.before[name],
                    "after": self.after[name],
                    "unseen": self.unseen[name],
                }
                for name in self.before
            },
            "landscape": [{"weights": list(at), "value": value} for at, value in points],
            "depths": [{"depth": at, "value": value} for at, value in self.by_depth.items()],
        }


def grid(modes: Sequence[Mode], before: Mapping[Mode, float]) -> list[dict[Mode, float]]:
    """Weights of two modes or three, the nearest to those of before first.

    Every order that the steps tell apart, each once, and that of before as it was weighed.
    """
    if len(modes) < 2:
        raise ConfigError(
            "modes",
            expected="two modes or three",
            found=modes[0],
            remedy="One mode alone has nothing to be weighed against.",
        )
    held = {mode: before[mode] for mode in modes}
    points = sorted(_points(modes), key=lambda point: _distance(point, held))
    return [held, *points[_distance(points[0], held) < NEAR :]]


def _points(modes: Sequence[Mode]) -> Iterator[dict[Mode, float]]:
    """The last of the modes weighs 1, and the others any step; then it weighs 0."""
    *others, last = modes
    for given in product(STEPS, repeat=len(others)):
        yield {**dict(zip(others, given, strict=True)), last: 1.0}
    if others:
        yield from ({**point, last: 0.0} for point in _points(others))


class Point(NamedTuple):
    """One way to search that is tried."""

    weights: Mapping[Mode, float]
    depth: int | None
    """None for that of each set"""

    def of(self, plan: Plan) -> Plan:
        """The plan with these."""
        return replace(plan, weights=self.weights, depth=self.depth or plan.depth)


def points_of(before: Plan, depths: Sequence[int] = ()) -> list[Point]:
    """The grid at the depth of before, and then at each of the depths, the least first."""
    weights = grid(before.modes, before.weights)
    return [Point(each, depth) for depth in (None, *sorted({*depths})) for each in weights]


def judged_scores(
    wanted: EvaluationSet, scores: Path, row: str, measure: str, depths: Sequence[int] = ()
) -> JudgedScores:
    """A set with its component scores out of a folder of them; row: the modes that are weighed.

    ConfigError where the scores do not go as deep as any of the depths.
    """
    file = scores_file(scores, wanted.name)
    collection = load_collection(replace(wanted, measures=(measure,)))
    found = read_scores(file, wanted, collection)
    if wanted.drop_same_id:
        found = found.without_same_ids()
    # as many as the evaluation took, and those that the measure needs
    (cutoff,) = cutoffs([measure])
    alone = replace(wanted, rows=(row,), run_files={}, fused={}, measures=(measure,))
    own = int(wanted.drop_same_id)
    most = found.depth - own
    k = max(min(retrieved(wanted), most), cutoff or min(retrieved(alone), most))
    least = cutoff + own if cutoff else min(asked_for(alone), found.depth)
    asked = max(min(asked_for(wanted), found.depth), least)
    plan = alone.plans(asked, found.fusion_weights).get(row)
    if plan is None:
        raise ConfigError(
            "row", expected="modes, as all or dense+sparse", found=row, remedy="Name modes."
        )
    for depth in (plan.depth, *depths):
        found.check(row, replace(plan, depth=depth), str(file))
    plan = replace(plan, k=k)
    texts = {query.id: query.text for query in collection.queries}
    documents = {query: each.documents for query, each in found.queries.items()}
    return JudgedScores(wanted.name, found, texts, collection.judge([documents]), plan)


def tune(
    sets: Sequence[JudgedScores],
    measure: str = "nDCG@10",
    *,
    depths: Sequence[int] = (),
    folds: int = FOLDS,
    progress: Callable[[int], None] = lambda _: None,
) -> Tuned:
    """The weights with the best mean of a measure over the sets, of which each counts as much.

    depths: of first stages, to choose from beside that of before, which each set has of its own. Of
    points that are as good, those of the depth of before, then of the least, and there the weights
    nearest to the ones of before, of the first set. All sets are searched in the same modes.
    `progress` is called with the points done.
    """
    if folds < 2:
        raise ConfigError(
            "folds", expected="two or more", found=str(folds), remedy="For example 5."
        )
    points = points_of(sets[0].before, depths)
    before = [_values(each, each.before, measure) for each in sets]
    values = [np.empty((len(points), len(each.qrels))) for each in sets]
    for number, point in enumerate(points):
        for each, table in zip(sets, values, strict=True):
            table[number] = _values(each, point.of(each.before), measure)
        progress(1)
    means = np.mean([table.mean(axis=1) for table in values], axis=0)
    best = _best(means)
    others = _cross_validate(sets, values, folds)
    names = [each.name for each in sets]
    chosen = points[best]
    at_depth = {
        depth: [
            value for each, value in zip(points, means.tolist(), strict=True) if each.depth == depth
        ]
        for depth in sorted({*depths})
    }
    return Tuned(
        chosen.weights,
        chosen.depth,
        {name: float(found.mean()) for name, found in zip(names, before, strict=True)},
        {name: float(table[best].mean()) for name, table in zip(names, values, strict=True)},
        {name: float(found.mean()) for name, found in zip(names, others, strict=True)},
        {
            tuple(weights.get(mode, 0.0) for mode in MODES): value
            for (weights, depth), value in zip(points, means.tolist(), strict=True)
            if depth == chosen.depth
        },
        {depth: max(reached) for depth, reached in at_depth.items()},
    )


def _distance(point: Mapping[Mode, float], other: Mapping[Mode, float]) -> float:
    """Between two weightings, whose lengths say nothing."""
    one, two = (np.array([weights[mode] for mode in point]) for weights in (point, other))
    return float(np.linalg.norm(one / np.linalg.norm(one) - two / np.linalg.norm(two)))


def _best(means: Values) -> int:
    """The first of the best, whatever the last bits of a sum say."""
    return int(np.flatnonzero(means >= means.max() - 1e-12)[0])


def _values(judged: JudgedScores, plan: Plan, measure: str) -> Values:
    """(queries,) of a set by a plan."""
    found = evaluate({"run": judged.scores.run(plan)}, judged.qrels, [measure]).per_query["run"]
    (by_query,) = found.values()
    return np.array(list(by_query.values()))


def _cross_validate(
    sets: Sequence[JudgedScores], values: Sequence[Values], folds: int
) -> list[Values]:
    """(queries,) of each set, each query with the weights that the other folds find best."""
    of_query = [
        np.array([_fold(each.texts[query], folds) for query in each.qrels]) for each in sets
    ]
    found = [np.empty(len(each.qrels)) for each in sets]
    for fold in range(folds):
        others = [
            table[:, numbers != fold].mean(axis=1)
            for table, numbers in zip(values, of_query, strict=True)
            if (numbers != fold).any()
        ]
        best = _best(np.mean(others, axis=0)) if others else 0
        for table, numbers, unseen in zip(values, of_query, found, strict=True):
            unseen[numbers == fold] = table[best, numbers == fold]
    return found


def _fold(text: str, folds: int) -> int:
    """The fold of a query by its words, as two sets may ask the same under different ids."""
    words = " ".join(text.casefold().split()).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "big") % folds
