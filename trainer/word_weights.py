"""The words that a vocabulary is learned from, with the weights of their languages."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from language_shares import REPEATS, fair_shares
from text_splitting import SPACE, Splitting
from tooling import showing
from unigram import LONGEST_PIECE

PRIOR = 0.3
"""the weight of the old English words by Zipf's law, beside that of the English texts"""


class Sample(NamedTuple):
    """The texts of a language to learn from, and how often each counts."""

    texts: list[str]
    weight: float


def choose(
    texts: Mapping[str, Sequence[str]], shares: Mapping[str, float], characters: int, seed: int
) -> dict[str, Sample]:
    """Of each language random texts up to its share of the characters, or all, with a weight."""
    amounts = {language: sum(map(len, found)) for language, found in texts.items()}
    samples: dict[str, Sample] = {}
    for language, part in fair_shares(amounts, shares).items():
        random = np.random.default_rng([seed, zlib.crc32(language.encode())])
        found, wanted = texts[language], part * characters
        chosen: list[str] = []
        reached = 0
        for place in random.permutation(len(found)):
            if reached >= wanted:
                break
            chosen.append(found[place])
            reached += len(found[place])
        samples[language] = Sample(chosen, min(wanted / max(reached, 1), REPEATS))
    return samples


def count_words(samples: Mapping[str, Sample]) -> dict[str, Counter[str]]:
    """How often each language's sample has each word, unweighted."""
    splitting = Splitting()
    counts: dict[str, Counter[str]] = {}
    for language in showing(sorted(samples), "languages", "words"):
        counts[language] = Counter()
        for text in samples[language].texts:
            counts[language].update(splitting.words(text))
    return counts


def old_words(old: Iterable[str], english: Mapping[str, float]) -> dict[str, float]:
    """The weights of the old vocabulary's English words: their counts, and Zipf's law.

    old: pieces in the order of the vocabulary, which is about that of frequency.
    """
    splitting = Splitting()
    words = [f"{SPACE}{piece}" for piece in old if piece.isascii() and piece.isalpha()]
    words = [word for word in words if 2 < len(word) <= LONGEST_PIECE]
    words = [word for word in words if splitting.words(word[1:]) == [word]]
    zipf = 1 / np.arange(1, len(words) + 1)
    zipf *= PRIOR * sum(english.values()) / max(zipf.sum(), 1.0)
    return {w: english.get(w, 0.0) + more for w, more in zip(words, zipf.tolist(), strict=True)}


def weigh(samples: Mapping[str, Sample], counts: Mapping[str, Counter[str]]) -> dict[str, float]:
    """The weight of each word over all languages."""
    weights: dict[str, float] = {}
    for language, of_language in counts.items():
        factor = samples[language].weight
        for word, number in of_language.items():
            weights[word] = weights.get(word, 0.0) + factor * number
    return weights
