"""Plots: scales, where marks stand, and colours that the colour-blind tell apart."""

from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest

from m3search.evaluation.heat import COLOURS, heat_map
from m3search.evaluation.plots import bar_plot, dot_plot, line_plot, point_plot, scatter_plot
from m3search.evaluation.style import STYLE
from m3search.evaluation.svg import (
    Caption,
    Scale,
    element,
    legend,
    marker,
    plain,
    shortened,
    width_of,
)

CAPTION = Caption("key", "A title", "A description")


def read(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def said(mark: ElementTree.Element) -> str:
    return mark.findtext("title") or ""


def test_scales_and_their_ticks() -> None:
    line = Scale(0, 1, 100, 300)
    assert [line(value) for value in (0, 0.25, 1)] == [100, 150, 300]
    assert line.ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Scale(0.8, 1, 0, 1).ticks() == pytest.approx([0.8, 0.85, 0.9, 0.95, 1.0])
    log = Scale(1, 100, 0, 200, log=True)
    assert [log(value) for value in (1, 10, 100)] == pytest.approx([0, 100, 200])
    assert log.ticks() == pytest.approx([1, 2, 5, 10, 20, 50, 100])
    for low, high in ((0.03, 0.2), (0.7, 3), (12, 4000)):
        ticks = Scale(low, high, 0, 1, log=True).ticks()
        assert len(ticks) >= 2 and low <= ticks[0] and ticks[-1] <= high


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.3, 0.4), (0.3, 0.5), (0, 7), (0, 812)])
def test_an_axis_has_a_few_ticks(low: float, high: float) -> None:
    ticks = Scale(low, high, 0, 1).ticks()
    assert 3 <= len(ticks) <= 7
    assert min(ticks) >= low - 1e-9 and max(ticks) <= high + 1e-9


def test_words_are_escaped_and_cut() -> None:
    assert plain("<a href='&'>\x00\ud800") == "&lt;a href=&#x27;&amp;&#x27;&gt;\ufffd\ufffd"
    assert element("a", class_="x y", aria_label='"<', x=1 / 3) == (
        '<a class="x y" aria-label="&quot;&lt;" x="0.33"/>'
    )
    assert shortened("short", 100) == "short"
    cut = shortened("a name that is far too long", 100)
    assert cut.endswith("…") and width_of(cut) <= 100 + 7
    assert width_of("漢字") > width_of("ab")


def test_bars_are_as_long_as_their_values() -> None:
    groups = [("one", {"a": 0.5, "b": 0.25}), ("two", {"b": 1.0})]
    plot = read(bar_plot(CAPTION, groups, ["a", "b"], "nDCG@10"))
    bars = {said(each): float(each.attrib["width"]) for each in plot.iter("rect")}
    assert list(bars) == ["one, a: 50.0", "one, b: 25.0", "two, b: 100.0"]
    longest = bars["two, b: 100.0"]
    assert bars["one, a: 50.0"] == pytest.approx(longest / 2, abs=0.1)
    assert bars["one, b: 25.0"] == pytest.approx(longest / 4, abs=0.1)
    assert [each.attrib["class"] for each in plot.iter("rect")] == ["mark c0", "mark c1", "mark c1"]
    inside_of(plot)


def inside_of(plot: ElementTree.Element) -> None:
    """Every number of a mark lies within the drawing."""
    _, _, width, height = map(float, plot.attrib["viewBox"].split())
    for mark in plot.iter():
        for name, most in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            assert 0 <= float(mark.attrib.get(name, 0)) <= most, mark.attrib


def test_dots_and_points_stand_where_their_values_are() -> None:
    plot = read(dot_plot(CAPTION, [("s", {"a": 0.2, "f": 0.7})], list("abcdef"), "P@1"))
    dots = {said(each): float(each.attrib["cx"]) for each in plot.iter("circle") if said(each)}
    assert dots["s, a: 20.0"] < dots["s, f: 70.0"] < 720
    inside_of(plot)
    times = {"a": (1.0, 0.5), "b": (10.0, 0.7), "c": (100.0, 0.6), "d": (1.01, 0.5)}
    plot = read(point_plot(CAPTION, times, list("abcd"), "P@1"))
    places = {each.text: each for each in plot.iter("text")}
    assert all(row in places for row in times)
    boxes = [tuple(float(places[row].attrib[name]) for name in "xy") for row in ("a", "d")]
    assert abs(boxes[0][0] - boxes[1][0]) > 6 or abs(boxes[0][1] - boxes[1][1]) > 12
    inside_of(plot)
    name = "a system with a long name"
    plot = read(point_plot(CAPTION, {name: (100.0, 0.5), "b": (1.0, 0.5)}, [name, "b"], "P@1"))
    [place] = [each for each in plot.iter("text") if each.text == name]
    assert float(place.attrib["x"]) + width_of(name) <= 720


