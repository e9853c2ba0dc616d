"""The plots of a report as SVG text: bars, dots, curves, pairs of values, a map of heat.

Measures are 0 to 1 and shown in percent, but for those that count. `rows` are all rows of the
report: a row's place in them gives its colour and shape, which are the same in every plot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from m3search.evaluation.measures import in_percent, is_count, shown
from m3search.evaluation.svg import (
    COLOURS,
    LINE,
    Caption,
    Scale,
    across,
    drawing,
    element,
    label,
    legend,
    marker,
    shortened,
    tooltip,
    upwards,
    width_of,
)

Lines = Sequence[tuple[str, Mapping[str, float]]]
"""name, and row -> value, in the order shown"""
WIDTH, WIDEST_LABEL, SQUARE = 720, 200, 340


def bar_plot(caption: Caption, groups: Lines, rows: Sequence[str], measure: str) -> str:
    """A bar from 0 for each row of each group, with its value."""
    left = _label_width(rows)
    x = Scale(0, _top(groups), left, WIDTH - 45)
    parts, y = [], 0.0
    for name, values in groups:
        parts.append(label(0, y + 14, shortened(name, WIDTH), "group"))
        y += LINE + 2
        for number, row in enumerate(rows):
            if row not in values:
                continue
            end, value = x(values[row]), shown(values[row], measure)
            place = {"x": left, "y": y + 2, "width": end - left, "height": 13.0}
            words = tooltip(f"{name}, {row}: {value}")
            parts.append(element("rect", words, **place, class_=f"mark c{number % COLOURS}"))
            parts.append(label(left - 6, y + 12, shortened(row, left - 10), text_anchor="end"))
            parts.append(label(end + 4, y + 12, value))
            y += LINE - 1
        y += 8
    axis = across(x, (0, y), *_axis(measure))
    return drawing(caption, WIDTH, y + 40, [axis, *parts])


def dot_plot(caption: Caption, lines: Lines, rows: Sequence[str], measure: str) -> str:
    """A line for each set, with the mark of every row at its value."""
    left = _label_width([name for name, _ in lines])
    key, y = legend(dict(enumerate(rows)), left, WIDTH)
    x, top = Scale(0, _top(lines), left + 8, WIDTH - 15), y + 6
    parts, y = [], top + LINE / 2
    for name, values in lines:
        parts.append(label(left - 6, y + 4, shortened(name, left - 10), text_anchor="end"))
        for number, row in enumerate(rows):
            if row in values:
                words = f"{name}, {row}: {shown(values[row], measure)}"
                parts.append(marker(number, x(values[row]), y, words))
        y += LINE
    axis = across(x, (top, y), *_axis(measure))
    return drawing(caption, WIDTH, y + 40, [key, axis, *parts])


def scatter_plot(
    caption: Caption,
    points: Mapping[tuple[float, float], int],
    names: tuple[str, str],
    heading: str,
    measure: str,
) -> str:
    """Circles at pairs of values, the larger the more queries have them, and the diagonal."""
    (first, second), (tick, _) = names, _axis(measure)
    top = max(1.0, *(max(point) for point in points), 1.0)
    x, y = Scale(0, top, 68, SQUARE - 20), Scale(0, top, SQUARE - 53, 34)
    most = max(points.values(), default=1)
    parts = [
        label(0, 14, shortened(heading, SQUARE), "group"),
        across(x, (30, SQUARE - 45), tick, shortened(first, 250)),
        upwards(y, (60, SQUARE - 20), tick, shortened(second, 250)),
        element("line", x1=x(0), y1=y(0), x2=x(top), y2=y(top), class_="diagonal"),
    ]
    for (one, two), count in sorted(points.items(), key=lambda item: -item[1]):
        values = f"{first} {shown(one, measure)}, {second} {shown(two, measure)}"
        words = f"queries with {values}: {count}"
        radius = max(2.5, 12 * math.sqrt(count / most))
        circle = {"cx": x(one), "cy": y(two), "r": radius, "class_": "bubble"}
        parts.append(element("circle", tooltip(words), **circle))
    return drawing(caption, SQUARE, SQUARE, parts)


def line_plot(
    caption: Caption,
    depths: Sequence[int],
    curves: Mapping[str, Sequence[float]],
    rows: Sequence[str],
) -> str:
    """The recall of each row that has a curve, over depths on a log scale."""
    shown = {number: row for number, row in enumerate(rows) if row in curves}
    key, top = legend(shown, 60, WIDTH)
    least = min(value for curve in curves.values() for value in curve)
    x = Scale(depths[0], depths[-1], 75, WIDTH - 30, log=True)
    y = Scale(min(0.9, math.floor(10 * least) / 10), 1, top + 280, top + 15)
    parts = [
        across(x, (y.stop, y.start), lambda value: f"{value:g}", "documents looked at"),
        upwards(y, (60, WIDTH - 15), *_axis("recall")),
    ]
    for number, row in shown.items():
        places = [(x(depth), y(value)) for depth, value in zip(depths, curves[row], strict=True)]
        joined = " ".join(f"{along:.1f},{up:.1f}" for along, up in places)
        parts.append(element("polyline", points=joined, class_=f"curve c{number % COLOURS}"))
        for depth, value, place in zip(depths, curves[row], places, strict=True):
            parts.append(marker(number, *place, f"{row}, R@{depth}: {in_percent(value)}", 4))
    return drawing(caption, WIDTH, top + 320, [key, *parts])


def point_plot(
    caption: Caption,
    points: Mapping[str, tuple[float, float]],
    rows: Sequence[str],
    measure: str,
) -> str:
    """Each row at its milliseconds, which are on a log scale, and its value; named beside it."""
    times = [time for time, _ in points.values()]
    values = [value for _, value in points.values()]
    low, high = math.floor(10 * min(values)) / 10, math.ceil(10 * max(values)) / 10
    x = Scale(min(times) / 2, max(times) * 2, 60, WIDTH - 15, log=True)
    y = Scale(low, max(high, low + 0.1), 300, 15)
    marks = {row: (x(time), y(value)) for row, (time, value) in points.items()}
    parts = [
        across(x, (15, 300), lambda value: f"{value:g}", "milliseconds of a query"),
        upwards(y, (60, WIDTH - 15), *_axis(measure)),
    ]
    for number, row in enumerate(rows):
        if row in points:
            time, value = points[row]
            words = f"{row}: {shown(value, measure)} in {time:.1f} ms"
            parts.append(marker(number, *marks[row], words, 6))
    return drawing(caption, WIDTH, 340, [*parts, *_names_beside(marks)])


def _names_beside(marks: Mapping[str, tuple[float, float]]) -> list[str]:
    """The name of each mark, to its right or left or a little above or below: where it is free."""
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in marks.values()]
    parts = []
    for name, (x, y) in marks.items():
        width = width_of(name)
        places = [
            (start, y + down)
            for down in (4, -9, 17, -22, 30)
            for start in (x + 11, x - 11 - width)
            if start >= 60 and start + width <= WIDTH
        ]
        boxes = [(start, line - 11, start + width, line + 3) for start, line in places]
        free = [box for box in boxes if not any(_overlap(box, other) for other in taken)]
        start, top, *_ = chosen = (free or boxes or [(x + 11, y - 7, x + 11 + width, y + 7)])[0]
        taken.append(chosen)
        parts.append(label(start, top + 11, name))
    return parts


def _overlap(one: Sequence[float], two: Sequence[float]) -> bool:
    """Whether two boxes do; each is left, top, right, bottom."""
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def _label_width(names: Iterable[str]) -> float:
    return 10 + min(WIDEST_LABEL, max(map(width_of, names), default=0))


def _top(lines: Lines) -> float:
    """The end of an axis of measures: 100 percent, or what a measure that counts reaches."""
    return max([1.0, *(value for _, values in lines for value in values.values())])


def _axis(measure: str) -> tuple[Callable[[float], str], str]:
    """How an axis of a measure shows its values, and what it is called."""
    if is_count(measure):
        return "{:g}".format, measure
    return lambda value: f"{100 * value:.0f}", f"{measure}, percent"
