"""How deep the runs of a set are."""

from __future__ import annotations

from m3search.evaluation.measures import cutoffs
from m3search.evaluation.suite import EvaluationSet

RETRIEVED = 100
"""documents a query that a run holds at least"""


def retrieved(wanted: EvaluationSet) -> int:
    """Documents a query that the runs of a set hold at most: 100, or as many as a measure looks at;
    where one looks at whole runs, as AP does, the depth of the deepest row."""
    deepest = max([wanted.depth, *(plan.depth for plan in wanted.plans(1).values())])
    return max([RETRIEVED, *(cutoff or deepest for cutoff in cutoffs(wanted.measures))])


def asked_for(wanted: EvaluationSet) -> int:
    """How many are asked for: one more where the query itself may be among them."""
    return retrieved(wanted) + wanted.drop_same_id
