"""English for the pieces of other languages: from word lists, and from parallel texts.

A word list translates a word that is one piece as a whole. Parallel texts translate every piece
that meets an English one more often than others do: IBM model 1 (Brown et al. 1993) in both
directions, language by language, whose product is high only where each is the likeliest
translation of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from piece_vectors import OldWords
from text_splitting import Splitting
from tooling import showing
from training_texts import Pair

from m3search.errors import DataError
from m3search.records import BoolArray, IntArray
from m3search.training.data import read_pairs

LEXICONS = ("lexicon.*-en.tsv*", "dictionary.*-en.tsv*")
RARE = 1e-3
"""a in the weight a / (a + p) of an English piece of probability p (Arora et al. 2017)"""
LONGEST = 64
"""tokens of a parallel text, on either side"""
MOST_CELLS = 20_000_000
"""pairs of tokens that are aligned in a language; each takes about 96 bytes meanwhile, 2 GB in all.
Of a language with more, a random sample of the parallel texts is aligned."""
ROUNDS = 5
"""of expectation and maximisation"""
LEAST_COUNT, LEAST_SHARE, LEAST_AGREEMENT = 0.7, 0.02, 1e-3
"""of a translation: how often it is expected, its part of what the piece says, and the product of
both directions. Stricter ones translate fewer pieces, and found fewer translated sentences."""

Translations = dict[int, dict[int, float]]
"""weights of old ids, by the ids of pieces"""
Floats = npt.NDArray[np.float64]


def lexicon_files(folder: Path) -> list[Path]:
    """The word lists in a folder of training files."""
    files = sorted(file for pattern in LEXICONS for file in folder.glob(pattern))
    if not files:
        raise DataError(
            folder,
            expected=f"word lists ({' or '.join(LEXICONS)})",
            found="none",
            remedy="Give the folder that holds them, or leave --lexicons out.",
        )
    return files


class English:
    """English phrases as old ids, those of rare words with more weight."""

    def __init__(self, old: OldWords, probabilities: Floats) -> None:
        self._old, self._weights = old, RARE / (RARE + probabilities)

    def weights_of(self, phrase: str) -> dict[int, float]:
        """Weights of the ids of a phrase, which add up to 1; none where there are no words."""
        counts: dict[int, float] = {}
        for number in self._old.pieces_of(phrase):
            counts[number] = counts.get(number, 0.0) + float(self._weights[number])
        total = sum(counts.values())
        return {number: weight / total for number, weight in counts.items()}


def from_lexicons(
    files: Iterable[Path], pieces: Mapping[str, int], english: English
) -> Translations:
    """The translations of words that are pieces, over all languages and senses.

    A phrase of n words counts 1 / n: the longer it is, the more it explains instead.
    """
    splitting = Splitting()
    found: Translations = {}
    for path in showing(files, "files", "word lists"):
        for word, (phrase,), *_ in read_pairs(path):
            words = splitting.words(word)
            if len(words) != 1 or words[0] not in pieces:
                continue
            for number, weight in english.weights_of(phrase).items():
                add_weight(found, pieces[words[0]], number, weight / len(phrase.split()))
    return found


def add_weight(translations: Translations, piece: int, number: int, weight: float) -> None:
    """Adds to the weight of an old id among the translations of a piece."""
    weights = translations.setdefault(piece, {})
    weights[number] = weights.get(number, 0.0) + weight


def merge(found: Iterable[Translations]) -> Translations:
    """All translations of a piece, each as often as it was seen."""
    merged: Translations = {}
    for translations in found:
        for piece, weights in translations.items():
            for number, weight in weights.items():
                add_weight(merged, piece, number, weight)
    return merged


class Sides(NamedTuple):
    """The tokens of some parallel texts."""

    foreign: list[IntArray]
    english: list[IntArray]


class Cells(NamedTuple):
    """Every English token beside every foreign one of the same pair."""

    kinds: IntArray
    """(n,) which pair of ids"""
    rows: IntArray
    """(n,) which English token, of all texts"""
    columns: IntArray
    """(n,) which foreign token, of all texts"""
    foreign: IntArray
    """(kinds,) the foreign id of each pair of ids"""
    english: IntArray
    """(kinds,) its English id"""


def limit_cells(sides: Sides, most: int) -> Sides:
    """The texts, or so many of them, drawn at random, that their cells are not above `most`."""
    pairs = zip(sides.foreign, sides.english, strict=True)
    cells = np.array([len(foreign) * len(english) for foreign, english in pairs])
    if cells.sum() <= most:
        return sides
    order = np.random.default_rng(0).permutation(len(cells))
    kept = np.sort(order[np.cumsum(cells[order]) <= most])
    return Sides([sides.foreign[n] for n in kept], [sides.english[n] for n in kept])


def make_cells(sides: Sides) -> Cells:
    """The cells of all texts."""
    widths = np.array([len(ids) for ids in sides.foreign])
    heights = np.array([len(ids) for ids in sides.english])
    foreign, english = np.concatenate(sides.foreign), np.concatenate(sides.english)
    rows = np.repeat(np.arange(len(english)), np.repeat(widths, heights))
    starts = np.repeat(np.cumsum(widths) - widths, heights * widths)
    inside = np.arange(len(rows)) - np.repeat(
        np.cumsum(heights * widths) - heights * widths, heights * widths
    )
    columns = starts + inside % np.repeat(widths, heights * widths)
    width = int(foreign.max()) + 1
    keys, kinds = np.unique(english[rows] * width + foreign[columns], return_inverse=True)
    return Cells(kinds, rows, columns, keys % width, keys // width)


def align(cells: Cells) -> tuple[Floats, Floats]:
    """(kinds,) how much each pair of ids is a translation, 0 to 1, and how often it is expected.

    The former is p(english | foreign) * p(foreign | english), each of IBM model 1.
    """
    there = _expected(cells, cells.rows, cells.foreign)
    back = _expected(cells, cells.columns, cells.english)
    agreed = _given(there, cells.foreign) * _given(back, cells.english)
    return agreed, np.minimum(there, back)


def _expected(cells: Cells, tokens: IntArray, sources: IntArray) -> Floats:
    """(kinds,) how often each pair of ids is expected, where each token comes from one source."""
    chances = np.ones(len(sources))
    for _ in range(ROUNDS):
        parts = chances[cells.kinds]
        parts /= np.bincount(tokens, parts)[tokens]
        counts = np.bincount(cells.kinds, parts, len(sources)).astype(np.float64)
        chances = _given(counts, sources)
    return counts


def _given(counts: Floats, sources: IntArray) -> Floats:
    """The counts as parts of those of the same source."""
    totals = np.bincount(sources, counts)[sources]
    parts: Floats = counts / np.maximum(totals, 1e-12)
    return parts


def from_parallel(sides: Mapping[str, Sides]) -> Translations:
    """The translations that the parallel texts of each language give for its pieces."""
    found: Translations = {}
    for language in showing(sorted(sides), "languages", "alignment"):
        cells = make_cells(limit_cells(sides[language], MOST_CELLS))
        agreed, counts = align(cells)
        shares = _given(agreed, cells.foreign)
        sure = (counts >= LEAST_COUNT) & (shares >= LEAST_SHARE) & (agreed >= LEAST_AGREEMENT)
        for kind in np.flatnonzero(sure):
            weight = float(shares[kind] * counts[kind])
            add_weight(found, int(cells.foreign[kind]), int(cells.english[kind]), weight)
    return found


def join(texts: Iterable[IntArray]) -> IntArray:
    """The tokens of texts one after the other; none of no texts."""
    return np.concatenate([np.empty(0, np.int64), *texts])


def english_pieces(sides: Mapping[str, Sides], english: IntArray, size: int) -> BoolArray:
    """(size,) whether a piece is met in English, and no rarer than in other languages."""
    tokens = join(ids for side in sides.values() for ids in side.foreign)
    here, there = np.bincount(english, minlength=size), np.bincount(tokens, minlength=size)
    found: BoolArray = (here > 0) & (here * max(len(tokens), 1) >= there * max(len(english), 1))
    return found


def tokenise(
    pairs: Iterable[Pair], new: Sequence[IntArray], old: Sequence[IntArray]
) -> dict[str, Sides]:
    """The tokens of pairs by language, those that are too long or empty left out."""
    sides: dict[str, Sides] = {}
    for pair, foreign, english in zip(pairs, new, old, strict=True):
        if 0 < len(foreign) <= LONGEST and 0 < len(english) <= LONGEST:
            of_language = sides.setdefault(pair.language, Sides([], []))
            of_language.foreign.append(foreign)
            of_language.english.append(english)
    return sides
