"""Whether two systems differ on the same queries, or only by the luck of which were asked.

The paired randomisation test (Smucker, Allan and Carterette 2007) asks how often a difference of
means as large would come about if the two values of every query were exchanged by a coin. With many
comparisons some look rare by chance, which Holm's correction (1979) allows for. Intervals are those
of the bootstrap over queries: the middle 95 % of the means of as many queries drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

ROUNDS = 10_000
LEVEL = 0.95
_AT_ONCE = 1 << 22
"""random numbers held at a time"""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Between which values a mean lies."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Of two rows on the same queries: the mean of first less second."""

    first: str
    second: str
    mean: float
    interval: Interval
    p: float
    """of the randomisation test, two-sided, above 0"""
    holm: float
    """the same, corrected for all comparisons made beside it"""

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


def compare_rows(values: Mapping[str, Mapping[str, float]], seed: int = 42) -> list[Difference]:
    """Every two rows, on the queries of the first; values: row -> query -> value.

    All rows have the same queries. One query alone tells nothing: p is 1.
    """
    queries = list(next(iter(values.values()), {}))
    columns = {
        row: np.array([by_query[query] for query in queries]) for row, by_query in values.items()
    }
    pairs = list(combinations(columns, 2)) if queries else []
    differences = [columns[first] - columns[second] for first, second in pairs]
    tested = [randomisation_test(each, seed) for each in differences]
    return [
        Difference(*pair, float(each.mean()), bootstrap(each, seed), p, holm)
        for pair, each, p, holm in zip(
            pairs, differences, tested, holm_correction(tested), strict=True
        )
    ]


def randomisation_test(differences: npt.ArrayLike, seed: int = 42) -> float:
    """The p-value of the mean of paired differences (n,), two-sided.

    Exact where all 2^n ways to exchange are fewer than the rounds; otherwise (1 + the number of
    rounds with a mean as far from 0) / (1 + rounds).
    """
    given = np.asarray(differences, np.float64)
    given = given[given != 0]  # exchanging equal values changes nothing
    if not len(given):
        return 1.0
    observed = abs(given.sum()) * (1 - 1e-12)  # sums in another order differ in the last bits
    if 2 ** len(given) <= ROUNDS:
        ways = np.arange(2 ** len(given))[:, np.newaxis] >> np.arange(len(given)) & 1
        return float(np.mean(np.abs((2 * ways - 1) @ given) >= observed))
    random = np.random.default_rng(seed)
    found = 0
    for rounds in _portions(len(given)):
        signs = 2 * random.integers(0, 2, (rounds, len(given)), dtype=np.int8) - 1
        found += int((np.abs(signs @ given) >= observed).sum())
    return (1 + found) / (1 + ROUNDS)


def bootstrap(values: npt.ArrayLike, seed: int = 42) -> Interval:
    """The interval of the mean of values (n,), n at least 1, by drawing as many of them again."""
    given = np.asarray(values, np.float64)
    random = np.random.default_rng(seed)
    means = np.concatenate(
        [
            given[random.integers(0, len(given), (rounds, len(given)))].mean(axis=1)
            for rounds in _portions(len(given))
        ]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Each p-value times the comparisons that are no more certain than it, never falling, up to 1.

    >>> [round(p, 3) for p in holm_correction([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, least = [0.0] * len(p_values), 0.0
    for done, place in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - done) * p_values[place]))
        corrected[place] = least
    return corrected


def _portions(size: int) -> list[int]:
    """The rounds in portions of so many numbers that they can be held."""
    most = max(1, _AT_ONCE // size)
    whole = math.floor(ROUNDS / most)
    return [most] * whole + ([ROUNDS - most * whole] if most * whole < ROUNDS else [])
