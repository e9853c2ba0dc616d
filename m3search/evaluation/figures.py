"""What the plots of a report keep of a set, whose runs and component scores are too large to hold.

The rest of what is plotted, means and values per query, is in the results themselves.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from m3search.evaluation.components import ComponentScores
from m3search.evaluation.measures import ANSWER_RECALL, evaluate
from m3search.evaluation.results import SetResult
from m3search.plan import Plan
from m3search.records import MODES, Qrels, Run

DEPTHS = (1, 2, 5, 10, 20, 50, 100)
"""at which recall is measured; a run holds 100 documents at least"""
STEPS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""weights of sparse and of multi beside one of 1 for dense"""
MOST_QUERIES = 200
"""of a set, from which its landscape is made"""


Weights = tuple[float, ...]


@dataclass(frozen=True)
class Landscape:
    """What a set is worth under other weights."""

    steps: tuple[Weights, Weights]
    """of sparse and of multi, ascending: STEPS and the weight that the report has"""
    values: npt.NDArray[np.float64]
    """(weights of sparse, weights of multi): means of the set's first measure, where dense
    weighs 1"""
    used: tuple[float, float] | None
    """the weights of sparse and multi that the report has, for 1 of dense; None where dense has
    none"""
    queries: int
    """over which the means are"""


@dataclass(frozen=True)
class SetFigures:
    """The numbers of one set that only its runs and component scores can tell."""

    recall: Mapping[str, tuple[float, ...]]
    """row -> recall at DEPTHS, 0 to 1"""
    landscape: Landscape | None
    """None where no row fuses all modes"""


def make_figures(
    result: SetResult, runs: Mapping[str, Run], qrels: Qrels, scores: ComponentScores | None
) -> SetFigures:
    """The figures of a set; scores: those that its rows of modes were made from."""
    recall = evaluate(runs, qrels, [f"R@{depth}" for depth in DEPTHS])
    curves = {row: tuple(by_depth.values()) for row, by_depth in recall.means.items()}
    return SetFigures(curves, _landscape(result, qrels, scores))


def _landscape(result: SetResult, qrels: Qrels, scores: ComponentScores | None) -> Landscape | None:
    plans = [plan for row in result.report.means if (plan := result.plan(row))]
    plan = next((plan for plan in plans if plan.modes == MODES), None)
    if plan is None or scores is None or result.report.measures[0].startswith(ANSWER_RECALL):
        return None  # answers are looked for in what the rows found, not in what others would
    chosen = random.Random(0).sample(sorted(qrels), min(MOST_QUERIES, len(qrels)))
    part = replace(scores, queries={query: scores.queries[query] for query in chosen})
    judged, measure = {query: qrels[query] for query in chosen}, result.report.measures[0]
    used = _used(plan)
    sparse, multi = (_steps(weight) for weight in used or (0.0, 0.0))
    values = np.empty((len(sparse), len(multi)))
    for at in np.ndindex(values.shape):
        weights = dict(zip(MODES, (1.0, sparse[at[0]], multi[at[1]]), strict=True))
        run = part.run(replace(plan, weights=weights))
        values[at] = evaluate({"all": run}, judged, [measure]).means["all"][measure]
    return Landscape((sparse, multi), values, used, len(chosen))


def _used(plan: Plan) -> tuple[float, float] | None:
    dense, sparse, multi = (plan.weights[mode] for mode in MODES)
    return (sparse / dense, multi / dense) if dense else None


def _steps(used: float) -> Weights:
    """The weights of one mode, that of the report among them."""
    known = any(math.isclose(used, step) for step in STEPS)
    return STEPS if known else tuple(sorted((*STEPS, used)))
