"""Which passages meet in a step: partition, buckets, token budget, sources, and determinism."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3search.training.batching import Sampler
from m3search.training.drawing import Batch
from m3search.training.inputs import Batches, Data, Source
from m3search.training.sources import Corpus, Passage, Question

LONGEST = 100


def corpus_of(name: str, count: int, **source: Any) -> Corpus:
    """Passages a0, a1, ... of one question each, titled."""
    passages = [
        Passage(f"{name}{i}", "T", (Question(f"on {name}{i}", (f"no {name}{i}",)),))
        for i in range(count)
    ]
    return Corpus(Source(f"{name}.jsonl", **source), (f"{name}.jsonl",), tuple(passages), name)


def make_sampler(
    corpora: Sequence[Corpus],
    lengths: Sequence[Sequence[int]] | None = None,
    seed: int = 1,
    data: dict[str, Any] | None = None,
    **batches: Any,
) -> Sampler:
    """By default every passage has 10 tokens."""
    found = lengths or [[10] * len(corpus.passages) for corpus in corpora]
    common = {"passage_max_length": LONGEST, "title_probability": 0.0, "negatives": 1}
    options = common | (data or {})
    return Sampler(
        corpora,
        [np.array(each, np.int64) for each in found],
        Data(tuple(corpus.source for corpus in corpora), **options),
        Batches(**{"passages": 4} | batches),
        seed,
    )


def positives(batch: Batch) -> list[str]:
    return [batch.passages[target] for target in batch.targets]


def epoch_of(sampler: Sampler) -> list[list[str]]:
    """The positive passages of every step of the first pass."""
    return [positives(sampler.batch(step)) for step in range(sampler.steps_per_epoch)]


def told(batch: Batch) -> list[Any]:
    return [part if isinstance(part, list) else part.tolist() for part in batch]


shapes = st.fixed_dictionaries(
    {
        "passages": st.integers(1, 7),
        "tokens": st.none() | st.integers(1, 400),
        "buckets": st.lists(st.integers(1, 130), unique=True, max_size=5).map(
            lambda limits: tuple(sorted(limits))
        ),
        "neighbours": st.integers(1, 4),
        "same_source": st.booleans(),
    }
)
all_lengths = st.lists(
    st.lists(st.integers(3, LONGEST), min_size=1, max_size=25), min_size=1, max_size=3
)


@settings(max_examples=150, deadline=None)
@given(shapes, all_lengths, st.integers(0, 5), st.integers(0, 7))
def test_every_epoch_is_a_partition_into_batches_of_similar_length(
    shape: dict[str, Any], lengths: list[list[int]], seed: int, mixing: int
) -> None:
    corpora = [
        corpus_of("abc"[i], len(each), in_batch_negatives=bool(mixing >> i & 1))
        for i, each in enumerate(lengths)
    ]
    known = {f"{'abc'[c]}{i}": n for c, each in enumerate(lengths) for i, n in enumerate(each)}
    sampler = make_sampler(corpora, lengths, seed, **shape)
    step = 0
    for _ in range(2):
        seen: list[str] = []
        while len(seen) < len(known):
            batch = positives(sampler.batch(step))
            check_batch(batch, [known[text] for text in batch], shape, mixing)
            seen += batch
            step += 1
        assert sorted(seen) == sorted(known)


def check_batch(batch: list[str], lengths: list[int], shape: dict[str, Any], in_batch: int) -> None:
    assert 1 <= len(batch) <= shape["passages"]
    buckets = shape["buckets"]
    place = bisect_left(buckets, max(lengths))
    limit = min(LONGEST, buckets[place]) if place < len(buckets) else LONGEST
    assert max(lengths) <= limit
    if shape["tokens"] is not None:
        assert len(batch) * limit <= shape["tokens"] or len(batch) == 1
    sources = {text[0] for text in batch}
    if len(sources) > 1:
        assert not shape["same_source"]
        assert all(in_batch >> "abc".index(source) & 1 for source in sources)


@settings(max_examples=100, deadline=None)
@given(shapes, st.lists(st.integers(3, LONGEST), min_size=1, max_size=40))
def test_only_leftovers_leave_their_bucket(shape: dict[str, Any], lengths: list[int]) -> None:
    shape = shape | {"neighbours": 1}
    sampler = make_sampler([corpus_of("a", len(lengths))], [lengths], **shape)
    buckets = [bisect_left(shape["buckets"], length) for length in lengths]
    batches = [[buckets[int(text[1:])] for text in batch] for batch in epoch_of(sampler)]
    mixed = [batch for batch in batches if len(set(batch)) > 1]
    assert len(mixed) < len(set(buckets))
    if shape["tokens"] is None:
        not_full = [batch for batch in batches if len(batch) < shape["passages"]]
        assert len(batches) == -(-len(lengths) // shape["passages"])
        assert len(not_full) <= 1
        assert all(max(batch) == max(buckets) for batch in not_full)


def test_long_texts_make_smaller_batches() -> None:
    lengths = [10] * 16 + [40] * 8 + [100] * 4
    sampler = make_sampler(
        [corpus_of("a", 28)], [lengths], passages=8, tokens=200, buckets=(20, 50, 500)
    )
    sizes = Counter(
        (lengths[int(batch[0][1:])], len(batch)) for batch in epoch_of(sampler)
    )  # of 200 / 20 at most 8; 200 / 50; 200 / the longest that is read
    assert sizes == {(10, 8): 2, (40, 4): 2, (100, 2): 2}


def test_an_epoch_holds_every_passage_once() -> None:
    sampler = make_sampler([corpus_of("a", 16)], passages=5)
    assert sampler.steps_per_epoch == 4
    for epoch in range(2):
        batches = [sampler.batch(epoch * 4 + step) for step in range(4)]
        assert sorted(chain.from_iterable(map(positives, batches))) == sorted(
            f"a{i}" for i in range(16)
        )
        for batch in batches:
            assert batch.queries == [f"on {text}" for text in positives(batch)]
            negatives = batch.passages[len(batch.queries) :]
            assert sorted(negatives) == sorted(f"no {text}" for text in positives(batch))


def test_every_epoch_has_another_order() -> None:
    sampler = make_sampler([corpus_of("a", 16)], passages=4)
    epochs = [[positives(sampler.batch(e * 4 + step)) for step in range(4)] for e in range(3)]
    assert len({repr(epoch) for epoch in epochs}) == 3
    first = {frozenset(batch) for batch in epochs[0]}
    assert not first & {frozenset(batch) for batch in epochs[1]}  # other passages meet, too


def test_steps_come_in_another_order_in_every_epoch() -> None:
    corpora = [corpus_of(name, 4) for name in "abcdefgh"]
    sampler = make_sampler(corpora, passages=4)  # a source is one batch
    orders = [[positives(sampler.batch(8 * e + n))[0][0] for n in range(8)] for e in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list("abcdefgh") for order in orders)


def test_batches_follow_from_seed_and_step_alone() -> None:
    corpora = [corpus_of("a", 16), corpus_of("b", 9)]
    data = {"title_probability": 0.5, "negatives": 1}
    one, two, other = (make_sampler(corpora, seed=seed, data=data) for seed in (1, 1, 2))
    straight = [told(one.batch(step)) for step in range(14)]
    assert [told(two.batch(step)) for step in reversed(range(14))][::-1] == straight
    assert straight[:7] != straight[7:]
    assert told(other.batch(0)) != straight[0]


def test_epochs_of_different_size_follow_each_other_whoever_asks_first() -> None:
    corpora = [corpus_of("a", 20, weight=0.4), corpus_of("b", 7, weight=1.5)]
    lengths = [[20, 90] * 10, [20] * 7]
    shape = {"passages": 6, "tokens": 200, "buckets": (50,)}
    samplers = [make_sampler(corpora, lengths, **shape) for _ in range(3)]
    sizes = [len(samplers[0]._plan_epoch(epoch)) for epoch in range(8)]
    assert len(set(sizes)) > 1
    straight = [told(samplers[0].batch(step)) for step in range(sum(sizes))]
    assert told(samplers[1].batch(sum(sizes) - 1)) == straight[-1]
    for step in (sum(sizes) // 2, 0, sum(sizes) - 2, 3):
        assert told(samplers[1].batch(step)) == straight[step]
    assert samplers[2].steps_per_epoch == sizes[0]
    start = 0
    for epoch, size in enumerate(sizes):
        queries = Counter(q for batch in straight[start : start + size] for q in batch[0])
        of_a = sum(count for query, count in queries.items() if query.startswith("on a"))
        assert (of_a, queries.total()) == (8, 8 + 10), epoch
        assert max(count for query, count in queries.items() if "a" in query) == 1
        start += size


@pytest.mark.parametrize(
    ("weight", "taken", "most"), [(2.5, 40, 3), (2.0, 32, 2), (0.5, 8, 1), (0.001, 1, 1)]
)
def test_repeated_and_partial_sources(weight: float, taken: int, most: int) -> None:
    sampler = make_sampler([corpus_of("a", 16, weight=weight)], passages=1)
    assert sampler.steps_per_epoch == taken
    counts = Counter(text for batch in epoch_of(sampler) for text in batch)
    assert counts.total() == taken
    assert max(counts.values()) == most
    assert min(counts.values()) >= int(weight)
    later = [positives(sampler.batch(step)) for step in range(taken, 2 * taken)]
    assert (Counter(chain.from_iterable(later)) == counts) == (weight == 2)


def test_neighbours_stay_together() -> None:
    sampler = make_sampler([corpus_of("a", 16)], neighbours=4, passages=8)
    places = [[int(text[1:]) for text in batch] for batch in epoch_of(sampler)]
    adjacent = sum(b == a + 1 for batch in places for a, b in pairwise(batch))
    assert adjacent >= 10  # a run of four has three; alone, one in 16 would follow
    starts: set[int] = set()
    for step in range(40):
        numbers = [int(text[1:]) for text in positives(sampler.batch(step))]
        starts |= {b for a, b in pairwise([-9, *numbers]) if b != a + 1}
    assert len(starts) > 8  # the runs of other epochs begin elsewhere


def test_a_step_has_one_source_unless_they_may_mix() -> None:
    names = ("a", "b", "c", "d")
    corpora = [corpus_of(name, 9, in_batch_negatives=name in "ab") for name in names]
    apart = [{text[0] for text in batch} for batch in epoch_of(make_sampler(corpora))]
    assert Counter(map(frozenset, apart)) == {frozenset(name): 3 for name in names}
    sampler = make_sampler(corpora, same_source=False)
    mixed = [{text[0] for text in batch} for batch in epoch_of(sampler)]
    assert {"a", "b"} in mixed
    assert all(sources <= {"a", "b"} or len(sources) == 1 for sources in mixed)
    assert sum(sources <= {"a", "b"} for sources in mixed) == 5  # 18 passages in fours


@pytest.mark.parametrize("in_batch", [True, False])
def test_a_source_may_keep_its_negatives_to_itself(in_batch: bool) -> None:
    corpus = corpus_of("a", 4, in_batch_negatives=in_batch)
    batch = make_sampler([corpus]).batch(0)
    assert batch.masked.shape == (4, 8)
    for row, positive in zip(batch.masked, positives(batch), strict=True):
        kept = {text for text, masked in zip(batch.passages, row, strict=True) if not masked}
        assert kept == ({positive, f"no {positive}"} if not in_batch else set(batch.passages))


def test_positives_of_a_query_are_known_over_all_sources() -> None:
    shared = [Passage(text, "", (Question("shared"),)) for text in ("one", "two", "three")]
    other = Passage("four", "", (Question("own", ("three", "one")),))
    source = Source("*")
    corpora = [
        Corpus(source, (), tuple(passages), "")
        for passages in ([shared[0], other], [shared[1]], [shared[2]])
    ]
    sampler = make_sampler(corpora, data={"negatives": 2})
    (batch,) = (b for b in map(sampler.batch, range(3)) if "own" in b.queries)
    assert sorted(batch.passages) == ["four", "one", "three"]
    masked = batch.masked[batch.queries.index("shared")]
    assert {t for t, m in zip(batch.passages, masked, strict=True) if m} == {"three"}
    assert not batch.masked[batch.queries.index("own")].any()


def test_texts_of_a_step_are_its_passages_as_they_are_read() -> None:
    sampler = make_sampler([corpus_of("a", 16)], data={"title_probability": 0.5})
    texts = [sampler.texts(step) for step in range(8)]
    for step, found in enumerate(texts):
        plain = [text.removeprefix("T\n") for text in found]
        assert plain == [t.removeprefix("T\n") for t in positives(sampler.batch(step))]
        assert sampler.texts(step) == found
    titled = sum(text.startswith("T\n") for found in texts for text in found)
    assert 8 <= titled <= 24
