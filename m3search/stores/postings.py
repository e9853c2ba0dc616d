"""Compiled loops over posting lists: sums of rows side by side, and exact scores of given rows.

Both add `factor * weight` in float64 and, for what they return, term by term in the order given:
a row has the same bits in its score whichever of the two made it, and whatever was scored beside.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import overload

from m3search.stores.compiling import compiled

Array = npt.NDArray[Any]

UNSIGNED = np.uint64
ONE = UNSIGNED(1)
"""places are unsigned in the loop that takes the time: a signed one may count from the end"""


class Lists(NamedTuple):
    """The posting lists of a query's terms; those of heavy terms first are read the least."""

    starts: Array
    """(terms,) int64, where each begins in `rows` and `impacts`"""
    stops: Array
    """(terms,) int64, where it ends"""
    factors: Array
    """(terms,) float64, what the term weighs in the query"""
    peaks: Array
    """(terms,) float64, what no weight of the list exceeds"""
    rows: Array
    """(postings,) int32, of all terms of the segment; ascending within a list"""
    impacts: Array
    """(postings,) the weights, or codes of them"""
    table: Array
    """(codes,) float32, the weight of each code; empty where the impacts are the weights"""


def weight_of(impact: Any, table: Array) -> float:
    """The weight that an impact stands for: itself, or what the table has at that code."""
    raise NotImplementedError("compiled code only")


@overload(weight_of)
def _weight_of(impact, table):  # type: ignore[no-untyped-def]
    if isinstance(impact, numba.types.Float):
        return lambda impact, table: impact
    return lambda impact, table: table[impact]


@compiled
def find(rows: Array, start: int, stop: int, row: int) -> int:
    """The first place from `start` on with rows[place] >= row, else `stop`; near ones are fast."""
    low, step = start, 1
    while low + step < stop and rows[low + step] < row:
        low += step
        step <<= 1
    high = min(low + step, stop)
    while low < high:
        middle = (low + high) >> 1
        if rows[middle] < row:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def count_kept(rows: Array, kept: Array) -> int:
    """How many of a posting list's rows (n,) int32 are kept (rows,) bool; -1 where one is none."""
    count, length = 0, UNSIGNED(len(kept))
    for i in range(len(rows)):
        row = UNSIGNED(rows[i])  # below 0 only where the list is damaged: then it is very large
        if row >= length:
            return -1
        count += kept[row]
    return count


@compiled
def score_rows(wanted: Array, lists: Lists) -> Array:
    """Scores (n,) float64 of `wanted` (n,), ascending rows."""
    scores = np.zeros(len(wanted), np.float64)
    for term in range(len(lists.starts)):
        place, stop = lists.starts[term], lists.stops[term]
        for i in range(len(wanted)):
            place = find(lists.rows, place, stop, wanted[i])
            if place == stop:
                break
            if lists.rows[place] == wanted[i]:
                weight = weight_of(lists.impacts[place], lists.table)
                scores[i] += lists.factors[term] * weight
    return scores


@compiled
def add_postings(sums: Array, first: int, start: int, term: int, lists: Lists) -> int:
    """Adds a term's postings of rows [first, first + len(sums)) to their sums; where it stopped."""
    rows, impacts, table = lists.rows, lists.impacts, lists.table
    place, stop, factor = UNSIGNED(start), UNSIGNED(lists.stops[term]), lists.factors[term]
    length = UNSIGNED(len(sums))
    while place < stop:
        row = UNSIGNED(np.int64(rows[place]) - first)  # below 0 only where the list is damaged:
        if row >= length:  # then it is very large
            break
        sums[row] += factor * weight_of(impacts[place], table)
        place += ONE
    return int(np.int64(place))


@compiled
def look_up(
    sums: Array, first: int, near: Array, start: int, term: int, lists: Lists
) -> int:  # fmt: skip
    """Adds a term's postings of the rows first + near, ascending, alone; where it stopped."""
    place, stop, factor = start, lists.stops[term], lists.factors[term]
    for i in near:
        place = find(lists.rows, place, stop, first + i)
        if place == stop:
            break
        if lists.rows[place] == first + i:
            sums[i] += factor * weight_of(lists.impacts[place], lists.table)
    return place
