"""What m3-mini's tokenizer makes of texts, in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizer_folder import BYTES, SPECIAL
from tokenizers import Tokenizer
from tooling import showing
from transformers import PreTrainedTokenizerFast
from vocabulary_match import equal_pieces

from m3search.records import IntArray

ENGLISH = "en"
LARGEST = 25
"""languages whose tokens a character are told, by characters"""
BATCH = 2_000
"""texts at a time"""
RANDOM_TEXTS, RANDOM_LENGTH = 5_000, 40
"""of random Unicode, the latter in characters"""
UNKNOWN = SPECIAL.index("[UNK]")
FIRST_BYTE = len(SPECIAL)


class Tokens(NamedTuple):
    """The tokens of some texts."""

    counts: IntArray
    """(pieces,)"""
    characters: int
    words: int
    """between spaces"""

    @property
    def total(self) -> int:
        """All tokens."""
        return int(self.counts.sum())

    @property
    def in_bytes(self) -> int:
        """Those that are bytes."""
        return int(self.counts[FIRST_BYTE : FIRST_BYTE + len(BYTES)].sum())


def count_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
    """The tokens of the texts, special ones apart."""
    counts = np.zeros(tokenizer.get_vocab_size(), np.int64)
    characters = words = 0
    for start in range(0, len(texts), BATCH):
        batch = list(texts[start : start + BATCH])
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            counts += np.bincount(np.array(encoding.ids, np.int64), minlength=len(counts))
        characters += sum(map(len, batch))
        words += sum(len(text.split()) for text in batch)
    return Tokens(counts, characters, words)


def random_texts(seed: int) -> list[str]:
    """Texts of any characters but surrogates: half from all planes, half from the first."""
    random = np.random.default_rng(seed)
    codes = random.integers(1, 0x110000, (RANDOM_TEXTS, RANDOM_LENGTH))
    codes[::2] %= 0x10000
    codes[(codes >= 0xD800) & (codes < 0xE000)] = 0x20
    return ["".join(map(chr, row)) for row in codes.tolist()]


def measure(
    tokenizer: Tokenizer,
    texts: Mapping[str, Sequence[str]],
    old: PreTrainedTokenizerFast | None,
    seed: int,
) -> dict[str, Any]:
    """Tokens, bytes and unknown ones of all texts by language; English beside the old pieces."""
    languages = showing(sorted(texts), "languages", "tokens")
    found = {language: count_tokens(tokenizer, texts[language]) for language in languages}
    random = count_tokens(tokenizer, random_texts(seed))
    largest = sorted(found, key=lambda language: -found[language].characters)[:LARGEST]
    unknown = sum(int(tokens.counts[UNKNOWN]) for tokens in found.values())
    every = sum(tokens.total for tokens in found.values())
    report = {
        "pieces": tokenizer.get_vocab_size(),
        "texts": sum(map(len, texts.values())),
        "tokens": every,
        "unknown": {"training_texts": unknown, "random_texts": int(random.counts[UNKNOWN])},
        "tokens_per_character": {
            language: _ratio(found[language].total, found[language].characters)
            for language in largest
        },
        "byte_tokens": _ratio(sum(tokens.in_bytes for tokens in found.values()), every),
        "byte_tokens_by_language": _shares_of_bytes(found),
    }
    if old is not None and ENGLISH in found:
        report["english"] = compare(tokenizer, found[ENGLISH], texts[ENGLISH], old)
    return report


def compare(
    tokenizer: Tokenizer, tokens: Tokens, texts: Sequence[str], old: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """English with the old vocabulary and the new: pieces in both, and tokens a word."""
    pieces = [str(tokenizer.id_to_token(n)) for n in range(tokenizer.get_vocab_size())]
    equal = list(equal_pieces(pieces, old.get_vocab(), SPECIAL))
    backend = Tokenizer.from_str(old.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    before = count_tokens(backend, texts)
    return {
        "overlap_pieces": len(equal),
        "overlap_of_running_tokens": _ratio(int(tokens.counts[equal].sum()), tokens.total),
        "tokens_per_word": _ratio(tokens.total, tokens.words),
        "tokens_per_word_old": _ratio(before.total, before.words),
    }


def _shares_of_bytes(found: Mapping[str, Tokens]) -> dict[str, float]:
    """The languages with byte tokens, those with the largest share of them first."""
    shares = {language: _ratio(tokens.in_bytes, tokens.total) for language, tokens in found.items()}
    return dict(_largest_first((language, part) for language, part in shares.items() if part))


def _largest_first(shares: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(shares, key=lambda each: (-each[1], each[0]))


def _ratio(part: int, whole: int) -> float:
    return round(part / whole, 5) if whole else 0.0
