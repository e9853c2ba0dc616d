"""The texts of one step: what is drawn, how it is written, and what is no negative."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from drawing_batches import asking, draw_from, masked_texts, settings

from m3search.training.drawing import Batch, written
from m3search.training.keys import text_key
from m3search.training.losses import TeacherShares, m3_loss
from m3search.training.recipe import Objective
from m3search.training.sources import Passage, Question

LONG = " ".join(f"word{i:02}" for i in range(20))  # 139 characters


def test_what_a_batch_is_made_of() -> None:
    batch = draw_from(
        [
            asking("q1", text="a", negatives=["x"]),
            asking("q2", text="b", negatives=["x", "a"]),
            asking("q3", text="c"),
        ],
        negatives=5,
    )
    assert batch.queries == ["q1", "q2", "q3"]
    assert batch.passages == ["a", "b", "c", "x"]
    assert batch.targets.tolist() == [0, 1, 2]
    assert batch.targets.dtype == batch.candidates.dtype == np.int64
    assert (batch.masked.shape, batch.masked.dtype) == ((3, 4), bool)
    assert not batch.masked.any()
    assert batch.candidates.shape == batch.teacher_scores.shape == (3, 0)
    assert batch.teacher_scores.dtype == np.float32


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_so_many_questions_of_a_passage_and_so_many_negatives(count: int) -> None:
    passages = [
        asking("q1", "q2", "q3", text="a", negatives=["x1", "x2", "x3", "x4"]),
        asking("r1", text="b", negatives=["y1"]),
    ]
    seen: Counter[str] = Counter()
    for seed in range(30):
        batch = draw_from(passages, seed, queries_per_passage=count, negatives=count)
        own = [query for query in batch.queries if query.startswith("q")]
        assert len(own) == len(set(own)) == min(3, count)
        assert batch.targets.tolist() == [0] * len(own) + [1]
        negatives = batch.passages[2:]
        assert len(negatives) == len(set(negatives)) == min(4, count) + 1
        assert negatives[-1] == "y1"
        seen.update([*batch.queries, *negatives])
    assert set(seen) == {"q1", "q2", "q3", "x1", "x2", "x3", "x4", "r1", "y1"}
    assert seen["y1"] == seen["r1"] == 30


def test_negatives_are_drawn_from_those_of_the_drawn_questions() -> None:
    questions = tuple(Question(f"q{i}", (f"x{i}", "shared")) for i in range(3))
    for seed in range(10):
        batch = draw_from([Passage("a", "", questions)], seed, queries_per_passage=2, negatives=9)
        wanted = {"shared", *(query.replace("q", "x") for query in batch.queries)}
        assert sorted(batch.passages[1:]) == sorted(wanted)


def test_no_negatives_unless_they_are_asked() -> None:
    assert draw_from([asking("q", text="a", negatives=["x"])]).passages == ["a"]


def test_other_positives_of_a_query_are_masked() -> None:
    batch = draw_from(
        [
            asking("shared", text="first"),
            asking("own", text="second", negatives=["elsewhere"]),
            asking("other", text="third", negatives=["first", "free"]),
        ],
        known=[asking("shared", text="third"), asking("other", text="elsewhere")],
        negatives=2,
    )
    assert masked_texts(batch, "shared") == {"third"}
    assert masked_texts(batch, "own") == set()
    assert masked_texts(batch, "other") == {"elsewhere"}


def test_own_negatives_only_masks_exactly_all_others() -> None:
    passages = [
        asking("q", text="a", negatives=["x", "y", "both"]),
        asking("r", text="b", negatives=["both", "a"]),
        asking("s", text="c"),
    ]
    batch = draw_from(passages, negatives=5, own_negatives_only=True)
    everything = set(batch.passages)
    assert everything == {"a", "b", "c", "x", "y", "both"}
    assert masked_texts(batch, "q") == everything - {"a", "x", "y", "both"}
    assert masked_texts(batch, "r") == everything - {"b", "both", "a"}
    assert masked_texts(batch, "s") == everything - {"c"}


def test_own_negatives_are_those_of_the_question_alone() -> None:
    """A passage's other question may have drawn more of them."""
    both = (Question("q", ("x",)), Question("r", ("y",)))
    kept = asking("r", text="x")
    batch = draw_from(
        [Passage("a", "", both)],
        known=[kept],
        queries_per_passage=2,
        negatives=2,
        own_negatives_only=True,
    )
    assert masked_texts(batch, "q") == {"y"}
    assert masked_texts(batch, "r") == {"x"}


def test_a_teacher_has_scored_the_passage_and_the_drawn_negatives() -> None:
    scores = {"a": 9.0, "x": 1.0, "y": 2.0, "z": 3.0}
    passages = [
        asking("untaught", text="b", negatives=["v"]),
        asking("q", text="a", negatives=["x", "y", "z"], scores=list(scores.values())),
    ]
    seen: set[tuple[str, ...]] = set()
    for seed in range(20):
        batch = draw_from(passages, seed, negatives=2)
        assert batch.candidates.shape == batch.teacher_scores.shape == (2, 3)
        assert batch.candidates[0].tolist() == [-1, -1, -1]
        assert batch.teacher_scores[0].tolist() == [0, 0, 0]
        texts = tuple(batch.passages[place] for place in batch.candidates[1])
        assert texts[0] == "a" and set(texts) == set(batch.passages) - {"b", "v"}
        assert batch.teacher_scores[1].tolist() == [scores[text] for text in texts]
        seen.add(texts)
    assert len(seen) == 3


