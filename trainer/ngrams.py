"""N-grams of texts as 64-bit hashes, many texts at a time: of words, and of letters.

A text counts as its letters, marks and numbers after NFKC and lower-casing; all else only parts
words. The hash of letters c_1 ... c_m is the sum of mix(c_i) * BASE**i modulo 2**64, of which
prefix sums give every n-gram in a few operations (Karp and Rabin 1987, IBM J. Res. Dev. 31(2)).
That any of a n-grams meets any of b others by chance has a probability of about a * b / 2**64:
3e-5 for 50 million and 10 million.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from m3search.corpus.scripts import SPACELESS
from m3search.records import BoolArray, IntArray

Hashes = npt.NDArray[np.uint64]
BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(BASE, -1, 1 << 64)
_NEWLINE, _SPACE = 10, 32
_BOUNDS = np.array([bound for first, last in SPACELESS for bound in (first, last + 1)])
BLOCK_CHARACTERS = 1 << 20
"""of the texts hashed together; about 100 bytes of memory each"""


class _Letters(dict[int, int | None]):
    """What becomes of a code point: itself, a space, or nothing for one that is not seen."""

    def __missing__(self, code: int) -> int | None:
        category = unicodedata.category(chr(code))
        self[code] = code if category[0] in "LMN" else None if category == "Cf" else _SPACE
        return self[code]


_LETTERS = _Letters()


def normalise(text: str) -> str:
    """Words of letters, marks and numbers in lower case, parted by single spaces.

    >>> normalise("Don't  panic: ２ × 42!")
    'don t panic 2 42'
    """
    return " ".join(unicodedata.normalize("NFKC", text).lower().translate(_LETTERS).split())


class NGrams(NamedTuple):
    """Hashes of parts of some texts, those of a text together and the texts in their order."""

    hashes: Hashes
    """(n,)"""
    owners: IntArray
    """(n,) the row of the text that each is of, ascending"""


class HashedTexts:
    """Normalised texts of which n-grams are asked. Where a word begins does not enter a hash."""

    def __init__(self, texts: Sequence[str]) -> None:
        codes = np.frombuffer("\n".join(texts).encode("utf-32-le"), np.uint32)
        kept = (codes != _SPACE) & (codes != _NEWLINE)
        self._owners: IntArray = np.cumsum(codes == _NEWLINE)[kept]
        self._letters = codes[kept]
        before = np.concatenate([[True], ~kept[:-1]]) if len(codes) else kept
        self._words = np.flatnonzero(before[kept])
        """(words,) the first letter of each"""
        powers = _powers(BASE, len(self._letters))
        self._sums = np.concatenate(
            [np.zeros(1, np.uint64), np.cumsum(_mix(self._letters) * powers)]
        )
        self._unpowers = _powers(_INVERSE, len(self._letters) + 1)

    def wholes(self) -> NGrams:
        """Every text that has letters, as one hash of all of them."""
        starts = np.flatnonzero(np.diff(self._owners, prepend=-1))
        return self._hash(starts, self._ends(starts))

    def words(self, n: int) -> NGrams:
        """Every n words in a row."""
        ends = self._ends(self._words)[n - 1 :]
        return self._hash(self._words[: len(ends)], ends)

    def letters(self, n: int, *, spaceless: bool = False) -> NGrams:
        """Every n letters in a row.

        spaceless: only where more than half of them are of a script written without spaces.
        """
        starts = np.arange(max(len(self._letters) - n + 1, 0))
        if spaceless:
            counts = np.concatenate([[0], np.cumsum(_are_spaceless(self._letters))])
            starts = starts[2 * (counts[starts + n] - counts[starts]) > n]
        return self._hash(starts, starts + n)

    def _ends(self, starts: IntArray) -> IntArray:
        """Where the next one starts, or the letters end."""
        return np.append(starts, len(self._letters))[1:] if len(starts) else starts

    def _hash(self, starts: IntArray, ends: IntArray) -> NGrams:
        """The hashes of letters [start, end), without those that reach into another text."""
        within = self._owners[starts] == self._owners[ends - 1]
        starts, ends = starts[within], ends[within]
        hashes = (self._sums[ends] - self._sums[starts]) * self._unpowers[starts]
        return NGrams(hashes, self._owners[starts])


def in_blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in lists that are small enough to be hashed together, though one text is long."""
    block: list[str] = []
    characters = 0
    for text in texts:
        block.append(text)
        characters += len(text) + 1
        if characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _powers(base: int, count: int) -> Hashes:
    """base**1 ... base**count modulo 2**64."""
    powers: Hashes = np.multiply.accumulate(np.full(count, base, np.uint64))
    return powers


def _mix(codes: npt.NDArray[np.uint32]) -> Hashes:
    """Code points spread over 64 bits: the finaliser of splitmix64 (Steele et al. 2014)."""
    value = (codes.astype(np.uint64) + np.uint64(1)) * np.uint64(BASE)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _are_spaceless(codes: npt.NDArray[np.uint32]) -> BoolArray:
    """(n,) whether each is of a script written without spaces, as `is_spaceless` says of one."""
    inside: BoolArray = np.searchsorted(_BOUNDS, codes, side="right") % 2 == 1
    return inside
