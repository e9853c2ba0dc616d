"""What the plots of a report keep of a set, whose runs and component scores are too large to hold.

The rest of what is plotted, means and values per query, is in the results themselves.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from m3search.evaluation.components import ComponentScores
from m3search.evaluation.measures import evaluate, least_depth, reads_answers, recall_curve
from m3search.evaluation.results import SetResult
from m3search.fusion import weighted_sum
from m3search.plan import Plan
from m3search.records import MODES, Qrels, Run

DEPTHS = (1, 2, 5, 10, 20, 50, 100)
"""at which recall is measured"""
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
    """row -> recall at DEPTHS, 0 to 1; none where answers are in place of judgements"""
    landscape: Landscape | None
    """None where no row fuses all modes"""


def make_figures(
    result: SetResult, runs: Mapping[str, Run], qrels: Qrels, scores: ComponentScores | None
) -> SetFigures:
    """The figures of a set; scores: those that its rows of modes were made from."""
    if reads_answers(result.report.measures[0]):  # who looked for them judges what was found alone
        return SetFigures({}, None)
    if scores is not None and result.details["settings"].get("drop_same_id"):
        scores = scores.without_same_ids()
    recall = {row: recall_curve(run, qrels, DEPTHS) for row, run in runs.items()}
    return SetFigures(recall, _landscape(result, qrels, scores))


def _landscape(result: SetResult, qrels: Qrels, scores: ComponentScores | None) -> Landscape | None:
    plans = [plan for row in result.report.means if (plan := result.plan(row))]
    plan = next((plan for plan in plans if plan.modes == MODES), None)
    if plan is None or scores is None:
        return None
    chosen = random.Random(0).sample(sorted(qrels), min(MOST_QUERIES, len(qrels)))
    part = replace(scores, queries={query: scores.queries[query] for query in chosen})
    judged, measure = {query: qrels[query] for query in chosen}, result.report.measures[0]
    used = _used(plan)
    sparse, multi = (_steps(weight) for weight in used or (0.0, 0.0))
    grid = [(1.0, *weights) for weights in product(sparse, multi)]
    runs = _runs(part, plan, least_depth(measure, plan.k), grid)
    means = evaluate({str(at): run for at, run in enumerate(runs)}, judged, [measure]).means
    values = np.array([means[str(at)][measure] for at in range(len(grid))])
    return Landscape((sparse, multi), values.reshape(len(sparse), len(multi)), used, len(chosen))


def _runs(scores: ComponentScores, plan: Plan, depth: int, grid: Sequence[Weights]) -> list[Run]:
    """What the plan finds with each of the weights of dense, sparse and multi in place of its own.

    Of every query it is the `depth` best documents, and those as good as the last of them: a
    measure that looks at no more has the value of the whole run.
    """
    weights = dict(zip(MODES, np.array(grid).T[:, :, np.newaxis], strict=True))
    runs: list[Run] = [{} for _ in grid]
    for query, documents, scored in scores.queries.values():
        places, columns = scored.columns(plan)
        names = [documents[place] for place in places.tolist()]
        fused = weighted_sum(columns, weights)
        last = max(0, len(names) - depth)
        least = np.partition(fused, last, axis=1)[:, last] if names else np.zeros(len(grid))
        for run, line, score in zip(runs, fused, least, strict=True):
            kept = np.flatnonzero(line >= score)
            if len(kept) > plan.k:  # the run itself ends among equal ones
                kept = np.array(sorted(kept, key=lambda at: (line[at], names[at]))[-plan.k :])
            found = zip(kept.tolist(), line[kept].tolist(), strict=True)
            run[query] = {names[at]: value for at, value in found}
    return runs


def _used(plan: Plan) -> tuple[float, float] | None:
    dense, sparse, multi = (plan.weights[mode] for mode in MODES)
    return (sparse / dense, multi / dense) if dense else None


def _steps(used: float) -> Weights:
    """The weights of one mode, that of the report among them."""
    known = any(math.isclose(used, step) for step in STEPS)
    return STEPS if known else tuple(sorted((*STEPS, used)))
