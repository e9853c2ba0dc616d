"""How long a query takes, stage by stage, when it is asked alone.

The runs of a set are searched in batches, which tells what a query costs on the average but not
what one user waits. So some of the queries are asked again, one at a time, on the warm index: each
is encoded, goes through the first stages, and has its candidates scored in every mode.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from m3search.evaluation.components import reach_of_multi
from m3search.evaluation.results import SetResult, describe_reuse
from m3search.evaluation.suite import BASELINES
from m3search.plan import Plan
from m3search.records import MODES, Mode, Query
from m3search.timings import WEIGH, Timings

if TYPE_CHECKING:
    from m3search.search import EncodedQueries, Searcher

T = TypeVar("T")

MOST_QUERIES, MOST_SECONDS = 100, 60.0
"""that are encoded again, each alone, and then asked again, and for how long either may take"""
ENCODE = "encode queries"
SEARCHER_ENCODES = "encode"
"""what a searcher calls that stage"""
BM25 = "bm25"

Stages = dict[str, dict[str, float]]
"""stage -> p50, p95 and p99 in milliseconds, and the number of queries"""


def sample_queries(queries: Sequence[Query]) -> list[Query]:
    """Those that are asked again, the same every time, in an order that can be cut anywhere."""
    return random.Random(0).sample(queries, min(MOST_QUERIES, len(queries)))


def measure_encoding(
    searcher: Searcher, queries: Sequence[Query], progress: Callable[[int], None] = lambda _: None
) -> tuple[float, ...]:
    """Seconds of each query, encoded alone, in their order; of the first ones where time is up."""
    timings = _time_each(queries, lambda query: searcher.encode([query]), progress)
    return tuple(timings.seconds.get(SEARCHER_ENCODES, ()))


def measure_stages(
    searcher: Searcher,
    queries: EncodedQueries,
    names: Iterable[str],
    encoding: Sequence[float],
    plans: Iterable[Plan],
    progress: Callable[[int], None] = lambda _: None,
) -> Stages:
    """The stages that the plans need, of the queries named, asked one at a time.

    `encoding` is what `measure_encoding` found. The candidates that are scored are those of all
    plans that re-rank, as for `all`: none of what a mode retrieves for itself alone. `progress`
    gets the number of queries done.
    """
    asked = list(plans)
    reranking = [plan for plan in asked if not plan.retrieves_only]
    first = {mode for plan in reranking for mode in plan.first_stages}
    alone = {mode for plan in asked for mode in plan.first_stages} - first
    scored = {mode for plan in reranking for mode in plan.modes}
    depth = max(plan.depth for plan in asked)
    reach = reach_of_multi(reranking, depth)

    def ask(encoded: EncodedQueries) -> None:
        for stages, modes in ((first, scored), (alone, set[Mode]())):
            if stages:
                found = searcher.candidates(
                    encoded,
                    stages=_ordered(stages),
                    modes=_ordered(modes),
                    depth=depth,
                    reach=reach,
                )
                for _ in found:  # it searches while it is read
                    pass

    timings = _time_each([queries.one(name) for name in names], ask, progress)
    both_weigh = "sparse" in first | scored and "sparse" in alone
    if both_weigh and WEIGH in timings.seconds:  # twice for each query, and it waits for one
        timings.seconds[WEIGH] = timings.seconds[WEIGH][::2]
    timings.seconds = {SEARCHER_ENCODES: list(encoding)} | timings.seconds
    return summary(timings)


def _time_each(
    queries: Sequence[T], ask: Callable[[T], object], progress: Callable[[int], None]
) -> Timings:
    """The stages of each query asked, until the time is up."""
    for query in queries[:1]:
        ask(query)  # what the first one alone waits for is not counted
    until = time.perf_counter() + MOST_SECONDS
    with Timings() as timings:
        for query in queries:
            ask(query)
            progress(1)
            if time.perf_counter() > until:
                break
    return timings


def summary(timings: Timings) -> Stages:
    """What was measured for each query, as a report has it; scoring after what it waits for."""
    found = timings.milliseconds()
    return {
        ENCODE if name == SEARCHER_ENCODES else name: {
            "queries": len(timings.seconds[name]),
            **{percentile: round(value, 3) for percentile, value in found[name].items()},
        }
        for name in sorted(found, key=lambda name: name.startswith("score "))
    }


def row_milliseconds(result: SetResult) -> dict[str, float]:
    """Row -> the sum of the medians of its stages, for the rows whose stages were all timed."""
    timed: Mapping[str, Mapping[str, float]] = result.details.get("stages_ms", {})
    found = {}
    for row in result.report.means:
        stages = _stages_of(result, row, timed)
        if stages and all(stage in timed for stage in stages):
            found[row] = sum(timed[stage]["p50"] for stage in stages)
    return found


def when_timed(sets: Sequence[SetResult]) -> str:
    """Between which times, on which other machines, and what was there already, so that its times
    are older ones."""
    times = [time for each in sets for time in each.details.get("timed", {}).values()]
    when = f" Timed from {min(times)} to {max(times)}." if times else ""
    machines = [on for each in sets for on in each.details.get("timed_on", {}).values()]
    others = {f"{on['processor']}, {on['cores']} cores, {on['threads']} threads" for on in machines}
    if others:
        when += f" Some of it on another machine than below: {'; '.join(sorted(others))}."
    reused = describe_reuse(sets)
    return f"{when} Not made anew: {reused}." if reused else when


def _stages_of(result: SetResult, row: str, timed: Container[str]) -> list[str]:
    """Those that a row goes through; none of a row that another system made.

    Terms are weighed for sparse, with a model that says so: where any of that was timed.
    """
    plan = result.plan(row)
    if plan is None:
        return [row] if row in BASELINES else []
    scored = () if plan.retrieves_only else plan.modes
    weighs = WEIGH in timed and "sparse" in (*plan.modes, *plan.first_stages)
    return [
        ENCODE,
        *((WEIGH,) if weighs else ()),
        *(f"retrieve {mode}" for mode in plan.first_stages),
        *(f"score {mode}" for mode in scored),
    ]


def _ordered(modes: set[Mode]) -> tuple[Mode, ...]:
    return tuple(mode for mode in MODES if mode in modes)
