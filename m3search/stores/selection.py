"""The best of many sums, a window of rows at a time, as compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from m3search.stores.compiling import compiled
from m3search.stores.masks import BITS, lowest_bit, reaching_mask

Array = npt.NDArray[Any]

SMALLEST = 5e-324
"""the least number above 0"""
STEPS = 1024
"""between the lowest and the highest of scores, when the k-th is looked for"""
MARGIN = 2.0**-22
"""relative; sums of the same products in two orders, and scores that are equal in float32, lie
closer than this"""


@compiled
def reaching(sums: Array, least: float, found: Array) -> int:
    """Writes the places of sums above 0 that are `least` or more to `found`; how many these are.

    Few are where a list is long: many are compared at once, and only those that reach it are
    touched.
    """
    count = 0
    bound = max(least, SMALLEST)
    ends = len(sums) // BITS * BITS
    for first in range(0, ends, BITS):
        mask = reaching_mask(sums, first, bound)
        while mask:
            found[count] = first + lowest_bit(mask)
            count += 1
            mask &= mask - np.uint64(1)
    for i in range(ends, len(sums)):
        if sums[i] >= bound:
            found[count] = i
            count += 1
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
