"""Words of token ids: where they begin, and the terms that words of several pieces make.

A vocabulary of pieces cuts rare words, and most words of most languages, into parts that many
other words have too. So a word of several pieces can be a term of its own beside its pieces. Its
weight is the Euclidean length of theirs: where both texts weigh the pieces alike, the whole word
counts as much again as its pieces do together. Its column stands behind those of the vocabulary and
is a number that the word is hashed to, so no word is unknown, and two words rarely meet in one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from m3search.corpus.scripts import is_spaceless
from m3search.errors import ArtifactError
from m3search.records import BoolArray, FloatArray, IntArray

SPACE = "▁"
"""What begins a word in a sentencepiece vocabulary."""

BYTE_SPACES = ("Ġ", "Ċ", "ĉ", "č")
"""Space, newline, tab and carriage return as byte-level BPE spells them: each begins a word."""

WORD_COLUMNS = 1 << 21
"""columns that words share: of a million words 38 % are not alone in theirs, of 50,000 2 %"""

_FACTOR = 0x9E3779B97F4A7C15
"""odd, from the golden ratio (Knuth, TAOCP 3, 6.4): multiplied, it spreads numbers that are near"""


class Words(NamedTuple):
    """The words of several pieces in some texts, in their order."""

    tokens: IntArray
    """(tokens,) places of the pieces that these words are made of, word by word"""
    sizes: IntArray
    """(words,) pieces of each"""
    terms: IntArray
    """(words,) the column of each, from the size of the vocabulary on"""


NO_WORDS = Words(*(np.zeros(0, np.int64) for _ in Words._fields))


class WordTable:
    """What finding words needs to know of a tokenizer with V ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, size: int) -> None:
        """size: V, the columns in front of those of the words.

        ArtifactError for byte-level BPE, whose pieces are no letters.
        """
        pieces = pieces_of(tokenizer, size)
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
            [number not in special and _joins(piece or "") for number, piece in enumerate(pieces)],
            dtype=bool,
        )

    def find(self, ids: IntArray) -> Words:
        """The words of several pieces in ids (L,) of one text or of some in a row, or (B, L).

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
        number = np.cumsum(begins) - 1
        places = np.flatnonzero(joins)
        sizes = np.bincount(number[places])
        several = sizes > 1
        tokens = places[several[number[places]]]
        return Words(tokens, sizes[several], self._size + _hashes(ids[tokens], sizes[several]))


def sparse_columns(size: int, word_terms: bool) -> int:
    """Columns of the sparse mode: one for each of `size` pieces, and those that words share."""
    return size + WORD_COLUMNS if word_terms else size


def word_weights(weights: FloatArray, sizes: IntArray) -> FloatArray:
    """(words,) weights of words whose pieces weigh `weights` (tokens,), word by word."""
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


def _hashes(ids: IntArray, sizes: IntArray) -> IntArray:
    """(words,) numbers below `WORD_COLUMNS` of words given by their pieces, one after the other."""
    if not len(sizes):
        return np.zeros(0, np.int64)
    firsts = np.cumsum(sizes) - sizes
    places = (np.arange(len(ids)) - np.repeat(firsts, sizes) + 1).astype(np.uint64)
    mixed = _mix(_mix(ids.astype(np.uint64)) + places * np.uint64(_FACTOR))
    sums = _mix(np.add.reduceat(mixed, firsts))
    return (sums >> np.uint64(64 - WORD_COLUMNS.bit_length() + 1)).astype(np.int64)


def _mix(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Every bit of a number changes about half of those of its mix (splitmix64, Steele 2014)."""
    with np.errstate(over="ignore"):
        mixed = numbers * np.uint64(_FACTOR)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def _joins(piece: str) -> bool:
    """Whether a piece is part of a word: it has a letter, a digit, a mark such as a vowel sign or,
    of a letter that has no piece of its own, a byte."""
    if len(piece) == 6 and piece.startswith("<0x"):
        return True
    inner = piece.strip("▁#")
    lettered = any(c.isalnum() or unicodedata.category(c)[0] == "M" for c in inner)
    return lettered and not _is_spaceless(inner)


def _is_spaceless(piece: str) -> bool:
    return bool(piece) and is_spaceless(ord(piece[0]))
