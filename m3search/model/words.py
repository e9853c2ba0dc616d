"""Words of token ids: where they begin, and the terms that words and their stems make.

A vocabulary of pieces cuts rare words, and most words of most languages, into parts that many
other words have too. So a word of several pieces can be a term of its own beside its pieces. Its
weight is the Euclidean length of theirs: where both texts weigh the pieces alike, the whole word
counts as much again as its pieces do together. Its column stands behind those of the vocabulary and
is a number that the word is hashed to, so no word is unknown, and two words rarely meet in one.

And the forms of a word ("computer", "computing") are different pieces, which have no term together.
So stems can be terms in place of words: the first five letters of a word, whatever the language.
Where a piece of just these letters begins words, the stem has the column of this piece, so that
"light" and "lights" meet there. Where both texts weigh the pieces alike, a stem counts twice what
those of its word do, and where one of them is the stem, what that one does besides: all words count
three times their pieces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from m3search.corpus.scripts import is_spaceless
from m3search.errors import ArtifactError
from m3search.model.word_numbers import (
    STEM_LETTERS,
    WORD_COLUMNS,
    first_letters,
    numbers_of,
    stem_hashes,
    word_numbers,
)
from m3search.records import BoolArray, FloatArray, IntArray, WordTerms

SPACE = "▁"
"""What begins a word in a sentencepiece vocabulary."""

MARKS = f"{SPACE}#"
"""What stands around the letters of a piece: where a word begins, or goes on in WordPiece."""

_BYTE = re.compile("<0x([0-9A-F]{2})>")

BYTE_SPACES = ("Ġ", "Ċ", "ĉ", "č")
"""Space, newline, tab and carriage return as byte-level BPE spells them: each begins a word."""


class Words(NamedTuple):
    """The words that are terms in some texts, or whose stems are, in the order of the texts."""

    tokens: IntArray
    """(tokens,) places of the pieces of these words, one word after the other"""
    sizes: IntArray
    """(words,) pieces of each"""
    terms: IntArray
    """(words,) the column of each, from the size of the vocabulary on; of a stem that is a piece
    that of the piece"""
    factors: FloatArray
    """(tokens,) float32, how often the square of the weight of each of these pieces counts in the
    square of its word's: once, in that of a stem twice, and thrice where the piece is the stem"""


_NONE = np.zeros(0, np.int64)
NO_WORDS = Words(_NONE, _NONE, _NONE, np.zeros(0, np.float32))