def test_behind_the_last_candidate_there_is_none() -> None:
    passages = [
        asking("q", text="a", negatives=["x"], scores=[3, 1]),
        asking("r", text="b", scores=[2]),
    ]
    batch = draw_from(passages, negatives=1)
    assert batch.candidates.tolist() == [[0, 2], [1, -1]]
    assert batch.teacher_scores.tolist() == [[3, 1], [2, 0]]


@pytest.mark.parametrize("teacher", ["kl", "listwise"])
def test_what_is_masked_is_no_candidate_of_a_teacher(teacher: Any) -> None:
    """A negative that is a positive in another line; its masked score would be the whole loss."""
    scored = asking("q", text="a", negatives=["x", "also", "a ", "X"], scores=[3, 1, 2, 3, 1])
    batch = draw_from([scored], known=[asking("q", text="also")], negatives=4)
    places = [batch.passages.index("a"), [text.lower() for text in batch.passages].index("x")]
    assert batch.candidates.tolist() == [places]
    assert batch.teacher_scores.tolist() == [[3, 1]]
    loss = m3_loss(
        {"dense": torch.zeros(1, len(batch.passages))},
        torch.from_numpy(batch.targets),
        torch.from_numpy(batch.masked),
        Objective(modes=("dense",), teacher=teacher),
        distil=False,
        teacher=TeacherShares.of(torch.from_numpy(batch.candidates), torch.tensor([[3.0, 1.0]])),
    )
    assert float(loss.total) < 2


@pytest.mark.parametrize(("probability", "low", "high"), [(0, 0, 0), (0.5, 60, 100), (1, 160, 160)])
def test_titles_stand_before_their_share_of_passages(
    probability: float, low: int, high: int
) -> None:
    rng = random.Random(5)
    data = settings(title_probability=probability)
    read = [written(Passage("text", "T"), data, rng) for _ in range(160)]
    assert set(read) <= {"text", "T\ntext"}
    assert low <= read.count("T\ntext") <= high
    assert written(Passage("text"), data, rng) == "text"


def test_negatives_and_questions_have_no_title() -> None:
    passage = Passage("a", "T", (Question("q", ("x",)),))
    batch = draw_from([passage], negatives=1, title_probability=1.0)
    assert (batch.queries, batch.passages) == (["q"], ["T\na", "x"])


@pytest.mark.parametrize(("probability", "low", "high"), [(0, 0, 0), (0.3, 30, 60), (1, 160, 160)])
def test_long_passages_are_cut_in_three_in_their_share(
    probability: float, low: int, high: int
) -> None:
    rng = random.Random(5)
    data = settings(shuffle_probability=probability)
    third = -(-len(LONG) // 3)
    thirds = [LONG[:third], LONG[third : 2 * third], LONG[2 * third :]]
    orders: Counter[tuple[int, ...]] = Counter()
    cut = 0
    for _ in range(160):
        text = written(Passage(LONG), data, rng)
        if text == LONG:
            continue
        cut += 1
        order = tuple(sorted(range(3), key=lambda part: text.index(thirds[part])))
        assert text == " ".join(thirds[part] for part in order)
        orders[order] += 1
    assert low <= cut <= high
    assert len(orders) == (6 if probability == 1 else len(orders))
    assert written(Passage(LONG[:100]), data, rng) == LONG[:100]
    assert len(written(Passage(LONG[:101]), settings(shuffle_probability=1.0), rng)) == 103


def test_a_title_stands_before_a_passage_in_another_order() -> None:
    data = settings(shuffle_probability=1.0, title_probability=1.0)
    title, _, text = written(Passage(LONG, "T"), data, random.Random(0)).partition("\n")
    assert title == "T" and text != LONG
    assert Counter(text.replace(" ", "")) == Counter(LONG.replace(" ", ""))


def test_the_same_random_numbers_draw_the_same() -> None:
    passages = [
        Passage(f"{LONG} {i}", "T", (Question(f"q{i}", ("x", "y", "z")), Question(f"r{i}")))
        for i in range(6)
    ]
    changes = {"negatives": 1, "title_probability": 0.5, "shuffle_probability": 0.5}

    def told(seed: int) -> list[Any]:
        return [part if isinstance(part, list) else part.tolist() for part in draw_one(seed)]

    def draw_one(seed: int) -> Batch:
        return draw_from(passages, seed, **changes)

    assert told(1) == told(1)
    assert len({repr(told(seed)) for seed in range(10)}) == 10


def test_a_key_is_that_of_the_words() -> None:
    assert len({text_key(text) for text in ("a b", " a\n\tb ", "A b", "\uff41 b")}) == 1
    assert len({text_key(text) for text in ("a b", "ab", "b a", "a b.", "")}) == 5
