"""The best rows of a query by posting lists, of which not all is read (MaxScore)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from m3search.stores.compiling import compiled
from m3search.stores.postings import Lists, add_postings, find, look_up
from m3search.stores.selection import (
    MARGIN,
    below_kth,
    grown,
    keep_reaching,
    reaching,
    still_reaching,
    take,
)

Array = npt.NDArray[Any]

SAMPLES, SAMPLE = 8, 1 << 12
"""windows of so many rows, spread evenly, from which the k-th highest score is guessed"""
SAMPLE_SHARE = 4
"""times as many rows as these there are at least, else nothing is guessed"""
LOOK_UP = 128
"""how many postings can be added in the time that it takes to look one up"""


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
    sums: Array, first: int, begin: int, reach: Array, least: float, places: Array, left: int,
    near: Array, lists: Lists,
) -> tuple[int, int]:  # fmt: skip
    """Adds the postings of the terms from `begin` on, at least of rows that can reach `least`.

    Writes the places of those that do reach it to `near`; how many these are, and the term from
    which on few enough were left to be looked up.

    reach: (terms + 1,) what a term and all behind it can add. left: rows from the window on.
    """
    terms = len(reach) - 1
    hopeful, turn = reaching(sums, least - reach[begin], near), terms
    for term in range(begin, terms):
        if not hopeful:
            turn = min(turn, term)
            break
        start = find(lists.rows, places[term], lists.stops[term], first)
        if hopeful * LOOK_UP * left < (lists.stops[term] - start) * len(sums):
            places[term] = look_up(sums, first, near[:hopeful], start, term, lists)
            turn = min(turn, term)
        else:
            places[term] = add_postings(sums, first, start, term, lists)
        hopeful = still_reaching(sums, least - reach[term + 1], near, hopeful)
    return hopeful, turn


@compiled
def guess_kth(k: int, length: int, allowed: Array, lists: Lists) -> float:
    """A number that the k-th highest score is likely to reach, by few rows spread over all.

    0 where there are not many more rows than these, or too few of them score above 0. The rank in
    the sample is where the k-th would stand, and three standard deviations more.
    """
    apart = length // SAMPLES
    if apart < SAMPLE_SHARE * SAMPLE:
        return 0.0
    expected = k * SAMPLE / apart
    rank = int(expected + 3 * np.sqrt(expected)) + 1
    sums, near = np.zeros(SAMPLE, np.float64), np.empty(SAMPLE, np.int64)
    found = np.empty(SAMPLES * SAMPLE, np.int64)
    scores = np.empty(SAMPLES * SAMPLE, np.float64)
    places, count, least = lists.starts.copy(), 0, 0.0
    for first in range(0, SAMPLES * apart, apart):
        for term in range(len(places)):
            start = find(lists.rows, places[term], lists.stops[term], first)
            places[term] = add_postings(sums, first, start, term, lists)
        hopeful = reaching(sums, least, near)
        count = take(sums, first, near[:hopeful], allowed, found, scores, count)
        least = below_kth(scores[:count], rank)
        count = keep_reaching(found, scores, count, least)
        sums[:] = 0.0
    return least


@compiled
def best_rows(
    k: int, length: int, size: int, most: int, allowed: Array, lists: Lists
) -> tuple[Array, Array, bool]:  # fmt: skip
    """Rows, ascending, and scores: the k highest above 0, and a few more.

    Beside them, whether what was read of the lists are ascending rows of the segment.

    length: rows of the segment. size, most: rows of the first window and of the largest. allowed:
    (length,) bool, or empty for all.

    Where fewer than k rows reach what the k-th was likely to, the rows are gone through once more
    without it: a guess costs time at worst.
    """
    likely = guess_kth(k, length, allowed, lists)
    least = likely * (1 - MARGIN)  # or rows would be lost that are equal to the k-th in float32
    found, scores, whole = rows_reaching(least, k, length, size, most, allowed, lists)
    if likely > 0 and np.count_nonzero(scores >= likely) < k and whole:
        return rows_reaching(0.0, k, length, size, most, allowed, lists)
    return found, scores, whole


@compiled
def rows_reaching(
    least: float, k: int, length: int, size: int, most: int, allowed: Array, lists: Lists
) -> tuple[Array, Array, bool]:  # fmt: skip
    """As `best_rows`, of the rows that score `least` or more.

    Sums are held for one window at a time, each twice as long as the one before, so that a first k
    rows are known early. The last terms, which could not lift a row among the k best even together,
    are passive: where few rows are left that they could lift, they are looked up for these alone
    (MaxScore, Turtle and Flood 1995). Which rows are left is asked only about where few enough were
    in the window before. What is added to a row that stays is added in the order of the terms, as
    in `score_rows`.
    """
    highest = np.maximum(lists.factors * lists.peaks, 0.0)
    reach = np.zeros(len(highest) + 1, np.float64)
    reach[:-1] = np.cumsum(highest[::-1])[::-1] * (1 + MARGIN)
    active, turn, places = len(highest), 0, lists.starts.copy()
    sums = np.zeros(min(most, length), np.float64)
    near = np.empty(len(sums), np.int64)
    found, scores = np.empty(2 * k + most, np.int64), np.empty(2 * k + most, np.float64)
    count, whole, first = 0, True, 0
    while first < length:
        while active and reach[active - 1] < least:
            active -= 1
        window = sums[: min(size, length - first)]
        begin = max(active, turn - 1)
        whole &= add_terms(window, first, begin, places, length, lists)
        left = length - first
        hopeful, turn = add_passive(window, first, begin, reach, least, places, left, near, lists)
        while count + hopeful > len(found):  # only where very many are equal
            found, scores = grown(found), grown(scores)
        count = take(window, first, near[:hopeful], allowed, found, scores, count)
        window[:] = 0.0
        if count >= 2 * k:
            least = max(least, below_kth(scores[:count], k))
            count = keep_reaching(found, scores, count, least)
        first += len(window)
        size = min(2 * size, most)
    least = max(least, below_kth(scores[:count], k))
    count = keep_reaching(found, scores, count, least)
    return found[:count].copy(), scores[:count].copy(), whole
