"""Whole-word masks of token ids: which tokens an encoder or a decoder must do without.

The masks are those of RetroMAE (arXiv 2205.12035, section 3) at any length: they have no cap at 512
tokens, know the word boundaries of every kind of vocabulary, and never take a special token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from m3search.errors import ArtifactError
from m3search.model.tokenization import Ids
from m3search.model.words import pieces_of, word_starts
from m3search.records import BoolArray

WORD_PIECES = 8
"""The longest unit that is masked as one, in pieces; what is longer is cut from its start."""

_MASKED, _RANDOM = 0.8, 0.1  # of BERT (arXiv 1810.04805, section 3.1); the rest stays as it is


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What masking needs to know of a tokenizer with V ids."""

    starts: BoolArray
    """(V,) whether the piece begins a word"""
    special: BoolArray
    """(V,) whether the id is never masked and never put in another's place: special tokens, and
    ids without a piece"""
    mask_id: int
    pad_id: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, size: int) -> Vocabulary:
        """The vocabulary of a tokenizer, `size` ids wide as the backbone's embeddings are."""
        if tokenizer.mask_token_id is None:
            raise ArtifactError(
                "the tokenizer",
                expected="a mask token, to pre-train with",
                found="none",
                remedy="Start from an encoder that was trained on masked tokens.",
            )
        special = np.array([piece is None for piece in pieces_of(tokenizer, size)])
        added = tokenizer.added_tokens_decoder.items()
        named = {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}
        special[[i for i in named if i < size]] = True
        return cls(
            word_starts(tokenizer, size),
            special,
            int(tokenizer.mask_token_id),
            int(tokenizer.pad_token_id or 0),
        )


def word_numbers(ids: Ids, starts: BoolArray, special: BoolArray) -> Ids:
    """(L,) the number of each token's word, from 0 on; -1 at special tokens.

    ids (L,) of one text; starts and special (V,) as in `Vocabulary`. A special token ends a word,
    and a word of more than `WORD_PIECES` pieces counts as several.
    """
    plain = ~special[ids]
    after_special = np.concatenate([[True], ~plain[:-1]])
    begins = plain & (starts[ids] | after_special)
    places = np.arange(len(ids))
    first = np.maximum.accumulate(np.where(begins, places, 0))
    begins |= plain & ((places - first) % WORD_PIECES == 0)
    return np.where(plain, np.cumsum(begins) - 1, -1)


def mask_words(words: Ids, share: float, rng: np.random.Generator, masks: int = 1) -> BoolArray:
    """(masks, L) independent masks of one text, True where a token is hidden.

    words (L,) from `word_numbers`. Each mask takes whole words in random order until it holds
    `share` of the tokens that have a word. The word that crosses this target is taken with the
    probability of the part of it that lies below, so that the expected share is exact; a text with
    a word always loses one.
    """
    lengths = np.bincount(words[words >= 0])
    if not len(lengths):
        return np.zeros((masks, len(words)), dtype=bool)
    order = rng.random((masks, len(lengths)), dtype=np.float32).argsort(axis=1)
    ordered = lengths[order]
    before = ordered.cumsum(axis=1) - ordered
    taken = before + rng.random((masks, 1)) * ordered < share * lengths.sum()
    taken[:, 0] = True
    hidden = np.zeros((masks, len(lengths) + 1), dtype=bool)  # the last column, at -1: special
    np.put_along_axis(hidden, order, taken, axis=1)
    return hidden[:, words]


def corrupt(ids: Ids, hidden: BoolArray, vocabulary: Vocabulary, rng: np.random.Generator) -> Ids:
    """The ids with 80 % of the hidden ones masked and 10 % replaced by random ids.

    ids, hidden of one shape. The other 10 % stay, so that the encoder cannot tell a word that it
    has to predict from one that it can trust (BERT, arXiv 1810.04805, section 3.1). Replacements
    are uniform over the ids that are not special.
    """
    draw = rng.random(ids.shape)
    replaced = hidden & (draw >= _MASKED) & (draw < _MASKED + _RANDOM)
    corrupted = np.where(hidden & (draw < _MASKED), vocabulary.mask_id, ids)
    corrupted[replaced] = rng.choice(np.flatnonzero(~vocabulary.special), int(replaced.sum()))
    return corrupted
