"""Elements, scales, axes and markers of a drawing, as SVG text; the page gives the colours.

A drawing stands in a page of HTML and takes its colours from the classes there: `c0` to `c7` for
the rows, `grid`, `axis`, `label` and others. Coordinates are pixels from the upper left.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

COLOURS = 8
CHARACTER = 6.6
"""width of a letter of a label, about"""
LINE = 18
_REFUSED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class Caption(NamedTuple):
    """What a drawing is called, for who cannot see it."""

    key: str
    """a name for the page's anchors, other than those of the other drawings"""
    title: str
    description: str


def plain(words: object) -> str:
    """Words as markup shows them; what neither HTML nor XML may hold becomes a replacement mark."""
    return _REFUSED.sub("\ufffd", escape(str(words)))


def element(tag: str, *inside: str, **attributes: object) -> str:
    """An element around markup; attributes are plain, `_` in their names stands for `-`."""
    given = "".join(
        f' {name.strip("_").replace("_", "-")}="{_attribute(value)}"'
        for name, value in attributes.items()
    )
    return f"<{tag}{given}>{''.join(inside)}</{tag}>" if inside else f"<{tag}{given}/>"


def _attribute(value: object) -> str:
    return f"{round(value, 2):g}" if isinstance(value, float) else plain(value)


def label(x: float, y: float, words: object, kind: str = "label", **attributes: object) -> str:
    """Text with its baseline at y."""
    return element("text", plain(words), x=float(x), y=float(y), class_=kind, **attributes)


def tooltip(words: str) -> str:
    """What a mark says when it is pointed at, and to a screen reader."""
    return element("title", plain(words))


def drawing(caption: Caption, width: float, height: float, parts: Iterable[str]) -> str:
    """The whole of it, no wider than the page."""
    title, description = (f"{caption.key}-{part}" for part in ("title", "description"))
    return element(
        "svg",
        element("title", plain(caption.title), id=title),
        element("desc", plain(caption.description), id=description),
        *parts,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        role="img",
        aria_labelledby=f"{title} {description}",
    )


def width_of(words: str) -> float:
    """About how wide a label is."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in words)
    return CHARACTER * (len(words) + 0.8 * wide)


def shortened(words: str, width: float) -> str:
    """The words, or as many letters of them as fit and a mark that there are more."""
    if width_of(words) <= width:
        return words
    while words and width_of(words) > width - CHARACTER:
        words = words[:-1]
    return f"{words}…"


@dataclass(frozen=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False
    """whether equal ratios are equally far apart; low is then above 0"""

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = map(self._stretched, (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def _stretched(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self) -> list[float]:
        """Round values from low to high: 1, 2 and 5 of each power on a log scale."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [step * 10.0**power for power in powers for step in (1, 2, 5)]
            return [value for value in found if self.low <= value <= self.high]
        power = 10.0 ** math.floor(math.log10((self.high - self.low) / 4))
        step = next(s * power for s in (1, 2, 5, 10) if (self.high - self.low) / (s * power) <= 6)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [step * number for number in range(first, last + 1)]


def across(
    scale: Scale, ends: tuple[float, float], shown: Callable[[float], str], name: str
) -> str:
    """The axis of x: lines between two heights, values and the name below."""
    parts, (top, bottom) = [], ends
    for value in scale.ticks():
        x = scale(value)
        parts.append(element("line", x1=x, x2=x, y1=float(top), y2=float(bottom), class_="grid"))
        parts.append(label(x, bottom + 15, shown(value), text_anchor="middle"))
    middle = (scale.start + scale.stop) / 2
    parts.append(label(middle, bottom + 33, name, "axis", text_anchor="middle"))
    return "".join(parts)


def upwards(
    scale: Scale, ends: tuple[float, float], shown: Callable[[float], str], name: str
) -> str:
    """The axis of y: lines from left to right, values and the name at the left."""
    parts, (left, right) = [], ends
    for value in scale.ticks():
        y = scale(value)
        parts.append(element("line", x1=float(left), x2=float(right), y1=y, y2=y, class_="grid"))
        parts.append(label(left - 6, y + 4, shown(value), text_anchor="end"))
    x, y = left - 40, (scale.start + scale.stop) / 2
    turned = f"rotate(-90 {x:.0f} {y:.0f})"
    parts.append(label(x, y, name, "axis", text_anchor="middle", transform=turned))
    return "".join(parts)


def marker(number: int, x: float, y: float, words: str, size: float = 5) -> str:
    """The mark of row `number`: a colour and a shape, of which two rows seldom share both."""
    kind = f"mark c{number % COLOURS}"
    inside = [tooltip(words)] if words else []
    corners = _CORNERS[number % len(_CORNERS)]
    if not corners:
        return element("circle", *inside, cx=float(x), cy=float(y), r=float(size), class_=kind)
    points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return element("polygon", *inside, points=points, class_=kind)


_CORNERS: Sequence[Sequence[tuple[float, float]]] = (
    (),
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
    ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
)
"""of each shape, in its size; none is a circle"""


def legend(names: Mapping[int, str], left: float, right: float) -> tuple[str, float]:
    """The mark and name of each row by its number, and the height that they take."""
    parts, x, y = [], left, LINE / 2
    for number, name in names.items():
        shown = shortened(name, right - left - 20)
        if x > left and x + 20 + width_of(shown) > right:
            x, y = left, y + LINE
        parts.append(marker(number, x + 6, y, ""))
        parts.append(label(x + 16, y + 4, shown))
        x += 32 + width_of(shown)
    return "".join(parts), y + LINE / 2
