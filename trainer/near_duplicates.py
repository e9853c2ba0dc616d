"""Pairs that repeat an earlier pair almost word for word.

Two pairs are near-duplicates where both their queries and their positives have a Jaccard
similarity, |A & B| / |A | B| of the sets of five-letter n-grams, of at least a threshold. Pairs of
one passage with different questions are none. What may be similar is found by min-wise hashing
(Broder 1997, SEQUENCES '97) with banding (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets,
section 3.4), and then compared on the n-grams themselves: nothing goes that is not similar, and of
what is, a share of `RECALL` or more is found. The same pairs in the same order give the same
answer every time. A pair takes 4 bytes for each different n-gram, at most 8 kB, and about 600 more.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from ngrams import HashedTexts, Hashes, NGrams, normalise

from m3search.records import IntArray

LETTERS = 5
BANDS = 24
RECALL = 0.99
"""of near-duplicates whose two sides are both just at a threshold of 0.45 or more"""
SKETCH = 1024
"""n-grams kept of a text, the smallest hashes: of a longer one the similarity is estimated"""
COMPARED = 256
"""earlier pairs that one is compared with, those with the most bands in common"""
GROUP = 1024
"""pairs of a band with one key that are remembered"""
SEED = 20240205

Sketch = npt.NDArray[np.uint32]


def rows_for(threshold: float) -> int:
    """Hashes of each text in a band, as many as `RECALL` at the threshold allows.

    A band of r hashes of the query and r of the positive is equal with probability t**(2 r), one
    of b bands with 1 - (1 - t**(2 r))**b.
    """
    rows = 1
    while rows < 16 and 1 - (1 - threshold ** (2 * rows + 2)) ** BANDS >= RECALL:
        rows += 1
    return rows


def jaccard(a: Sketch, b: Sketch) -> float:
    """The Jaccard similarity of two sets, exact up to `SKETCH` members, else estimated.

    The estimate is the share of the smallest `SKETCH` hashes of both that each has (bottom-k
    sketches, Thorup 2013, arXiv 1303.5479); its standard error is at most 0.016.
    """
    both = np.union1d(a, b)
    if len(a) == SKETCH or len(b) == SKETCH:
        both = both[:SKETCH]
    shared = np.intersect1d(a, b, assume_unique=True)
    return int(np.searchsorted(shared, both[-1], side="right")) / len(both) if len(both) else 0.0


class Pairs:
    """The pairs seen so far, as sketches of their queries and positives."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._rows = rows_for(threshold)
        factors = np.random.default_rng(SEED).integers(
            1 << 63, size=(BANDS * self._rows, 2), dtype=np.uint64
        )
        self._factors = 2 * factors + 1
        self._keys: list[Hashes] = []
        self._sketches: tuple[list[Sketch], list[Sketch]] = ([], [])

    def add(self, queries: Sequence[str], positives: Sequence[str]) -> None:
        """Takes in a block of pairs."""
        keys = np.zeros((len(queries), BANDS), np.uint64)
        for side, texts in enumerate((queries, positives)):
            grams = _shingles([normalise(text) for text in texts])
            least = _least(grams, self._factors[:, side], len(texts))
            weights = np.arange(1, 2 * self._rows + 1, dtype=np.uint64)[side::2]
            weights = weights * np.uint64(0x9E3779B97F4A7C15)
            keys += (least.reshape(-1, BANDS, self._rows) * weights).sum(axis=2, dtype=np.uint64)
            self._sketches[side].extend(_sketches(grams, len(texts)))
        self._keys.append(keys)

    def repeated(self) -> IntArray:
        """(pairs,) the earlier pair that each repeats, -1 where it repeats none and stays."""
        keys = np.concatenate(self._keys) if self._keys else np.zeros((0, BANDS), np.uint64)
        shared = [_shared(keys[:, band]) for band in range(BANDS)]
        kept: list[dict[int, list[int]]] = [defaultdict(list) for _ in range(BANDS)]
        found = np.full(len(keys), -1)
        for row in range(len(keys)):
            groups = [(kept[band], int(shared[band][row])) for band in range(BANDS)]
            groups = [(by_group, group) for by_group, group in groups if group >= 0]
            near = Counter(each for by_group, group in groups for each in by_group[group])
            found[row] = self._first_like(row, near)
            if found[row] < 0:
                for by_group, group in groups:
                    if len(by_group[group]) < GROUP:
                        by_group[group].append(row)
        return found

    def _first_like(self, row: int, near: Counter[int]) -> int:
        for other, _ in near.most_common(COMPARED):
            if all(
                jaccard(sketches[row], sketches[other]) >= self._threshold
                for sketches in self._sketches
            ):
                return other
        return -1


def _shingles(texts: Sequence[str]) -> NGrams:
    """The n-grams of all texts; one of fewer letters counts as one n-gram."""
    hashed = HashedTexts(texts)
    grams, wholes = hashed.letters(LETTERS), hashed.wholes()
    short = ~np.isin(wholes.owners, grams.owners)
    owners = np.concatenate([grams.owners, wholes.owners[short]])
    order = np.argsort(owners, kind="stable")
    return NGrams(np.concatenate([grams.hashes, wholes.hashes[short]])[order], owners[order])


def _least(grams: NGrams, factors: Hashes, texts: int) -> Hashes:
    """(texts, factors) the least of the products of a text's hashes with each factor.

    A text without n-grams has numbers of its own row, so that it is like no other in its block.
    """
    starts = np.flatnonzero(np.diff(grams.owners, prepend=-1))
    own = np.arange(texts, dtype=np.uint64)[:, None]
    least = np.broadcast_to(own, (texts, len(factors))).copy()
    if len(starts):
        for place, factor in enumerate(factors):
            products = (grams.hashes * factor) >> np.uint64(32)
            least[grams.owners[starts], place] = np.minimum.reduceat(products, starts)
    return least


def _sketches(grams: NGrams, texts: int) -> list[Sketch]:
    """The smallest different hashes of each text, in 32 bits, ascending."""
    owners = grams.owners.astype(np.uint64) << np.uint64(32)
    different = np.unique(owners | (grams.hashes >> np.uint64(32)))
    bounds = np.searchsorted(different, np.arange(texts + 1, dtype=np.uint64) << np.uint64(32))
    low = different.astype(np.uint32)
    return [low[start:end][:SKETCH].copy() for start, end in pairwise(bounds)]


def _shared(keys: Hashes) -> IntArray:
    """(n,) the number of the group of equal keys that each is in, -1 for a key that is alone."""
    _, group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    numbers: IntArray = np.where(sizes[group] > 1, group, -1)
    return numbers
