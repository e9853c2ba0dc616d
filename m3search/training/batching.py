"""Which passages meet in which batch, and what is drawn with them.

Everything is a function of (seed, step): a run that is stopped and resumed sees the same batches as
one that was not, with no sampler state to keep.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from m3search.training.data import Corpus, Passage
from m3search.training.recipe import Batches, Data


class Batch(NamedTuple):
    """Texts of one training step."""

    queries: list[str]
    passages: list[str]
    """the distinct passages: positives first, then hard negatives"""
    targets: list[int]
    """for each query the index of its positive in `passages`"""
    masked: list[tuple[int, int]]
    """(query, passage) that are no negatives: another positive of the query"""


class Sampler:
    """Batches of one source each, in a seeded order that mixes the sources."""

    def __init__(self, corpora: Sequence[Corpus], data: Data, batches: Batches, seed: int) -> None:
        self._corpora = corpora
        self._data = data
        self._batches = batches
        self._seed = seed
        self._positives: dict[str, set[str]] = {}
        for corpus in corpora:
            for passage in corpus.passages:
                for query in passage.queries:
                    self._positives.setdefault(query, set()).add(_key(passage.text))
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over all sources."""
        return len(self._epoch(0))

    def batch(self, step: int) -> Batch:
        """The batch of an optimiser step, counted from 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        corpus, numbers = self._epoch(epoch)[index]
        rng = random.Random(f"{self._seed}:{step}")
        return self._draw([self._corpora[corpus].passages[i] for i in numbers], rng)

    def _plan_epoch(self, epoch: int) -> list[tuple[int, list[int]]]:
        """(source, passage numbers) of every batch; the count is the same in every epoch."""
        plan: list[tuple[int, list[int]]] = []
        for number, corpus in enumerate(self._corpora):
            rng = random.Random(f"{self._seed}:{epoch}:{number}")
            chosen = _choose(len(corpus.passages), corpus.source.weight, rng)
            order = _shuffle_runs(chosen, self._batches.neighbours, rng)
            parts = max(1, round(len(order) / self._batches.passages))
            cuts = [len(order) * part // parts for part in range(parts + 1)]
            plan.extend((number, order[a:b]) for a, b in pairwise(cuts))
        random.Random(f"{self._seed}:{epoch}").shuffle(plan)
        return plan

    def _draw(self, positives: list[Passage], rng: random.Random) -> Batch:
        texts: dict[str, int] = {}
        owners: dict[int, str] = {}
        queries: list[str] = []
        targets: list[int] = []
        for passage in positives:
            target = texts.setdefault(self._text(passage, rng), len(texts))
            owners[target] = _key(passage.text)
            count = min(self._data.queries_per_passage, len(passage.queries))
            for query in rng.sample(passage.queries, count):
                queries.append(query)
                targets.append(target)
        for passage in positives:
            count = min(self._data.negatives, len(passage.negatives))
            for text in rng.sample(passage.negatives, count):
                owners[texts.setdefault(text, len(texts))] = _key(text)
        masked = [
            (i, index)
            for i, query in enumerate(queries)
            for index, key in owners.items()
            if index != targets[i] and key in self._positives[query]
        ]
        return Batch(queries, list(texts), targets, masked)

    def _text(self, passage: Passage, rng: random.Random) -> str:
        if passage.title and rng.random() < self._data.title_probability:
            return f"{passage.title}\n{passage.text}"
        return passage.text


def _choose(count: int, weight: float, rng: random.Random) -> list[int]:
    """round(weight * count) passage numbers in file order: whole passes, then a random part."""
    passes, rest = divmod(max(1, round(weight * count)), count)
    return list(range(count)) * passes + sorted(rng.sample(range(count), rest))


def _shuffle_runs(numbers: list[int], run: int, rng: random.Random) -> list[int]:
    """The numbers in runs of `run` that stay together, the runs in random order.

    The first run is cut at random, so that other neighbours meet in every epoch.
    """
    cuts = [0, *range(rng.randrange(1, run + 1), len(numbers), run), len(numbers)]
    runs = [numbers[a:b] for a, b in pairwise(cuts)]
    rng.shuffle(runs)
    return [number for part in runs for number in part]


def _key(text: str) -> str:
    """A short stand-in for a text, the same for texts that differ in spaces only."""
    return hashlib.blake2b(" ".join(text.split()).encode(), digest_size=12).hexdigest()