class WordTable:
    """What finding words needs to know of a tokenizer with V ids."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, size: int, *, stems: bool = False
    ) -> None:
        """size: V, the columns in front of those of the words. stems: whether they are terms in
        place of words.

        ArtifactError for byte-level BPE, whose pieces are no letters.
        """
        self._pieces = pieces = [piece or "" for piece in pieces_of(tokenizer, size)]
        if not _continuing_prefix(tokenizer) and _spelling(pieces) == BYTE_SPACES:
            raise ArtifactError(
                "the tokenizer",
                expected="pieces of letters, to have words as terms (word_terms)",
                found="a vocabulary of bytes",
                remedy="Leave word_terms out, or train with another tokenizer.",
            )
        self.size = size
        """V"""
        self._starts = word_starts(tokenizer, size)
        special = set(tokenizer.all_special_ids)
        self._joins = np.array(
            [number not in special and _joins(piece) for number, piece in enumerate(pieces)],
            dtype=bool,
        )
        self._bytes = np.array([_byte(piece) for piece in pieces], np.int64)
        self._inner = [piece.strip(MARKS) for piece in pieces]
        self._letters: IntArray | None = None
        if stems:
            self._letters = first_letters(self._inner)
            self._short, self._short_hashes = self._short_pieces(self._letters)

    @classmethod
    def made_for(
        cls, terms: WordTerms, tokenizer: PreTrainedTokenizerFast, size: int
    ) -> WordTable | None:
        """That of a model with these terms; None where its pieces alone are terms."""
        return None if terms == "none" else cls(tokenizer, size, stems=terms == "stems")

    def find(self, ids: IntArray) -> Words:
        """The words of several pieces in ids (L,) of one text or some, or (B, L); where stems are
        terms all words.

        Special tokens, pieces without a letter or digit, and pieces of scripts that are written
        without spaces belong to no word and end the one before them. The rows of a batch, and
        texts in a row, begin with a special token, so no word goes from one to the next. What is
        cut off at the end of a text, or by a CLS that MCLS inserts, is a word of the pieces that
        are left.
        """
        ids = ids.reshape(-1)
        joins = self._joins[ids]
        after = np.concatenate([[False], joins[:-1]])
        begins = joins & (self._starts[ids] | ~after)
        firsts = np.flatnonzero(begins)
        sizes = np.bincount((np.cumsum(begins) - 1)[joins], minlength=len(firsts))
        if self._letters is None:
            several = sizes > 1
            tokens, sizes = _ranges(firsts[several], sizes[several]), sizes[several]
            numbers = self.size + word_numbers(ids[tokens], sizes)
            return Words(tokens, sizes, numbers, np.ones(len(tokens), np.float32))
        tokens = _ranges(firsts, sizes)
        terms = self._stem_columns(stem_hashes(self.letters(ids[tokens], sizes), sizes))
        own = ids[tokens] == np.repeat(terms, sizes)
        return Words(tokens, sizes, terms, np.where(own, 3, 2).astype(np.float32))

    def _short_pieces(self, letters: IntArray) -> tuple[IntArray, npt.NDArray[np.uint64]]:
        """The pieces that are stems of the words that they begin, the first of each stem, and the
        hashes of these, ascending."""
        short = np.array([len(inner) <= STEM_LETTERS for inner in self._inner], dtype=bool)
        pieces = np.flatnonzero(short & self._starts & self._joins)
        hashes = stem_hashes(letters[pieces], np.ones(len(pieces), np.int64))
        hashes, first = np.unique(hashes, return_index=True)
        return pieces[first], hashes

    def _stem_columns(self, hashes: npt.NDArray[np.uint64]) -> IntArray:
        """(words,) the columns of the stems with these hashes."""
        columns = self.size + numbers_of(hashes)
        if not len(self._short):
            return columns
        places = np.searchsorted(self._short_hashes, hashes).clip(max=len(self._short) - 1)
        known = self._short_hashes[places] == hashes
        return np.where(known, self._short[places], columns)

    def letters(self, ids: IntArray, sizes: IntArray) -> IntArray:
        """(pieces, STEM_LETTERS) the first letters of the pieces of words.

        Where bytes spell some of the letters of a word, those of the word stand at its first piece.
        """
        assert self._letters is not None
        letters = self._letters[ids]
        stops = np.cumsum(sizes)
        spelled = np.unique(np.searchsorted(stops, np.flatnonzero(self._bytes[ids] >= 0), "right"))
        for start, stop in zip((stops - sizes)[spelled], stops[spelled], strict=True):
            content = b"".join(self._content(number) for number in ids[start:stop].tolist())
            letters[start:stop] = 0
            letters[start] = first_letters([content.decode(errors="replace")])[0]
        return letters

    def name(self, column: int, ids: IntArray) -> str:
        """What texts for people call the column that a word of these pieces has: "▁unforgettable",
        or of its stem "unfor*", or the piece that it is."""
        if column < self.size:
            return self._pieces[column]
        if self._letters is None:
            return "".join(self._pieces[number] for number in ids.tolist())
        letters = self.letters(ids, np.array([len(ids)])).reshape(-1)
        return "".join(map(chr, letters[letters > 0][:STEM_LETTERS].tolist())) + "*"

    def _content(self, number: int) -> bytes:
        """The letters of a piece, or its byte, in UTF-8."""
        byte = int(self._bytes[number])
        return bytes([byte]) if byte >= 0 else self._inner[number].encode()


def sparse_columns(size: int, word_terms: WordTerms) -> int:
    """Columns of the sparse mode: one for each of `size` pieces, and those that words share."""
    return size if word_terms == "none" else size + WORD_COLUMNS


def word_weights(weights: FloatArray, words: Words) -> FloatArray:
    """(words,) float32 weights of words, or of their stems, in texts whose tokens have `weights`
    (L,) or (B, L): the Euclidean length of those of their pieces, times their factors in squares.
    """
    if not len(words.sizes):
        return np.zeros(0, np.float32)
    squares = words.factors * weights.reshape(-1)[words.tokens].astype(np.float32) ** 2
    lengths: FloatArray = np.sqrt(np.add.reduceat(squares, np.cumsum(words.sizes) - words.sizes))
    return lengths


def word_starts(tokenizer: PreTrainedTokenizerFast, size: int) -> BoolArray:
    """(size,) whether the piece of each id begins a word.

    WordPiece and alike: every piece without the prefix of continuing pieces ("##").
    Sentencepiece: every piece with "▁" in front, and every piece of a script that is written
    without spaces, where a run between two "▁" is a sentence and a piece is about a word.
    Byte-level BPE: every piece that begins with a white space.
    A vocabulary that marks nothing, as one of characters: every piece.
    """
    pieces = [piece or "" for piece in pieces_of(tokenizer, size)]
    if prefix := _continuing_prefix(tokenizer):
        return np.array([not piece.startswith(prefix) for piece in pieces], dtype=bool)
    marks = _spelling(pieces)
    if not marks:
        return np.ones(size, dtype=bool)
    if marks == BYTE_SPACES:
        return np.array([piece.startswith(BYTE_SPACES) for piece in pieces], dtype=bool)
    return np.array([piece[:1] == SPACE or _is_spaceless(piece) for piece in pieces], dtype=bool)


def _continuing_prefix(tokenizer: PreTrainedTokenizerFast) -> str:
    """What marks pieces that go on with a word in WordPiece and alike; "" where nothing does."""
    return getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None) or ""


def _spelling(pieces: Sequence[str | None]) -> tuple[str, ...]:
    """What a word begins with: `SPACE` or, of byte-level BPE, `BYTE_SPACES`; none of them is ()."""
    longer = [piece for piece in pieces if piece and len(piece) > 1]
    spaced = sum(piece.startswith(SPACE) for piece in longer)
    byte_spaced = sum(piece.startswith(BYTE_SPACES) for piece in longer)
    if spaced == byte_spaced == 0:
        return ()
    return BYTE_SPACES if spaced < byte_spaced else (SPACE,)


def pieces_of(tokenizer: PreTrainedTokenizerFast, size: int) -> list[str | None]:
    """The pieces of the ids 0 to size - 1, None where the tokenizer has none."""
    return list(tokenizer.convert_ids_to_tokens(list(range(size))))


def _ranges(firsts: IntArray, sizes: IntArray) -> IntArray:
    """first, first + 1, ..., first + size - 1 of each, one after the other."""
    before = np.cumsum(sizes) - sizes
    ranges: IntArray = np.repeat(firsts - before, sizes) + np.arange(sizes.sum())
    return ranges


def _joins(piece: str) -> bool:
    """Whether a piece is part of a word: it has a letter, a digit, a mark such as a vowel sign or,
    of a letter that has no piece of its own, a byte."""
    if _byte(piece) >= 0:
        return True
    inner = piece.strip(MARKS)
    lettered = any(c.isalnum() or unicodedata.category(c)[0] == "M" for c in inner)
    return lettered and not _is_spaceless(inner)


def _byte(piece: str) -> int:
    """The byte that a piece as "<0xE1>" stands for; -1 for any other."""
    found = _BYTE.fullmatch(piece)
    return int(found[1], 16) if found else -1


def _is_spaceless(piece: str) -> bool:
    return bool(piece) and is_spaceless(ord(piece[0]))
