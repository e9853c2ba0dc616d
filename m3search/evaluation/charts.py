"""Which plots an experiment has, with what their captions say of the axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from m3search.evaluation.figures import DEPTHS, Landscape, SetFigures, Weights
from m3search.evaluation.heat import heat_map
from m3search.evaluation.latency import row_milliseconds
from m3search.evaluation.measures import is_count
from m3search.evaluation.plots import (
    Lines,
    bar_plot,
    dot_plot,
    line_plot,
    point_plot,
    scatter_plot,
)
from m3search.evaluation.results import Experiment, SetResult
from m3search.evaluation.svg import Caption

FEW = 8
"""sets that have plots of their own; of more there are means"""
LEAST_MILLISECONDS = 0.001

Figures = Mapping[str, SetFigures]
"""by the names of the sets"""


@dataclass(frozen=True)
class Chart:
    """One plot, or one of each set side by side."""

    drawings: tuple[str, ...]
    """SVG"""
    caption: str
    """plain text"""


def rows_of(experiment: Experiment) -> list[str]:
    """All rows of any set, in the order in which they are met."""
    return list(dict.fromkeys(row for each in experiment.sets for row in each.report.means))


def quality_charts(experiment: Experiment) -> list[Chart]:
    """Bars for the first measure of each set, or for the means of many sets and dots for each."""
    measure, rows = experiment.measures[0], rows_of(experiment)
    sets: Lines = [(each.name, _column(each.report.means, measure)) for each in experiment.sets]
    several = [group for group in experiment.groups if len(experiment.sets_of(group)) > 1]
    means = [(f"mean of {group}", experiment.means(group)) for group in several]
    means += [("mean of all sets", experiment.means())] if len(sets) > 1 else []
    mean_lines: Lines = [(name, _column(found, measure)) for name, found in means]
    many = len(sets) > FEW
    groups = [line for line in [*([] if many else sets), *mean_lines] if line[1]]
    charts = []
    if groups:
        what = "of groups of sets" if many else "of each set"
        text = f"{measure} of every row {what}{_unit(measure)}: the longer the bar, the better."
        caption = Caption("quality-plot", f"{measure} by row", text)
        charts.append(Chart((bar_plot(caption, groups, rows, measure),), text))
    if many:
        text = (
            f"{measure} of every set{_unit(measure)}: a line for each set, a mark for each row, "
            "the further to the right the better."
        )
        caption = Caption("sets-plot", f"{measure} by set", text)
        lines = [line for line in sets if line[1]]
        charts.append(Chart((dot_plot(caption, lines, rows, measure),), text))
    return charts


def scatter_chart(experiment: Experiment) -> list[Chart]:
    """The value of each query in one row against another, by set where they are few."""
    rows, measure = rows_of(experiment), experiment.measures[0]
    chosen = "all" if "all" in rows else rows[0]
    other = next((row for row in ("bm25", "dense", *rows) if row in rows and row != chosen), None)
    if other is None:
        return []
    found = {each.name: _pairs(each, other, chosen, measure) for each in experiment.sets}
    by_set = {name: pairs for name, pairs in found.items() if pairs}
    if len(by_set) > FEW:
        by_set = {f"all {len(by_set)} sets": [pair for each in by_set.values() for pair in each]}
    drawings = []
    for number, (name, pairs) in enumerate(by_set.items(), start=1):
        better, worse = sum(x < y for x, y in pairs), sum(x > y for x, y in pairs)
        heading = f"{name}: better {better}, worse {worse}"
        text = f"Of {_count(len(pairs), 'query')} {better} are above the diagonal, {worse} below."
        caption = Caption(f"queries-plot-{number}", f"{name}, {measure} of each query", text)
        points = Counter((round(x, 2), round(y, 2)) for x, y in pairs)
        drawings.append(scatter_plot(caption, points, (other, chosen), heading, measure))
    text = (
        f"{measure} of each query{_unit(measure)}: with {other} along the lower axis, with "
        f"{chosen} along the left one. Above the diagonal {chosen} is better. The area of a circle "
        "grows with the number of queries at its place, which is rounded to hundredths; none is "
        "smaller than a dot."
    )
    return [Chart(tuple(drawings), text)] if drawings else []


def weights_chart(experiment: Experiment, figures: Figures) -> list[Chart]:
    """The mean of the sets over a grid of weights."""
    measure = experiment.measures[0]
    found = {
        each.name: figures[each.name].landscape
        for each in experiment.sets
        if each.report.measures[0] == measure and each.name in figures
    }
    landscapes = [landscape for landscape in found.values() if landscape is not None]
    if not landscapes:
        return []
    steps, values = _mean_landscape(landscapes)
    used = list(dict.fromkeys(each.used for each in landscapes if each.used is not None))
    pairs = ", ".join(f"sparse {sparse:.3g} with multi {multi:.3g}" for sparse, multi in used)
    most = max(each.queries for each in landscapes)
    text = (
        f"{measure}{_unit(measure)}, the mean of {_count(len(landscapes), 'set')}, for weights of "
        "sparse along the lower axis and of multi along the left one, where dense weighs 1; the "
        f"lighter the better. {f'Framed are the weights of the report: {pairs}. ' if used else ''}"
        f"Ranked anew were {_count(most, 'query')} of a set at most, drawn at random."
    )
    caption = Caption("weights-plot", f"{measure} by weights", text)
    return [Chart((heat_map(caption, values, steps, ("sparse", "multi"), used, measure),), text)]


def _mean_landscape(
    landscapes: Sequence[Landscape],
) -> tuple[tuple[Weights, Weights], npt.NDArray[np.float64]]:
    """The steps that all have, and the mean at these."""
    sparse, multi = (
        tuple(step for step in landscapes[0].steps[axis] if all(step in s for s in others))
        for axis, others in enumerate(zip(*(each.steps for each in landscapes), strict=True))
    )
    parts = [
        each.values[np.isin(each.steps[0], sparse)][:, np.isin(each.steps[1], multi)]
        for each in landscapes
    ]
    return (sparse, multi), np.mean(parts, axis=0)


def recall_chart(experiment: Experiment, figures: Figures) -> list[Chart]:
    """The mean recall of the rows that all sets have, at growing depths."""
    found = [figures[each.name].recall for each in experiment.sets if each.name in figures]
    found = [recall for recall in found if recall]
    curves = {
        row: [fmean(column) for column in zip(*(recall[row] for recall in found), strict=True)]
        for row in rows_of(experiment)
        if found and all(row in recall for recall in found)
    }
    if not curves:
        return []
    text = (
        f"Recall in percent, the mean of {_count(len(found), 'set')}: how many of the relevant "
        "documents are among as many as the lower axis says, on a log scale; the higher the "
        "better. The left axis begins near the lowest value."
    )
    caption = Caption("recall-plot", "Recall by depth", text)
    return [Chart((line_plot(caption, DEPTHS, curves, rows_of(experiment)),), text)]


def latency_chart(experiment: Experiment) -> list[Chart]:
    """What the rows cost beside what they are worth, for those that all sets have timed."""
    measure, means = experiment.measures[0], _column(experiment.means(), experiment.measures[0])
    timed = [row_milliseconds(each) for each in experiment.sets]
    points = {
        row: (max(LEAST_MILLISECONDS, fmean(found[row] for found in timed)), value)
        for row, value in means.items()
        if all(row in found for found in timed)
    }
    if len(points) < 2:
        return []
    text = (
        "Along the lower axis the milliseconds of a query, on a log scale: the sum of the medians "
        f"of the stages that a row goes through, the mean of {_count(len(timed), 'set')}. Along "
        f"the left axis, which begins near the lowest value, {measure}{_unit(measure)}. The best "
        "rows are at the upper left."
    )
    caption = Caption("latency-plot", f"{measure} by milliseconds", text)
    return [Chart((point_plot(caption, points, rows_of(experiment), measure),), text)]


def _column(means: Mapping[str, Mapping[str, float]], measure: str) -> dict[str, float]:
    return {row: values[measure] for row, values in means.items() if measure in values}


def _pairs(result: SetResult, first: str, second: str, measure: str) -> list[tuple[float, float]]:
    """The values of each query in two rows; none where the set lacks one of them."""
    per_query = result.report.per_query
    one, two = (per_query.get(row, {}).get(measure, {}) for row in (first, second))
    return [(one[query], two[query]) for query in one if query in two]


def _unit(measure: str) -> str:
    return "" if is_count(measure) else ", in percent"


def _count(number: int, what: str) -> str:
    """
    >>> _count(1, "set"), _count(2, "query")
    ('1 set', '2 queries')
    """
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"
