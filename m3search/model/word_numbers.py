"""Words and stems as numbers: what an index knows them by, so none of this may ever change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from m3search.records import IntArray

WORD_COLUMNS = 1 << 21
"""numbers that words and stems share: of a million of them 38 % are not alone, of 50,000 2 %"""

STEM_LETTERS = 5
"""of a word, from its beginning: where it has no more, it is its own stem"""

_FACTOR = 0x9E3779B97F4A7C15
"""odd, from the golden ratio (Knuth, TAOCP 3, 6.4): multiplied, it spreads numbers that are near"""

_LETTER = np.uint64(1 << 32)
"""added to a letter, so that none is mixed as a piece is"""


def word_numbers(ids: IntArray, sizes: IntArray) -> IntArray:
    """(words,) numbers below `WORD_COLUMNS` of words given by their pieces, one after the other.

    sizes: (words,) pieces of each, at least 1.
    """
    if not len(sizes):
        return np.zeros(0, np.int64)
    firsts = np.cumsum(sizes) - sizes
    places = np.arange(len(ids)) - np.repeat(firsts, sizes) + 1
    sums = np.add.reduceat(_mix(_mix(ids.astype(np.uint64)) + _steps(places)), firsts)
    return numbers_of(_mix(sums))


def stem_hashes(letters: IntArray, sizes: IntArray) -> npt.NDArray[np.uint64]:
    """(words,) 64 bits of the stems of words: of their first letters alone, so that it does not
    matter where a word is cut into pieces.

    letters: (pieces, STEM_LETTERS) of all pieces, as `first_letters` has them, and 0 for one
    without any. sizes: (words,) pieces of each, at least 1.
    """
    if not len(sizes):
        return np.zeros(0, np.uint64)
    counts, firsts = (letters > 0).sum(axis=1), np.cumsum(sizes) - sizes
    before = np.cumsum(counts) - counts
    before -= np.repeat(before[firsts], sizes)
    places = before[:, np.newaxis] + np.arange(1, STEM_LETTERS + 1)
    mixed = _mix(_mix(letters.astype(np.uint64) + _LETTER) + _steps(places))
    inside = (letters > 0) & (places <= STEM_LETTERS)
    sums = np.where(inside, mixed, np.uint64(0)).sum(axis=1, dtype=np.uint64)
    return _mix(np.add.reduceat(sums, firsts))


def numbers_of(hashes: npt.NDArray[np.uint64]) -> IntArray:
    """(n,) numbers below `WORD_COLUMNS`: the highest bits of the hashes."""
    return (hashes >> np.uint64(64 - WORD_COLUMNS.bit_length() + 1)).astype(np.int64)


def first_letters(texts: Sequence[str]) -> IntArray:
    """(n, STEM_LETTERS) the first letters of texts as code points, 0 behind the last.

    Of a letter in upper case it is the first code point of its lower case, and of a final sigma
    that of any other: each letter for itself, so that it does not matter what is beside it.
    """
    letters = np.zeros((len(texts), STEM_LETTERS), np.int64)
    for row, text in zip(letters, texts, strict=True):
        first = text[:STEM_LETTERS]
        row[: len(first)] = [ord(letter.lower()[0].replace("ς", "σ")) for letter in first]
    return letters


def _steps(places: IntArray) -> npt.NDArray[np.uint64]:
    """What sets the parts of a word at different places, counted from 1, apart."""
    return places.astype(np.uint64) * np.uint64(_FACTOR)


def _mix(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Every bit of a number changes about half of those of its mix (splitmix64, Steele 2014)."""
    with np.errstate(over="ignore"):
        mixed = numbers * np.uint64(_FACTOR)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)))
