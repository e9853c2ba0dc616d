"""Which passages of a batch are no negatives of a query, in whatever form they come."""

from __future__ import annotations

import numpy as np
from drawing_batches import asking, draw_from, masked_texts

from m3search.training.sources import Passage, Question


def test_a_text_by_another_name_stands_once() -> None:
    """Other spaces or capitals, or a title before it: the text is the same."""
    passages = [
        Passage("a b\nc", "T", (Question("q", ("a  b c ", "a b", "A b c", "t\nA b c")),)),
        asking("r", text="other", negatives=[" a b c"]),
    ]
    batch = draw_from(passages, negatives=4, title_probability=1.0)
    assert batch.passages == ["T\na b\nc", "other", "a b"]
    assert batch.targets.tolist() == [0, 1]
    assert not batch.masked.any()


def test_a_query_s_passages_are_known_whatever_its_form_and_theirs() -> None:
    """With their title before them, as mining writes them, or not; in any capitals and spaces."""
    elsewhere = Passage("paris is", "France", (Question(" What  capital?"),))
    passages = [
        asking("what capital?", text="the city of light", negatives=["France\nParis is", "x"]),
        asking("other", text="y", negatives=["Paris  is"]),
    ]
    batch = draw_from(passages, known=[elsewhere], negatives=2)
    assert "paris is" in batch.passages  # as the sources have it
    assert masked_texts(batch, "what capital?") == {"paris is"}
    assert masked_texts(batch, "other") == set()


def test_what_a_query_says_is_no_negative_of_it() -> None:
    """As where each of two sentences is a query for the other."""
    batch = draw_from([asking("a", text="b"), asking("B", text="A")])
    assert masked_texts(batch, "a") == {"A"}
    assert masked_texts(batch, "B") == {"b"}


def test_passages_of_the_sources_have_their_titles_as_negatives_too() -> None:
    titled = Passage("b", "T", (Question("other"),))
    passage = asking("q", text="a", negatives=["T\nb"])
    seen = [
        draw_from([passage], seed, known=[titled], negatives=1, title_probability=0.5).passages[1]
        for seed in range(60)
    ]
    assert set(seen) == {"b", "T\nb"}
    assert 15 <= seen.count("b") <= 45


def test_a_title_tells_no_negative_from_a_positive() -> None:
    """Also where the negative is in no source, and brings its title."""
    question = Question("q", ("b", "c"), negative_titles=("U", ""))
    seen = [
        draw_from([Passage("a", "T", (question,))], seed, negatives=2, title_probability=0.5)
        for seed in range(120)
    ]
    texts = [text for batch in seen for text in batch.passages]
    assert set(texts) == {"a", "T\na", "b", "U\nb", "c"}
    assert 40 <= texts.count("T\na") <= 80 and 40 <= texts.count("U\nb") <= 80
    titled = draw_from([Passage("a", "T", (question,))], negatives=2, title_probability=1.0)
    assert set(titled.passages) == {"T\na", "U\nb", "c"}


def test_a_question_without_a_title_takes_none_from_another() -> None:
    questions = (
        Question("q", ("b", "d"), negative_titles=("U", "V")),
        Question("r", ("b", "c"), negative_titles=("", "W")),
    )
    for asked in (questions, questions[::-1]):
        passage = Passage("a", "", asked)
        batch = draw_from([passage], negatives=3, queries_per_passage=2, title_probability=1.0)
        assert set(batch.passages) == {"a", "U\nb", "V\nd", "W\nc"}


def test_the_title_of_a_passage_goes_before_what_a_negative_says() -> None:
    known = Passage("b", "T", (Question("other"),))
    question = Question("q", ("b",), negative_titles=("another",))
    passages = [Passage("a", "", (question,))]
    batch = draw_from(passages, known=[known], negatives=1, title_probability=1.0)
    assert batch.passages == ["a", "T\nb"]


def test_a_passage_twice_in_a_batch_is_no_negative_of_itself() -> None:
    passage = Passage("text", "T", (Question("q1"), Question("q2")))
    seen = set()
    for seed in range(20):
        batch = draw_from([passage, passage], seed, title_probability=0.5)
        seen.add(tuple(batch.passages))
        off = ~np.eye(len(batch.passages), dtype=bool)[batch.targets]
        assert (batch.masked == off).all()
    assert seen == {("text",), ("T\ntext",)}
