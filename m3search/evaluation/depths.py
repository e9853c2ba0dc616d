"""How deep the runs of a set are."""

from __future__ import annotations

from m3search.evaluation.measures import cutoffs
from m3search.evaluation.suite import EvaluationSet

RETRIEVED = 100
"""documents a query that a run holds at least, where its depth is no smaller"""


def retrieved(wanted: EvaluationSet) -> int:
    """Documents a query that the runs of a set hold at most: 100, or as many as a measure looks at;
    where one looks at whole runs, as AP does, the depth of the deepest row."""
    deepest = max([wanted.depth, *(plan.depth for plan in wanted.plans(1).values())])
    return max([RETRIEVED, *(cutoff or deepest for cutoff in cutoffs(wanted.measures))])


def asked_for(wanted: EvaluationSet) -> int:
    """How many a row is searched for that has no depth of its own: 100, or as many as a measure
    looks at, `depth` where it looks at whole runs; one more where the query may be among them."""
    counts = (cutoff or wanted.depth for cutoff in cutoffs(wanted.measures))
    return max(RETRIEVED, *counts) + wanted.drop_same_id
