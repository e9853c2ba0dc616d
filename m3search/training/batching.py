"""Which passages meet in which step.

Everything is a function of (seed, step): a run that is stopped and resumed sees the same batches as
one that was not, with no sampler state to keep, and so does every process of a run on several.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, pairwise

from m3search.records import IntArray
from m3search.training.drawing import Batch, Known, draw, written
from m3search.training.recipe import Batches, Data
from m3search.training.sources import Corpus


class Sampler:
    """Batches of passages of similar length, in a seeded order that mixes the sources."""

    def __init__(
        self,
        corpora: Sequence[Corpus],
        lengths: Sequence[IntArray],
        data: Data,
        batches: Batches,
        seed: int,
    ) -> None:
        """`lengths`: for each corpus the tokens of every passage."""
        self._corpora = corpora
        self._lengths = lengths
        self._data = data
        self._batches = batches
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)
        self._ends: list[int] = []  # steps up to the end of each epoch that was planned
        self._known = Known.of(chain.from_iterable(corpus.passages for corpus in corpora))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the first pass over all sources; others have as many, or nearly."""
        return len(self._epoch(0))

    @property
    def most_passages(self) -> int:
        """Positive passages of the largest batch of the first epoch."""
        return max(map(len, self._epoch(0)))

    @property
    def steps_of_one(self) -> int:
        """Batches of one positive passage in the first epoch, those of texts alone left out."""
        return sum(
            len(batch) == 1 and not self._corpora[batch[0][0]].source.texts
            for batch in self._epoch(0)
        )

    def batch(self, step: int) -> Batch:
        """The batch of an optimiser step, counted from 0."""
        numbers = self._numbers(step)
        own_only = not self._corpora[numbers[0][0]].source.in_batch_negatives
        return draw(
            [self._corpora[corpus].passages[number] for corpus, number in numbers],
            self._data,
            random.Random(f"{self._seed}:{step}"),
            self._known,
            own_negatives_only=own_only,
        )

    def texts(self, step: int) -> list[str]:
        """The passages of a step alone, as they are read, for training without pairs."""
        rng = random.Random(f"{self._seed}:{step}")
        numbers = self._numbers(step)
        return [
            written(self._corpora[corpus].passages[number], self._data, rng)
            for corpus, number in numbers
        ]

    def _numbers(self, step: int) -> list[tuple[int, int]]:
        """(corpus, passage) of every positive passage of a step."""
        while not self._ends or step >= self._ends[-1]:
            steps = len(self._epoch(len(self._ends)))
            self._ends.append(steps + (self._ends[-1] if self._ends else 0))
        epoch = bisect_left(self._ends, step + 1)
        return self._epoch(epoch)[step - (self._ends[epoch - 1] if epoch else 0)]

    def _plan_epoch(self, epoch: int) -> list[list[tuple[int, int]]]:
        """The passages of every batch of one pass over all sources."""
        plan: list[list[tuple[int, int]]] = []
        for number, group in enumerate(self._groups()):
            rng = random.Random(f"{self._seed}:{epoch}:{number}")
            runs: list[list[tuple[int, int]]] = []
            for corpus in group:
                source, count = self._corpora[corpus].source, len(self._corpora[corpus].passages)
                chosen = _choose(count, source.weight, rng)
                for run in _cut_runs(chosen, self._batches.neighbours, rng):
                    runs.append([(corpus, passage) for passage in run])
            rng.shuffle(runs)
            plan.extend(self._fill(runs))
        random.Random(f"{self._seed}:{epoch}").shuffle(plan)
        return plan

    def _groups(self) -> list[list[int]]:
        """Corpora whose passages may meet in a batch."""
        numbers = range(len(self._corpora))
        if self._batches.same_source:
            return [[number] for number in numbers]
        mixed = [n for n in numbers if self._corpora[n].source.in_batch_negatives]
        alone = [[n] for n in numbers if not self._corpora[n].source.in_batch_negatives]
        return ([mixed] if mixed else []) + alone

    def _fill(self, runs: list[list[tuple[int, int]]]) -> Iterator[list[tuple[int, int]]]:
        """Batches of one bucket each; what does not fill one joins the next longer bucket."""
        buckets: dict[int, list[list[tuple[int, int]]]] = {}
        for run in runs:
            longest = max(int(self._lengths[corpus][passage]) for corpus, passage in run)
            buckets.setdefault(bisect_left(self._batches.buckets, longest), []).append(run)
        rest: list[tuple[int, int]] = []
        for bucket in sorted(buckets):
            rest += [passage for run in buckets[bucket] for passage in run]
            size = self._size(bucket)
            whole = len(rest) // size * size
            yield from (rest[start : start + size] for start in range(0, whole, size))
            rest = rest[whole:]
        if rest:
            yield rest

    def _size(self, bucket: int) -> int:
        """Passages of a batch of this bucket."""
        if self._batches.tokens is None:
            return self._batches.passages
        longest = self._data.passage_max_length
        if bucket < len(self._batches.buckets):
            longest = min(longest, self._batches.buckets[bucket])
        return max(1, min(self._batches.passages, self._batches.tokens // longest))


def _choose(count: int, weight: float, rng: random.Random) -> list[int]:
    """round(weight * count) passage numbers in file order: whole passes, then a random part."""
    passes, rest = divmod(max(1, round(weight * count)), count)
    return list(range(count)) * passes + sorted(rng.sample(range(count), rest))


def _cut_runs(numbers: list[int], run: int, rng: random.Random) -> list[list[int]]:
    """The numbers in runs of `run` that stay together.

    The first run is cut at random, so that other neighbours meet in every epoch.
    """
    cuts = [0, *range(rng.randrange(1, run + 1), len(numbers), run), len(numbers)]
    return [numbers[a:b] for a, b in pairwise(cuts)]