def test_circles_of_a_scatter_stand_on_the_side_of_the_better() -> None:
    points = {(0.5, 0.5): 4, (0.0, 1.0): 1, (1.0, 0.2): 1}
    plot = read(scatter_plot(CAPTION, points, ("old", "new"), "s: better 1, worse 1", "P@1"))
    circles = {said(each): each.attrib for each in plot.iter("circle")}
    assert len(circles) == 3
    line = next(each.attrib for each in plot.iter("line") if each.attrib["class"] == "diagonal")
    left, bottom, right, top = (float(line[name]) for name in ("x1", "y1", "x2", "y2"))

    def above(words: str) -> float:
        along = (float(circles[words]["cx"]) - left) / (right - left)
        return (bottom - float(circles[words]["cy"])) / (bottom - top) - along

    assert above("queries with old 50.0, new 50.0: 4") == pytest.approx(0, abs=0.01)
    assert above("queries with old 0.0, new 100.0: 1") == pytest.approx(1, abs=0.01)
    assert above("queries with old 100.0, new 20.0: 1") == pytest.approx(-0.8, abs=0.01)
    areas = [float(circles[words]["r"]) ** 2 for words in circles]
    assert areas[0] == pytest.approx(4 * areas[1], rel=0.01)
    assert read(scatter_plot(CAPTION, {}, ("a", "b"), "none", "P@1")).find("circle") is None


def test_measures_that_count_are_shown_as_they_are() -> None:
    values = {"a": 40.0, "b": 12.25}
    plots = [
        bar_plot(CAPTION, [("s", values)], ["a", "b"], "NumRet"),
        dot_plot(CAPTION, [("s", values)], ["a", "b"], "NumRet"),
        point_plot(CAPTION, {"a": (1.0, 40.0), "b": (2.0, 12.25)}, ["a", "b"], "NumRet"),
        scatter_plot(CAPTION, {(40.0, 12.25): 3}, ("a", "b"), "s", "NumRet"),
        heat_map(CAPTION, np.array([[40.0], [12.25]]), ((0, 1), (0,)), ("x", "y"), [], "NumRet"),
    ]
    for plot in map(read, plots):
        words = [each.text or "" for each in (*plot.iter("text"), *plot.iter("title"))]
        assert any("12.2" in each for each in words)
        assert not any("percent" in each or "1225" in each or "4000" in each for each in words)


def test_curves_rise_to_the_right_and_keep_the_colours_of_their_rows() -> None:
    curves = {"b": (0.1, 0.2, 0.9)}
    plot = read(line_plot(CAPTION, (1, 10, 100), curves, ["a", "b"]))
    [line] = plot.iter("polyline")
    assert line.attrib["class"] == "curve c1"
    places = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    (x1, y1), (x2, y2), (x3, y3) = places
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert (y2 - y3) == pytest.approx(7 * (y1 - y2), rel=0.02)
    inside_of(plot)


def test_the_map_has_lighter_cells_for_better_values_and_frames_what_is_marked() -> None:
    values = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    steps = ((0.0, 0.1, 1.0), (0.0, 2.0))
    marked = [(0.1, 2.0), (0.0, 1.0), (50.0, 0.0)]
    plot = read(heat_map(CAPTION, values, steps, ("sparse", "multi"), marked, "P@1"))
    cells = {said(each): each.attrib for each in plot.iter("rect") if said(each)}
    light = [sum(int(each["fill"][at : at + 2], 16) for at in (1, 3)) for each in cells.values()]
    assert light == sorted(light) and light[0] < light[-1]
    cell = cells["sparse 0.1, multi 2: 40.0"]
    frames = [each.attrib for each in plot.iter("rect") if each.attrib.get("class") == "frame"]
    exact, between, beyond = frames[::2]
    assert [float(exact[at]) - float(cell[at]) for at in "xy"] == [2, 2]
    low, high = (
        cells[f"sparse 0, multi {step}: {value}"] for step, value in ((0, "10.0"), (2, "20.0"))
    )
    assert float(high["y"]) < float(between["y"]) < float(low["y"])
    assert float(beyond["x"]) - 2 == float(cells["sparse 1, multi 0: 50.0"]["x"])
    flat = read(heat_map(CAPTION, np.full((3, 2), 0.5), steps, ("sparse", "multi"), [], "P@1"))
    assert len({each.attrib["fill"] for each in flat.iter("rect")}) == 1


def test_a_legend_goes_on_in_the_next_line() -> None:
    one, low = legend({0: "dense", 1: "all"}, 0, 700)
    two, high = legend({number: f"a rather long name {number}" for number in range(9)}, 0, 300)
    assert high > 3 * low and one.count("<text") == 2 and two.count("<text") == 9


def test_rows_differ_in_colour_and_shape() -> None:
    marks = {marker(number, 0, 0, "") for number in range(40)}
    assert len(marks) == 40


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


SIMULATED = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
}  # fmt: skip
"""linear RGB as seen without one kind of cones (Machado, Oliveira and Fernandes 2009)"""


def lab(values: np.ndarray) -> np.ndarray:
    matrix = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = matrix @ np.clip(values, 0, 1) / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", [None, "protan", "deutan"])
def test_the_colour_blind_tell_the_colours_apart(kind: str | None) -> None:
    colours = re.findall(r"\.c\d \{ --row: (#\w{6})", STYLE)
    assert len(colours) == 7
    matrix = np.eye(3) if kind is None else np.array(SIMULATED[kind])
    seen = {colour: lab(matrix @ linear(colour)) for colour in colours}
    nearest = min(float(np.linalg.norm(seen[a] - seen[b])) for a, b in combinations(colours, 2))
    assert nearest > 10, nearest
    assert float(lab(matrix @ linear("#0072b2"))[0]) < 60
    shades = [lab(matrix @ linear(f"#{r:02x}{g:02x}{b:02x}"))[0] for r, g, b in COLOURS]
    assert shades == sorted(shades)
