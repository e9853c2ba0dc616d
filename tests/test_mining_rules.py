"""What a hard negative may be, how it is drawn, and the settings of both."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from mining_fakes import ALL, ListedSource, Record, number_texts

from m3search.records import Document
from m3search.training.mining import negatives as mining
from m3search.training.mining.candidates import (
    Example,
    KeyedText,
    id_key,
    text_key,
)
from m3search.training.mining.negatives import Tally, mine
from m3search.training.mining.records import (
    KnownPositives,
    positive_names,
)
from m3search.training.mining.rules import (
    MiningSettings,
    Rules,
    drawing_order,
    rank_window,
    score_limits,
)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Ant  bee\n", "ant bee"),
        ("ﬁsh", "FISH"),
        ("Straße", "STRASSE"),
        ("ｂｅｅ\u3000１", "bee 1"),
    ],
)
def test_texts_that_differ_in_form_share_a_key(a: str, b: str) -> None:
    assert text_key(a) == text_key(b)


@pytest.mark.parametrize(("a", "b"), [("ant", "ants"), ("ant bee", "antbee"), ("e", "é")])
def test_texts_that_differ_otherwise_do_not(a: str, b: str) -> None:
    assert text_key(a) != text_key(b)
    assert text_key(a) != id_key(a)


def test_the_window_leaves_out_the_first_ranks_and_ends_with_the_last() -> None:
    (found,) = ListedSource(number_texts(20)).find([Example("q", ())], 20)
    assert [each.rank for each in rank_window(found.candidates, (3, 7))] == [4, 5, 6, 7]
    assert [each.rank for each in rank_window(found.candidates, (18, 90))] == [19, 20]
    assert rank_window(found.candidates, (20, 30)) == []


@pytest.mark.parametrize(
    ("scores", "given", "limits"),
    [
        ([0.8, 0.6], {"margin": 0.1, "relative_margin": None}, {"margin": 0.5}),
        ([0.8, 0.6], {"relative_margin": 0.05}, {"relative margin": 0.57}),
        ([-0.2], {"relative_margin": 0.05}, {"relative margin": -0.21}),
        ([math.nan, 0.6], {"relative_margin": 0.0}, {"relative margin": 0.6}),
        ([math.nan], {"margin": 0.1, "max_score": 0.7}, {"max score": 0.7}),
        ([], {"margin": 0.1}, {}),
        ([0.5], {"relative_margin": None}, {}),
        (
            [1.0],
            {"margin": 0.0, "relative_margin": 1.0, "max_score": -1.0},
            {"margin": 1.0, "relative margin": 0.0, "max score": -1.0},
        ),
    ],
)
def test_score_limits(scores: list[float], given: Any, limits: dict[str, float]) -> None:
    assert score_limits(scores, MiningSettings(**given)) == pytest.approx(limits)


def test_the_first_rule_that_is_broken_is_named() -> None:
    known = KnownPositives([{"query": "Who?", "pos": ["elsewhere"]}, {"query": "x", "pos": ["y"]}])
    limits = {"max score": 0.9, "margin": 0.5}
    rules = Rules(text_key("who?"), frozenset({text_key("own")}), known, limits)
    cases = [
        ("OWN", 1.0, "positive"),
        ("Elsewhere", 0.1, "positive"),
        ("WHO?", 1.0, "query"),
        ("fresh", 0.91, "max score"),
        ("fresh", 0.51, "margin"),
        ("fresh", 0.5, None),
        ("Fresh ", 0.1, "duplicate"),
        ("y", 0.1, None),
    ]
    for text, score, rule in cases:
        assert rules.broken_by(KeyedText.of(Document("", text)), score) == rule, text


@pytest.mark.parametrize(
    ("positive", "document", "same"),
    [
        ({"pos": ["text"]}, Document("d", "Text", "title"), True),
        ({"pos": ["title text"]}, Document("d", "text", "title"), True),
        ({"pos": ["text"], "title": "title"}, Document("d", "text"), True),
        ({"pos": ["text"], "title": "title"}, Document("d", "title\ntext"), True),
        ({"pos": [], "pos_id": ["d"]}, Document("d", "text"), True),
        ({"pos": ["d"]}, Document("d", "text"), False),
        ({"pos": ["title"]}, Document("d", "text", "title"), False),
        ({"pos": ["text"], "title": None}, Document("e", "texts"), False),
    ],
)
def test_a_positive_is_known_by_its_text_with_and_without_title_and_by_id(
    positive: Record, document: Document, same: bool
) -> None:
    record = {"query": "q", **positive}
    assert bool(positive_names(record) & KeyedText.of(document).names) is same
    known = KnownPositives([record])
    assert known.answers(text_key("Q"), KeyedText.of(document).names) is same
    assert not known.answers(text_key("other"), KeyedText.of(document).names)


def test_dropped_candidates_are_counted_by_rule() -> None:
    ranked = {"pos": 0.9, "q": 0.8, "high": 0.7, "near": 0.58, "far": 0.5, "FAR": 0.4, "last": 0.1}
    settings = MiningSettings(ranks=(0, 6), negatives=3, max_score=0.6, relative_margin=0.05)
    tally = Tally()
    records = [{"query": "q", "pos": ["pos", "?"]}]
    (record,) = mine(records, ListedSource(ranked, 0.6), settings, tally=tally)
    assert record["neg"] == ["far"]
    assert tally.dropped == {
        "positive": 1, "query": 1, "max score": 1, "relative margin": 1, "duplicate": 1,
    }  # fmt: skip
    assert (tally.queries, tally.negatives, tally.short, tally.unscored) == (1, 1, 1, 0)


def test_queries_whose_positives_have_no_score_are_counted() -> None:
    records: list[Record] = [
        {"query": "a", "pos": ["x"]},
        {"query": "b", "pos": [], "pos_id": ["i"]},
    ]
    tally = Tally()
    asking = MiningSettings((0, 3), relative_margin=0.05)
    mined = mine(records, ListedSource(number_texts(3)), asking, tally=tally)
    assert [len(record["neg"]) for record in mined] == [3, 3]
    assert tally.unscored == 2
    list(mine(records, ListedSource(number_texts(3)), ALL, tally=tally))
    assert tally.unscored == 2


def test_what_is_drawn_depends_on_seed_and_query_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "BLOCK", 3)
    source = ListedSource(number_texts(60))
    settings = MiningSettings(ranks=(5, 50), negatives=4, relative_margin=None)
    records = [{"query": f"q{number}", "pos": ["p"]} for number in range(10)]

    def negatives(some: Iterable[Record], **changed: Any) -> dict[str, list[str]]:
        asked = MiningSettings(**{**vars(settings), **changed})
        return {record["query"]: record["neg"] for record in mine(some, source, asked)}

    whole = negatives(records)
    assert source.asked == [3, 3, 3, 1]
    assert whole == negatives(reversed(records))
    assert whole == negatives(records[:4]) | negatives(records[4:])
    assert len(set(map(tuple, whole.values()))) == 10
    assert negatives(records, seed=7)["q1"] != whole["q1"]
    for drawn in whole.values():
        numbers = [int(text.split()[1]) for text in drawn]
        assert numbers == sorted(numbers) and len(numbers) == 4  # the nearest first
        assert set(numbers) <= set(range(6, 51))


def test_every_candidate_is_as_likely() -> None:
    (found,) = ListedSource(number_texts(10)).find([Example("q", ())], 10)
    firsts = Counter(
        drawing_order(found.candidates, 0, text_key(f"query {number}"))[0].rank
        for number in range(3000)
    )
    assert sorted(firsts) == list(range(1, 11))
    assert all(abs(count - 300) < 5 * math.sqrt(270) for count in firsts.values())


def test_a_candidate_less_moves_no_other() -> None:
    (found,) = ListedSource(number_texts(10)).find([Example("q", ())], 10)
    order = drawing_order(found.candidates, 1, b"query")
    assert drawing_order(found.candidates[1:], 1, b"query") == [o for o in order if o.rank > 1]
    assert drawing_order(found.candidates, 2, b"query") != order


def test_random_passages_fill_up_only_when_asked_and_from_what_was_not_retrieved() -> None:
    source = ListedSource(number_texts(60))
    few: Any = {"ranks": (10, 12), "negatives": 7, "relative_margin": None}
    records = [{"query": "text 40", "pos": ["text 41"]}]
    known = KnownPositives([{"query": "text 40", "pos": ["text 42"]}])
    (record,) = mine(records, source, MiningSettings(**few), known=known)
    assert record["neg"] == ["text 11", "text 12"]
    seen = set()
    for seed in range(40):
        settings, tally = MiningSettings(**few, fill_random=True, seed=seed), Tally()
        (record,) = mine(records, source, settings, known=known, tally=tally)
        assert record["neg"][:2] == ["text 11", "text 12"]
        assert len(set(record["neg"])) == len(record["neg"]) == 7
        assert (tally.filled, tally.short, tally.negatives) == (5, 0, 7)
        assert [record] == list(mine(records, source, settings, known=known))
        seen.update(record["neg"][2:])
    expected = {f"text {number}" for number in range(13, 61)} - {"text 40", "text 41", "text 42"}
    assert seen == expected


def test_filling_ends_where_the_corpus_does() -> None:
    settings, tally = MiningSettings(ranks=(0, 2), fill_random=True, relative_margin=None), Tally()
    (record,) = mine([{"query": "q", "pos": ["p"]}], ListedSource(number_texts(4)), settings,
                     tally=tally)  # fmt: skip
    assert record["neg"][:2] == ["text 1", "text 2"]
    assert sorted(record["neg"][2:]) == ["text 3", "text 4"]
    assert tally.short == 1
