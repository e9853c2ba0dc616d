"""A map of heat as SVG text: a value for every pair of weights, by colour and in figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from m3search.evaluation.measures import shown
from m3search.evaluation.svg import Caption, drawing, element, label, tooltip

CELL_WIDTH, CELL_HEIGHT, LEFT, TOP = 64, 38, 62, 10
# Cividis (Nuñez, Anderton and Renslow 2018): the colour-blind see the same order of light in it.
COLOURS = np.array([(0, 32, 77), (64, 77, 107), (124, 123, 120), (187, 174, 104), (255, 234, 70)])


def heat_map(
    caption: Caption,
    values: npt.NDArray[np.float64],
    steps: tuple[Sequence[float], Sequence[float]],
    names: tuple[str, str],
    marked: Sequence[tuple[float, float]],
    measure: str,
) -> str:
    """Cells (along, up) of values, the lighter the better, and frames around the pairs marked.

    steps: of both axes, ascending from 0; a pair between two steps has its frame between their
    cells, and one beyond the last at the edge.
    """
    wide, high = (len(each) for each in steps)
    parts = [_cell(values, at, steps, names, measure) for at in np.ndindex(values.shape)]
    for along, step in enumerate(steps[0]):
        x, y = _corner(along, -1, high)
        parts.append(label(x + CELL_WIDTH / 2, y + 16, f"{step:g}", text_anchor="middle"))
    for up, step in enumerate(steps[1]):
        x, y = _corner(0, up, high)
        parts.append(label(x - 6, y + 23, f"{step:g}", text_anchor="end"))
    middle, bottom = LEFT + CELL_WIDTH * wide / 2, TOP + CELL_HEIGHT * high
    parts.append(label(middle, bottom + 34, f"weight of {names[0]}", "axis", text_anchor="middle"))
    middle = TOP + CELL_HEIGHT * high / 2
    turned = {"text_anchor": "middle", "transform": f"rotate(-90 20 {middle:.0f})"}
    parts.append(label(20, middle, f"weight of {names[1]}", "axis", **turned))
    for first, second in marked:
        parts += _frame(*_corner(_place(first, steps[0]), _place(second, steps[1]), high))
    return drawing(caption, LEFT + CELL_WIDTH * wide + 10, bottom + 44, parts)


def _cell(
    values: npt.NDArray[np.float64],
    at: tuple[int, ...],
    steps: tuple[Sequence[float], Sequence[float]],
    names: tuple[str, str],
    measure: str,
) -> str:
    low, high, value = float(values.min()), float(values.max()), float(values[at])
    share = (value - low) / (high - low) if high > low else 1.0
    along, up = at
    x, y = _corner(along, up, len(steps[1]))
    words = f"{names[0]} {steps[0][along]:g}, {names[1]} {steps[1][up]:g}: {shown(value, measure)}"
    place = {"x": x, "y": y, "width": CELL_WIDTH, "height": CELL_HEIGHT}
    ink = "on-light" if share > 0.5 else "on-dark"
    return element("rect", tooltip(words), **place, fill=_colour(share)) + label(
        x + CELL_WIDTH / 2, y + 23, shown(value, measure), ink, text_anchor="middle"
    )


def _corner(along: float, up: float, high: int) -> tuple[float, float]:
    """The upper left of a cell, pixels; high: cells upon each other."""
    return LEFT + CELL_WIDTH * along, TOP + CELL_HEIGHT * (high - 1 - up)


def _place(weight: float, steps: Sequence[float]) -> float:
    """Where a weight stands among the steps: 1.5 is midway between those of 1 and of 2."""
    if weight <= steps[1]:
        return weight / steps[1]
    return float(np.interp(np.log(weight), np.log(steps[1:]), range(1, len(steps))))


def _frame(x: float, y: float) -> list[str]:
    """A light line within a dark one, to be seen on every colour."""
    place = {"x": x + 2, "y": y + 2, "width": CELL_WIDTH - 4.0, "height": CELL_HEIGHT - 4.0}
    shape = {"fill": "none", "class_": "frame"}
    return [
        element("rect", **place, **shape, stroke=colour, stroke_width=width)
        for colour, width in (("#000", 5), ("#fff", 2))
    ]


def _colour(share: float) -> str:
    """From the darkest at 0 to the lightest at 1."""
    at = np.linspace(0, 1, len(COLOURS))
    red, green, blue = (round(float(np.interp(share, at, channel))) for channel in COLOURS.T)
    return f"#{red:02x}{green:02x}{blue:02x}"
