"""Words of token ids: where they begin, and the terms that words and their stems make.

A vocabulary of pieces cuts rare words, and most words of most languages, into parts that many
other words have too. So a word of several pieces can be a term of its own beside its pieces. Its
weight is the Euclidean length of theirs: where both texts weigh the pieces alike, the whole word
counts as much again as its pieces do together. Its column stands behind those of the vocabulary and
is a number that the word is hashed to, so no word is unknown, and two words rarely meet in one.

And the forms of a word ("computer", "computing") are different pieces, which have no term together.
So the stem of every word can be one more term, of the same weight as the word: its first five
letters, whatever the language.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from m3search.corpus.scripts import is_spaceless
from m3search.errors import ArtifactError
from m3search.model.word_numbers import (
    STEM_LETTERS,
    WORD_COLUMNS,
    first_letters,
    stem_numbers,
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
    """The words and stems that are terms in some texts, in the order in which they begin."""

    tokens: IntArray
    """(tokens,) places of the pieces that these are made of, one term after the other; those of a
    stem are those of its whole word"""
    sizes: IntArray
    """(terms,) pieces of each"""
    terms: IntArray
    """(terms,) the column of each, from the size of the vocabulary on"""
    stems: BoolArray
    """(terms,) whether it is the stem of its word, not the word"""


_NONE = np.zeros(0, np.int64)
NO_WORDS = Words(_NONE, _NONE, _NONE, _NONE.astype(bool))


class WordTable:
    """What finding words needs to know of a tokenizer with V ids."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, size: int, *, stems: bool = False
    ) -> None:
        """size: V, the columns in front of those of the words. stems: whether they are terms, too.

        ArtifactError for byte-level BPE, whose pieces are no letters.
        """
        pieces = [piece or "" for piece in pieces_of(tokenizer, size)]
        if not _continuing_prefix(tokenizer) and _spelling(pieces) == BYTE_SPACES:
            raise ArtifactError(
                "the tokenizer",
                expected="pieces of letters, to have words as terms (word_terms)",
                found="a vocabulary of bytes",
                remedy="Leave word_terms out, or train with another tokenizer.",
            )
        self._size = size
        self._starts = word_starts(tokenizer, size)
        special = set(tokenizer.all_special_ids)
        self._joins = np.array(
            [number not in special and _joins(piece) for number, piece in enumerate(pieces)],
            dtype=bool,
        )
        self._bytes = np.array([_byte(piece) for piece in pieces], np.int64)
        self._inner = [piece.strip(MARKS) for piece in pieces]
        self._letters = first_letters(self._inner) if stems else None

    @classmethod
    def made_for(
        cls, terms: WordTerms, tokenizer: PreTrainedTokenizerFast, size: int
    ) -> WordTable | None:
        """That of a model with these terms; None where its pieces alone are terms."""
        return None if terms == "none" else cls(tokenizer, size, stems=terms == "stems")

    def find(self, ids: IntArray) -> Words:
        """The words of several pieces, and stems, in ids (L,) of one text or some, or (B, L).

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
        several = sizes > 1
        words = self._terms(ids, firsts[several], sizes[several], stems=False)
        if self._letters is None:
            return words
        return _in_order(words, self._terms(ids, firsts, sizes, stems=True))

    def _terms(self, ids: IntArray, firsts: IntArray, sizes: IntArray, *, stems: bool) -> Words:
        """The words, or their stems, that begin at the places `firsts` of ids."""
        tokens = _ranges(firsts, sizes)
        if stems:
            numbers = stem_numbers(self.letters(ids[tokens], sizes), sizes)
        else:
            numbers = word_numbers(ids[tokens], sizes)
        return Words(tokens, sizes, self._size + numbers, np.full(len(sizes), stems))

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

    def stem(self, ids: IntArray) -> str:
        """What stands for the stem of the word of these pieces in texts for people: "compu*"."""
        letters = self.letters(ids, np.array([len(ids)])).reshape(-1)
        return "".join(map(chr, letters[letters > 0][:STEM_LETTERS].tolist())) + "*"

    def _content(self, number: int) -> bytes:
        """The letters of a piece, or its byte, in UTF-8."""
        byte = int(self._bytes[number])
        return bytes([byte]) if byte >= 0 else self._inner[number].encode()


def sparse_columns(size: int, word_terms: WordTerms) -> int:
    """Columns of the sparse mode: one for each of `size` pieces, and those that words share."""
    return size if word_terms == "none" else size + WORD_COLUMNS


def word_weights(weights: FloatArray, sizes: IntArray) -> FloatArray:
    """(words,) weights of words, or of their stems, whose pieces weigh `weights` (tokens,)."""
    if not len(sizes):
        return np.zeros(0, np.float32)
    squares = np.add.reduceat(weights.astype(np.float32) ** 2, np.cumsum(sizes) - sizes)
    lengths: FloatArray = np.sqrt(squares)
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


def _in_order(first: Words, second: Words) -> Words:
    """The terms of both, by the places where they begin."""
    sizes = np.concatenate([first.sizes, second.sizes])
    tokens = np.concatenate([first.tokens, second.tokens])
    begins = np.cumsum(sizes) - sizes
    order = np.argsort(tokens[begins], kind="stable")
    terms = np.concatenate([first.terms, second.terms])[order]
    stems = np.concatenate([first.stems, second.stems])[order]
    return Words(tokens[_ranges(begins[order], sizes[order])], sizes[order], terms, stems)


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
