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
_AT_ONCE = 1 << 14
"""random numbers held at a time: so few stay in the processor's cache"""

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
    pairs = list(combinations(values, 2))
    if not queries or not pairs:
        return []
    columns = {
        row: np.array([by_query[query] for query in queries]) for row, by_query in values.items()
    }
    differences = np.column_stack([columns[first] - columns[second] for first, second in pairs])
    tested = randomisation_test(differences, seed)
    found = zip(pairs, differences.mean(axis=0), bootstrap(differences, seed), tested, strict=True)
    corrected = holm_correction(tested)
    return [
        Difference(*pair, float(mean), interval, p, holm)
        for (pair, mean, interval, p), holm in zip(found, corrected, strict=True)
    ]


def randomisation_test(differences: npt.ArrayLike, seed: int = 42) -> list[float]:
    """The two-sided p-values of the means of paired differences (queries, pairs of systems).

    Exact where all 2^queries ways to exchange are fewer than the rounds; otherwise (1 + the number
    of rounds with a mean as far from 0) / (1 + rounds).
    """
    given = np.asarray(differences, np.float64)
    size = len(given)
    rounding = 1e-12 * np.abs(given).sum(axis=0)  # sums in another order differ a little
    observed = np.abs(given.sum(axis=0)) - rounding
    if 2**size <= ROUNDS:
        ways = np.arange(2**size)[:, np.newaxis] >> np.arange(size) & 1
        exact = (np.abs((2.0 * ways - 1) @ given) >= observed).mean(axis=0)
        return [float(p) for p in exact]
    random = np.random.default_rng(seed)
    found = np.zeros(given.shape[1], np.int64)
    for rounds in _portions(size):
        signs = 2.0 * random.integers(0, 2, (rounds, size), dtype=np.int8) - 1
        found += (np.abs(signs @ given) >= observed).sum(axis=0)
    return [(1 + int(count)) / (1 + ROUNDS) for count in found]


def bootstrap(values: npt.ArrayLike, seed: int = 42) -> list[Interval]:
    """The intervals of the means of values (queries, columns), by drawing as many queries again."""
    given = np.asarray(values, np.float64)
    size = len(given)
    random = np.random.default_rng(seed)
    means = []
    for rounds in _portions(size):
        drawn = random.integers(0, size, (rounds, size)) + size * np.arange(rounds)[:, np.newaxis]
        times = np.bincount(drawn.ravel(), minlength=rounds * size).reshape(rounds, size)
        means.append(times.astype(np.float64) @ given / size)  # of whole numbers it is slow
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    lows, highs = np.quantile(np.concatenate(means), ends, axis=0)
    return [Interval(float(low), float(high)) for low, high in zip(lows, highs, strict=True)]


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
