"""The texts of one step: which questions and negatives of its passages, and what is no negative."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
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
    """the distinct passages as they are read: positives first, then hard negatives"""
    targets: IntArray
    """(Q,) for each query the place of its positive in `passages`"""
    masked: BoolArray
    """(Q, P) what is no negative of a query: another positive of it, or what says the same as it"""
    candidates: IntArray
    """(Q, G) places of the passages that a teacher has scored for each query, -1 behind the last"""
    teacher_scores: FloatArray
    """(Q, G) its scores of them, 0 where there is none"""


class Known(NamedTuple):
    """What the sources say of texts, wherever they stand in them, by `text_key`."""

    positives: Mapping[bytes, AbstractSet[bytes]]
    """of a query: all its passages, as they are and with their titles before them"""
    passages: Mapping[bytes, Passage]
    """of a passage, with or without its title before it: the passage"""

    @classmethod
    def of(cls, passages: Iterable[Passage]) -> Known:
        """From all passages of all sources."""
        positives: dict[bytes, set[bytes]] = {}
        found: dict[bytes, Passage] = {}
        for passage in passages:
            forms = [text_key(passage.text)]
            if passage.title:
                forms.append(text_key(f"{passage.title}\n{passage.text}"))
            for form in forms:
                found.setdefault(form, passage)
            for question in passage.questions:
                positives.setdefault(text_key(question.text), set()).update(forms)
        return cls(positives, found)


class _Texts:
    """The distinct passages of a batch, in order of appearance, each as it is read this time."""

    def __init__(self, data: Data, rng: random.Random) -> None:
        self.written: list[str] = []
        self._data, self._rng = data, rng
        self._places: dict[bytes, int] = {}

    def place(self, passage: Passage) -> int:
        """The number of a passage, which gets the next one where it is new."""
        key = text_key(passage.text)
        if key not in self._places:
            self._places[key] = len(self.written)
            self.written.append(written(passage, self._data, self._rng))
        return self._places[key]

    def places_of(self, keys: Iterable[bytes]) -> list[int]:
        """The numbers of the texts with these keys that are there."""
        return [self._places[key] for key in keys if key in self._places]


def draw(
    passages: Sequence[Passage],
    data: Data,
    rng: random.Random,
    known: Known,
    *,
    own_negatives_only: bool = False,
) -> Batch:
    """Up to `queries_per_passage` questions of each passage and `negatives` of their negatives.

    A passage stands once in a batch, for all its questions; a negative that is a passage of the
    sources is read as one, with its title or without, and so is one that brings a title. What
    `known` says to be a query's passage, here or elsewhere, is never its negative, nor is a passage
    that says what the query says.
    `own_negatives_only` masks the passages and negatives of other questions.
    """
    texts = _Texts(data, rng)
    places = [texts.place(passage) for passage in passages]
    asked: list[tuple[int, Question]] = []
    drawn: list[dict[str, int]] = []
    for number, passage in enumerate(passages):
        count = min(data.queries_per_passage, len(passage.questions))
        questions = rng.sample(passage.questions, count)
        pool = list(dict.fromkeys(text for question in questions for text in question.negatives))
        chosen = rng.sample(pool, min(data.negatives, len(pool)))
        titles = {k: v for question in questions for k, v in question.titles().items()}
        found = (
            known.passages.get(text_key(text), Passage(text, titles.get(text, "")))
            for text in chosen
        )
        drawn.append(dict(zip(chosen, map(texts.place, found), strict=True)))
        asked += [(number, question) for question in questions]
    targets = np.array([places[number] for number, _ in asked], np.int64)
    masked = np.zeros((len(asked), len(texts.written)), dtype=bool)
    for row, (number, question) in enumerate(asked):
        query = text_key(question.text)
        masked[row, texts.places_of({query, *known.positives.get(query, ())})] = True
        if own_negatives_only:
            own = {drawn[number].get(text, -1) for text in question.negatives}
            masked[row] |= ~np.isin(np.arange(len(texts.written)), list(own))
        masked[row, targets[row]] = False
    queries = [question.text for _, question in asked]
    return Batch(queries, texts.written, targets, masked, *_taught(asked, places, drawn, masked))


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
            for text, score in scored:
                place = drawn[number].get(text, -1)
                if place >= 0 and not masked[row, place] and place not in dict(line):
                    line.append((place, score))
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
