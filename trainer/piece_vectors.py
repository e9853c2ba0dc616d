"""Where the pieces of a new vocabulary lie among the word vectors of an English encoder.

Each piece gets the vector of the first of these that it has:

    equal        the old piece of the same text
    translation  the English words that word lists and parallel texts give for it
    parts        the old pieces of its text, where the old vocabulary knows them
    none         the mean of all old pieces, and a little noise

Several vectors become one by their weighted mean, brought to the mean of their lengths: a mean is
shorter than its parts, and the encoder adds positions to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from text_splitting import SPACE
from tokenizer_folder import BYTES, SPECIAL
from transformers import PreTrainedTokenizerFast
from vocabulary_match import CONTINUING, equal_pieces

from m3search.records import FloatArray

NOISE = 0.1
"""of the deviation of the old vectors, for pieces that nothing is known of"""


@dataclass(frozen=True)
class OldWords:
    """The word vectors of the encoder whose vocabulary is replaced."""

    tokenizer: PreTrainedTokenizerFast
    vectors: FloatArray
    """(V, hidden) float32"""

    def pieces_of(self, text: str, *, continuing: bool = False) -> list[int]:
        """The ids of a text's pieces, as they are behind the start of a word or not.

        None where the vocabulary has no piece for a part of the text.
        """
        tokenizer = self.tokenizer
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if not ids or tokenizer.unk_token_id in ids:
            return []
        if continuing:
            first = str(tokenizer.convert_ids_to_tokens(ids[0]))
            behind = tokenizer.get_vocab().get(f"{CONTINUING}{first}")
            ids[0] = ids[0] if behind is None else behind
        return ids

    def mean(self, weights: Mapping[int, float]) -> FloatArray:
        """(hidden,) the weighted mean of the vectors of ids, as long as they are on average."""
        ids = np.fromiter(weights, np.int64, len(weights))
        shares = np.fromiter(weights.values(), np.float64, len(weights))
        shares /= shares.sum()
        mean = shares @ self.vectors[ids]
        length = shares @ np.linalg.norm(self.vectors[ids], axis=1)
        scaled: FloatArray = (mean * (length / max(np.linalg.norm(mean), 1e-6))).astype(np.float32)
        return scaled


@dataclass(frozen=True)
class PieceVectors:
    """The vectors of a vocabulary's pieces, and what each came from."""

    vectors: FloatArray
    """(pieces, hidden) float32"""
    sources: list[str]
    """(pieces,) equal, translation, parts or none"""

    def counts(self) -> dict[str, int]:
        """How many pieces came from each source."""
        return dict(sorted(Counter(self.sources).items()))


def place_pieces(
    pieces: Sequence[str], old: OldWords, translations: Mapping[int, Mapping[int, float]], seed: int
) -> PieceVectors:
    """The vectors of all pieces. translations: weights of old ids, by the ids of pieces."""
    random = np.random.default_rng(seed)
    middle, deviation = old.vectors.mean(axis=0), old.vectors.std(axis=0)
    equal = equal_pieces(pieces, old.tokenizer.get_vocab(), SPECIAL)
    vectors = np.empty((len(pieces), old.vectors.shape[1]), np.float32)
    sources: list[str] = []
    for number, piece in enumerate(pieces):
        if number in equal:
            vectors[number] = old.vectors[equal[number]]
            sources.append("equal")
        elif number in translations:
            vectors[number] = old.mean(translations[number])
            sources.append("translation")
        elif parts := _parts(piece, old):
            vectors[number] = old.mean(Counter(parts))
            sources.append("parts")
        else:
            vectors[number] = middle + NOISE * deviation * random.standard_normal(len(middle))
            sources.append("none")
    return PieceVectors(vectors, sources)


def _parts(piece: str, old: OldWords) -> list[int]:
    if piece in BYTES:
        return []
    return old.pieces_of(piece.removeprefix(SPACE), continuing=not piece.startswith(SPACE))
