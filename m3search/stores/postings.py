"""Compiled loops over posting lists: the best rows of one query, and exact scores of given rows.

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

SMALLEST = 5e-324
"""the least number above 0"""
STEPS = 1024
"""between the lowest and the highest of scores, when the k-th is looked for"""
LOOK_UP = 64
"""how many postings can be added in the time that it takes to look one up"""
MARGIN = 2.0**-22
"""relative; sums of the same products in two orders, and scores that are equal in float32, lie
closer than this"""


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
    place, stop, factor = start, lists.stops[term], lists.factors[term]
    while place < stop:
        row = rows[place] - first
        if row < 0 or row >= len(sums):  # below 0 only where the list is damaged
            break
        sums[row] += factor * weight_of(impacts[place], table)
        place += 1
    return place


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


@compiled
def reaching(sums: Array, least: float, found: Array) -> int:
    """Writes the places of sums above 0 that are `least` or more to `found`; how many these are.

    Without a branch: where one sum in twenty is among them, a wrong guess costs more than a write.
    """
    count = 0
    bound = max(least, SMALLEST)
    for i in range(len(sums)):
        found[count] = i
        count += sums[i] >= bound
    return count


@compiled
def still_reaching(sums: Array, least: float, near: Array, count: int) -> int:
    """Moves those of the first places whose sums are `least` or more to the front; how many."""
    kept = 0
    for i in near[:count]:
        near[kept] = i
        kept += sums[i] >= least
    return kept


@compiled
def below_kth(scores: Array, k: int) -> float:
    """A number that k scores reach, little below the k-th highest; 0 where there are fewer.

    By counting in equal steps between the lowest and the highest: sorting, even in part, takes
    many times as long.
    """
    if len(scores) < k:
        return 0.0
    low, high = scores[0], scores[0]
    for score in scores:
        low, high = min(low, score), max(high, score)
    width: float = (high - low) / STEPS
    bound: float = low
    if not 0 < width < np.inf:  # all are equal, or one is no number: then the list is damaged
        return bound * (1 - MARGIN) if bound > 0 else 0.0
    counts = np.zeros(STEPS + 1, np.int64)
    for score in scores:
        counts[min(int((score - low) / width), STEPS)] += 1
    step, total = STEPS, counts[STEPS]
    while total < k:
        step -= 1
        total += counts[step]
    bound += step * width
    return bound * (1 - MARGIN)


@compiled
def keep_reaching(rows: Array, scores: Array, count: int, least: float) -> int:
    """Moves what scores `least` or more to the front; how many these are."""
    kept = 0
    for i in range(count):
        if scores[i] >= least:
            rows[kept] = rows[i]
            scores[kept] = scores[i]
            kept += 1
    return kept


@compiled
def take(
    sums: Array, first: int, near: Array, allowed: Array, found: Array, scores: Array, count: int
) -> int:  # fmt: skip
    """Appends the allowed of the rows first + near and their sums; how many there are then."""
    for i in near:
        if not len(allowed) or allowed[first + i]:
            found[count], scores[count] = first + i, sums[i]
            count += 1
    return count


@compiled
def grown(values: Array) -> Array:
    """The values, with room for as many again."""
    larger = np.empty(2 * len(values), values.dtype)
    larger[: len(values)] = values
    return larger


@compiled
def add_terms(
    sums: Array, first: int, terms: int, places: Array, length: int, lists: Lists
) -> bool:
    """Adds a window's postings of the first terms; whether they are ascending rows."""
    whole = True
    for term in range(terms):
        place = add_postings(sums, first, places[term], term, lists)
        if place < lists.stops[term]:
            whole &= first + len(sums) <= lists.rows[place] < length
        places[term] = place
    return whole


@compiled
def add_passive(
    sums: Array, first: int, active: int, reach: Array, least: float, places: Array, left: int,
    near: Array, lists: Lists,
) -> int:  # fmt: skip
    """Adds the postings of the terms from `active` on, at least of rows that can reach `least`.

    Writes the places of those that do reach it to `near`; how many these are.

    reach: (terms + 1,) what a term and all behind it can add. left: rows from the window on.
    """
    hopeful = reaching(sums, least - reach[active], near)
    for term in range(active, len(reach) - 1):
        if not hopeful:
            break
        start = find(lists.rows, places[term], lists.stops[term], first)
        if hopeful * LOOK_UP * left < (lists.stops[term] - start) * len(sums):
            places[term] = look_up(sums, first, near[:hopeful], start, term, lists)
        else:
            places[term] = add_postings(sums, first, start, term, lists)
        hopeful = still_reaching(sums, least - reach[term + 1], near, hopeful)
    return hopeful


@compiled
def best_rows(
    k: int, length: int, size: int, most: int, allowed: Array, lists: Lists
) -> tuple[Array, Array, bool]:  # fmt: skip
    """Rows, ascending, and scores: the k highest above 0, and a few more.

    Beside them, whether what was read of the lists are ascending rows of the segment.

    length: rows of the segment. size, most: rows of the first window and of the largest. Sums are
    held for one window at a time, each twice as long as the one before, so that a first k rows are
    known early. allowed: (length,) bool, or empty for all.

    Once k rows are known, the last terms, which could not lift a row among them even together, are
    passive: where few rows are left that they could lift, they are looked up for these alone
    (MaxScore, Turtle and Flood 1995). What is added to a row that stays is added in the order of
    the terms, as in `score_rows`.
    """
    highest = np.maximum(lists.factors * lists.peaks, 0.0)
    reach = np.zeros(len(highest) + 1, np.float64)
    reach[:-1] = np.cumsum(highest[::-1])[::-1] * (1 + MARGIN)
    active, places = len(highest), lists.starts.copy()
    sums = np.zeros(min(most, length), np.float64)
    near = np.empty(len(sums) + 1, np.int64)
    found, scores = np.empty(2 * k + most, np.int64), np.empty(2 * k + most, np.float64)
    count, least, whole, first = 0, 0.0, True, 0
    while first < length:
        window = sums[: min(size, length - first)]
        whole &= add_terms(window, first, active, places, length, lists)
        left = length - first
        hopeful = add_passive(window, first, active, reach, least, places, left, near, lists)
        while count + hopeful > len(found):  # only where very many are equal
            found, scores = grown(found), grown(scores)
        count = take(window, first, near[:hopeful], allowed, found, scores, count)
        window[:] = 0.0
        if count >= 2 * k:
            least = max(least, below_kth(scores[:count], k))
            count = keep_reaching(found, scores, count, least)
            while active and reach[active - 1] < least:
                active -= 1
        first += len(window)
        size = min(2 * size, most)
    least = max(least, below_kth(scores[:count], k))
    count = keep_reaching(found, scores, count, least)
    return found[:count].copy(), scores[:count].copy(), whole
