"""The unigram learner against slow, obvious ways to do the same."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from trainer_scripts import script

unigram = script("unigram")


def make_words(seed: int) -> dict[str, float]:
    chance = random.Random(seed)
    parts = ["ab", "abc", "cab", "bb", "a", "c", "dd", "dab"]
    words = ("".join(chance.choices(parts, k=chance.randint(1, 4))) for _ in range(200))
    return {word: chance.choice([0.5, 1.0, 3.0]) for word in words}


def ways(word: str) -> list[list[str]]:
    cuts = (c for n in range(len(word)) for c in itertools.combinations(range(1, len(word)), n))
    return [[word[a:b] for a, b in zip((0, *c), (*c, len(word)), strict=True)] for c in cuts]


def test_parts_and_their_counts() -> None:
    words = make_words(1)
    laid = unigram.lay_out(words, "abcd")
    found = {
        text: weight
        for parts in unigram.frequent_parts(laid, "abcd", 5.0)
        for text, weight in zip(parts.texts, parts.counts, strict=True)
    }
    expected: Counter[str] = Counter()
    for word, weight in words.items():
        for start, end in itertools.combinations(range(len(word) + 1), 2):
            expected[word[start:end]] += weight
    expected = Counter({t: w for t, w in expected.items() if w >= 5 or len(t) == 1})
    assert found == pytest.approx(dict(expected))


def test_the_best_way_through_a_word() -> None:
    words = make_words(2)
    learner = unigram.UnigramLearner(words, "abcd", least=4.0)
    scores = dict(zip(learner.texts, learner._scores, strict=True))
    expected: Counter[str] = Counter()
    for word, weight in words.items():
        known = [way for way in ways(word) if all(piece in scores for piece in way)]
        for piece in max(known, key=lambda way: sum(scores[piece] for piece in way)):
            expected[piece] += weight
    counts = learner._lattice.counts(learner._scores)
    found = {text: n for text, n in zip(learner.texts, counts, strict=True) if n}
    assert found == pytest.approx(dict(expected))


def test_the_tokenizers_package_cuts_words_in_the_same_way() -> None:
    words = make_words(3)
    learner = unigram.UnigramLearner(words, "abcd", least=2.0)
    learned = learner.learn(12)
    assert len(learned.texts) == 12 and list(learned.scores) == sorted(learned.scores)[::-1]
    pairs = list(zip(learned.texts, learned.scores.tolist(), strict=True))
    tokenizer = Tokenizer(models.Unigram([("?", 0.0), *pairs], 0, False))
    expected: Counter[str] = Counter()
    for word, weight in words.items():
        for piece in tokenizer.encode(word).tokens:
            expected[piece] += weight
    counts = learner._lattice.counts(learner._scores)
    found = {text: n for text, n in zip(learner.texts, counts, strict=True) if n}
    assert found == pytest.approx(dict(expected))


def test_what_is_dropped_is_missed_least() -> None:
    words = make_words(4)

    def loss(pieces: list[str], scores: np.ndarray) -> float:
        known = dict(zip(pieces, scores, strict=True))
        best = (
            max(sum(known.get(p, -math.inf) for p in way) for way in ways(word)) for word in words
        )
        return -sum(w * b for w, b in zip(words.values(), best, strict=True))

    learned = unigram.UnigramLearner(words, "abcd", least=2.0).learn(9)
    letters = unigram.UnigramLearner(words, "abcd", least=2.0).learn(4)
    assert sorted(letters.texts) == list("abcd")
    assert loss(*learned) < 0.8 * loss(*letters)
    assert {"ab", "abc"} & set(learned.texts)


def test_a_round_drops_what_is_missed_least() -> None:
    """Of a piece, what its places lose where the best other way to spell it takes them."""
    learner = unigram.UnigramLearner(make_words(4), "abcd", least=2.0)
    counts = learner._estimate()
    scores = dict(zip(learner.texts, learner._scores, strict=True))
    losses = {}
    for text, count in zip(learner.texts, counts, strict=True):
        others = [w for w in ways(text) if len(w) > 1 and all(piece in scores for piece in w)]
        if others:
            instead = max(sum(scores[piece] for piece in way) for way in others)
            losses[text] = count * (scores[text] - instead)
    learner._shrink(counts, 40)  # far enough that what is dropped is missed
    dropped = scores.keys() - set(learner.texts)
    assert len(learner.texts) == 40
    kept = losses.keys() - dropped
    assert max(losses[text] for text in dropped) <= min(losses[text] for text in kept)


def test_required_avoided_and_forbidden_pieces() -> None:
    words = {"_cat": 50.0, "_cats": 40.0, "_car": 30.0, "_a": 9.0, "cat": 20.0}
    learner = unigram.UnigramLearner(
        words,
        set("_cats" + "r"),
        least=2.0,
        required=["_carts"],
        avoided=["_"],
        allowed=lambda part: "at" not in part,
    )
    learned = learner.learn(10)
    scores = dict(zip(learned.texts, learned.scores, strict=True))
    assert not any("at" in text for text in learned.texts)
    best = max(
        (way for way in ways("_carts") if all(piece in scores for piece in way)),
        key=lambda way: sum(scores[piece] for piece in way),
    )
    assert best == ["_carts"]
    assert scores["_"] == pytest.approx(min(scores.values()))
    assert "_c" in scores or "_ca" in scores


def test_long_words_and_foreign_characters_are_cut() -> None:
    laid = unigram.lay_out({"ab?cd": 1.0, "a" * 100: 2.0, "?": 5.0}, "abcd")
    lengths = laid.places[laid.ends].tolist()
    assert sorted(lengths) == [2, 2, 4, unigram.LONGEST_WORD]
    assert laid.weights[laid.ends][lengths.index(unigram.LONGEST_WORD)] == 4
