"""The texts of one step: which questions and negatives of its passages, and what is no negative."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np

from m3search.records import BoolArray, FloatArray, IntArray
from m3search.training.keys import text_key
from m3search.training.recipe import Data
from m3search.training.sources import Passage, Question

SHUFFLED_FROM = 100
"""characters: shorter passages are never cut and joined in another order"""


class Batch(NamedTuple):
    """Texts of one training step, of all processes together."""

    queries: list[str]
    passages: list[str]
    """the distinct passages: positives first, then hard negatives"""
    targets: IntArray
    """(Q,) for each query the place of its positive in `passages`"""
    masked: BoolArray
    """(Q, P) what is no negative of a query: another positive of it, or its own by another name"""
    candidates: IntArray
    """(Q, G) places of the passages that a teacher has scored for each query, -1 behind the last"""
    teacher_scores: FloatArray
    """(Q, G) its scores of them, 0 where there is none"""


class _Texts:
    """The distinct texts of a batch, in order of appearance."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.keys: list[bytes] = []
        self._places: dict[bytes, list[int]] = {}

    def place(self, written: str, text: str) -> int:
        """The number of a text as it is written, known by the key of what it says."""
        number = self.numbers.setdefault(written, len(self.numbers))
        if number == len(self.keys):
            self.keys.append(text_key(text))
            self._places.setdefault(self.keys[-1], []).append(number)
        return number

    def places_of(self, key: bytes) -> list[int]:
        """The numbers of all texts that say the same."""
        return self._places.get(key, [])


def draw(
    passages: Sequence[Passage],
    data: Data,
    rng: random.Random,
    positives: Mapping[str, AbstractSet[bytes]],
    *,
    own_negatives_only: bool = False,
) -> Batch:
    """Up to `queries_per_passage` questions of each passage and `negatives` of their negatives.

    A passage stands once in a batch, for all its questions. positives: for each query the keys of
    all its passages, here or elsewhere, which are never its negatives. `own_negatives_only` masks
    the passages and negatives of other questions.
    """
    texts = _Texts()
    places = [texts.place(written(passage, data, rng), passage.text) for passage in passages]
    asked: list[tuple[int, Question]] = []
    drawn: list[dict[str, int]] = []
    for number, passage in enumerate(passages):
        count = min(data.queries_per_passage, len(passage.questions))
        questions = rng.sample(passage.questions, count)
        pool = list(dict.fromkeys(text for question in questions for text in question.negatives))
        chosen = rng.sample(pool, min(data.negatives, len(pool)))
        drawn.append({text: texts.place(text, text) for text in chosen})
        asked += [(number, question) for question in questions]
    targets = np.array([places[number] for number, _ in asked], np.int64)
    masked = np.zeros((len(asked), len(texts.keys)), dtype=bool)
    for row, (number, question) in enumerate(asked):
        for key in positives.get(question.text, frozenset()):
            masked[row, texts.places_of(key)] = True
        if own_negatives_only:
            own = {drawn[number].get(text, -1) for text in question.negatives}
            masked[row] |= ~np.isin(np.arange(len(texts.keys)), list(own))
        masked[row, targets[row]] = False
    queries = [question.text for _, question in asked]
    return Batch(
        queries, list(texts.numbers), targets, masked, *_taught(asked, places, drawn, masked)
    )


def _taught(
    asked: Sequence[tuple[int, Question]],
    places: Sequence[int],
    drawn: Sequence[dict[str, int]],
    masked: BoolArray,
) -> tuple[IntArray, FloatArray]:
    """Candidates (Q, G) and a teacher's scores of them, G = 0 where no question has any.

    What is masked is no candidate: its masked score would be the whole loss.
    """
    lines: list[list[tuple[int, float]]] = []
    for row, (number, question) in enumerate(asked):
        line: list[tuple[int, float]] = []
        if question.score is not None:
            line.append((places[number], question.score))
            scored = zip(question.negatives, question.negative_scores, strict=True)
            found = ((drawn[number].get(text, -1), score) for text, score in scored)
            line += [(at, score) for at, score in found if at >= 0 and not masked[row, at]]
        lines.append(line)
    width = max(map(len, lines), default=0)
    candidates = np.full((len(lines), width), -1, np.int64)
    scores = np.zeros((len(lines), width), np.float32)
    for row, line in enumerate(lines):
        candidates[row, : len(line)] = [place for place, _ in line]
        scores[row, : len(line)] = [score for _, score in line]
    return candidates, scores


def written(passage: Passage, data: Data, rng: random.Random) -> str:
    """The passage as it is read this time: perhaps with its title, perhaps in another order."""
    text = passage.text
    if len(text) > SHUFFLED_FROM and rng.random() < data.shuffle_probability:
        third = -(-len(text) // 3)
        parts = [text[start : start + third] for start in range(0, len(text), third)]
        rng.shuffle(parts)
        text = " ".join(parts)
    if passage.title and rng.random() < data.title_probability:
        return f"{passage.title}\n{text}"
    return text
