"""Texts to token ids: special tokens, truncation, and the inserted CLS tokens of MCLS."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from m3search.errors import ArtifactError
from m3search.model.words import WordTable
from m3search.records import BoolArray, IntArray, Token

MCLS_STRIDE = 256
"""Positions from one CLS to the next under MCLS."""
CHARACTERS_PER_PIECE = 16
"""of a long text's beginning: what is read first for each piece that has room"""
SURE_PIECES = 256
"""before the place of a cut: their count in front of it makes those before them sure"""

Ids = npt.NDArray[np.int64]


class Tokenized(NamedTuple):
    """Texts as the model reads them."""

    ids: list[Ids]
    """token ids of each text, special tokens included, no padding"""
    truncated: BoolArray
    """(n,) whether tokens were cut off"""


class Tokenization:
    """A fast tokenizer whose special tokens and truncation are placed by us.

    The tokenizer itself is asked for plain pieces only, so that one instance serves every length.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, words: WordTable | None = None) -> None:
        self._tokenizer = tokenizer
        self.words = words
        """by which words, or stems, are terms; None where only pieces are"""
        around = tokenizer("", add_special_tokens=True)["input_ids"]
        if len(around) != 2:
            raise ArtifactError(
                "the tokenizer",
                expected="one special token before a text and one behind it",
                found=str(tokenizer.convert_ids_to_tokens(around)),
                remedy="M3 needs a first token to leave out; take an encoder of the BERT family.",
            )
        self._first, self._last = around
        self.pad_id = int(tokenizer.pad_token_id or 0)
        self.unknown_id = tokenizer.unk_token_id
        """the id of every piece that the vocabulary lacks; None where it lacks none"""
        special = {
            tokenizer.cls_token_id,
            tokenizer.sep_token_id,
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
            tokenizer.unk_token_id,
        }
        self.special_ids = np.array(sorted(i for i in special if i is not None), np.int64)
        """ids that never carry a lexical weight"""

    def encode(self, texts: Sequence[str], max_length: int, mcls: bool = False) -> Tokenized:
        """Token ids of each text, at most `max_length` with the special tokens."""
        if not texts:
            return Tokenized([], np.zeros(0, dtype=bool))
        room = _room(max_length, mcls)
        plain = [encoding["input_ids"] for encoding in self._read(texts, room)]
        ids = [self._frame(np.asarray(pieces[:room], np.int64), mcls) for pieces in plain]
        return Tokenized(ids, np.array([len(pieces) > room for pieces in plain]))

    def encode_spans(
        self, texts: Sequence[str], max_length: int
    ) -> tuple[list[Ids], list[IntArray]]:
        """As `encode`, and for each text (tokens, 2) where in it every token begins and ends.

        Special tokens, the first and the last, are at (0, 0).
        """
        room = _room(max_length, mcls=False)
        special = np.zeros((1, 2), np.int64)
        ids, spans = [], []
        for read in self._read(texts, room, spans=True) if texts else []:
            ids.append(self._frame(np.asarray(read["input_ids"][:room], np.int64), mcls=False))
            inner = np.asarray(read["offset_mapping"][:room], np.int64).reshape(-1, 2)
            spans.append(np.concatenate([special, inner, special]))
        return ids, spans

    def starts(self, text: str) -> IntArray:
        """(n,) the character at which each piece of the whole text begins, however long it is."""
        (read,) = self._call([text], spans=True)
        return np.asarray(read["offset_mapping"], np.int64).reshape(-1, 2)[:, 0]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer: two equal ones cut texts into the same ids."""
        return hashlib.sha256(self._tokenizer.backend_tokenizer.to_str().encode()).hexdigest()

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The pieces of token ids, as the vocabulary spells them; others as "#" and the number."""
        known = self._tokenizer.convert_ids_to_tokens(list(ids))
        return [
            f"#{number}" if piece is None else str(piece)
            for number, piece in zip(ids, known, strict=True)
        ]

    def terms(self, text: str, max_length: int, mcls: bool = False) -> dict[int, str]:
        """By their columns the terms of a text: its pieces and, as `words` has them, its words, or
        stems as "compu*"."""
        (ids,) = self.encode([text], max_length, mcls).ids
        special = set(self.special_ids.tolist())
        numbers = [number for number in ids.tolist() if number not in special]
        terms = dict(zip(numbers, self.pieces(numbers), strict=True))
        if self.words:
            found = self.words.find(ids)
            last = np.cumsum(found.sizes)
            for column, start, stop in zip(
                found.terms.tolist(), last - found.sizes, last, strict=True
            ):
                terms[column] = self.words.name(column, ids[found.tokens[start:stop]])
        return terms

    def token_weights(self, ids: Sequence[int], terms: Mapping[int, float]) -> list[float]:
        """(n,) of the token ids of a text: see `Encoder.token_weights`."""
        squares = np.array([terms.get(number, 0.0) ** 2 for number in ids])
        if self.words:
            pieces = np.asarray(ids, np.int64)
            found = self.words.find(pieces)
            wholes = np.array([terms.get(column, 0.0) ** 2 for column in found.terms.tolist()])
            shares = np.repeat(wholes / found.sizes, found.sizes)
            counted = np.repeat(found.terms, found.sizes) == pieces[found.tokens]
            squares[found.tokens] += np.where(counted, 0, shares)
        weights: list[float] = np.sqrt(squares).tolist()
        return weights

    def cls_mask(self, ids: Ids, mcls: bool = False) -> BoolArray:
        """(B, L) where `encode` placed a CLS; one that the text itself spells is not meant."""
        placed = np.zeros(ids.shape, dtype=bool)
        stride = MCLS_STRIDE if mcls else ids.shape[1]
        placed[:, ::stride] = ids[:, ::stride] == self._first
        return placed

    def tokens(self, text: str, max_length: int, mcls: bool = False) -> list[Token]:
        """The tokens that own a vector (all but CLS), with their characters in `text`."""
        room = _room(max_length, mcls)
        (plain,) = self._read([text], room, spans=True)
        ids, spans = plain["input_ids"][:room], plain["offset_mapping"][:room]
        pieces = self.pieces([*ids, self._last])
        spans = [*spans, (0, 0)]
        return [
            Token(int(token), piece, int(start), int(end), row)
            for row, (token, piece, (start, end)) in enumerate(
                zip([*ids, self._last], pieces, spans, strict=True)
            )
        ]

    def _read(self, texts: Sequence[str], room: int, spans: bool = False) -> list[dict[str, Any]]:
        """The pieces of each text, all of them or more than `room`, as if the whole were read.

        A text that is far longer than the room is read in a beginning that grows until it holds
        enough, as one line of a corpus may be a whole library.
        """
        reach = CHARACTERS_PER_PIECE * (room + SURE_PIECES)
        found = self._call([text[:reach] for text in texts], spans)
        for row, text in enumerate(texts):
            read = reach
            while read < len(text) and len(found[row]["input_ids"]) < room + SURE_PIECES:
                read *= 8
                (found[row],) = self._call([text[:read]], spans)
        return found

    def _call(self, texts: Sequence[str], spans: bool) -> list[dict[str, Any]]:
        columns = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=spans,
            verbose=False,
        )
        return [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]

    def _frame(self, pieces: Ids, mcls: bool) -> Ids:
        """CLS + pieces + SEP; under MCLS a CLS at every multiple of the stride."""
        if mcls:
            gaps = np.arange(MCLS_STRIDE - 1, len(pieces) + 1, MCLS_STRIDE - 1)
            gaps = gaps[gaps < len(pieces)]
            pieces = np.insert(pieces, gaps, self._first)
        return np.concatenate([[self._first], pieces, [self._last]])


def pad(ids: Sequence[Ids], pad_id: int, width: int | None = None) -> tuple[Ids, BoolArray]:
    """(B, L) token ids padded on the right, and the (B, L) mask of real tokens.

    width: L, at least the length of the longest text, which it is by default.
    """
    lengths = np.array([len(row) for row in ids])
    mask = np.arange(width or lengths.max()) < lengths[:, None]
    padded = np.full(mask.shape, pad_id, np.int64)
    padded[mask] = np.concatenate(ids)
    return padded, mask


def _room(max_length: int, mcls: bool) -> int:
    """Pieces of text that fit beside the special tokens."""
    if not mcls:
        return max_length - 2
    return max_length - 1 - -(-(max_length - 1) // MCLS_STRIDE)
