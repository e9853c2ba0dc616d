"""Mining against a slow search by hand: window, margins, identity, drawing, records, reranker."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from searching import ListIndex, WordEncoder, make_index
from tiny_models import HIDDEN, sentencepiece_tokenizer, write_bert
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from m3search.errors import ArtifactError, ConfigError, DataError
from m3search.index import Index
from m3search.records import MODES, Document, Mode
from m3search.search import Searcher
from m3search.training.mining import negatives as mining
from m3search.training.mining import reranker
from m3search.training.mining.candidates import (
    Candidate,
    Example,
    Found,
    IndexSource,
    Passage,
    id_key,
    listed_scores,
    text_key,
)
from m3search.training.mining.negatives import Tally, mine
from m3search.training.mining.records import (
    KnownPositives,
    gather_texts,
    positive_names,
    read_training_records,
    write_records,
)
from m3search.training.mining.reranker import Reranker
from m3search.training.mining.rules import (
    MiningSettings,
    Rules,
    drawing_order,
    rank_window,
    score_limits,
)

WORDS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "koi", "lark")
ALL = MiningSettings(ranks=(0, 1000), negatives=1000, relative_margin=None)
Record = dict[str, Any]


def write_texts(count: int, seed: int, length: int = 6) -> list[str]:
    """Different texts of words drawn at random."""
    drawn = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[" ".join(drawn.choices(WORDS, k=length))] = None
    return list(texts)


def open_source(
    folder: Path, texts: Sequence[str | Document], modes: Sequence[Mode] = ("dense",)
) -> IndexSource:
    documents = [
        text if isinstance(text, Document) else Document(f"d{row}", text)
        for row, text in enumerate(texts)
    ]
    index = Index.build(folder / "index", documents, WordEncoder(), segment_documents=15)
    return IndexSource(Searcher(index, WordEncoder()), modes)  # type: ignore[arg-type]


class ListedSource:
    """Every query finds the same passages, best first, and its positives' scores are given."""

    def __init__(self, ranked: dict[str, float], positive: float = math.nan) -> None:
        self.passages = [Passage.of(Document(f"d{i}", text)) for i, text in enumerate(ranked)]
        self.scores = list(ranked.values())
        self.positive = positive
        self.asked: list[int] = []

    def find(self, examples: Sequence[Example], depth: int) -> list[Found]:
        self.asked.append(len(examples))
        pairs = zip(self.scores, self.passages, strict=True)
        candidates = [Candidate(rank, *pair) for rank, pair in enumerate(pairs, start=1)]
        return [
            Found(candidates[:depth], [self.positive] * len(example.positives))
            for example in examples
        ]

    def draw(self, count: int, rng: np.random.Generator) -> list[Passage]:
        rows = rng.choice(len(self.passages), size=min(count, len(self.passages)), replace=False)
        return [self.passages[row] for row in rows]


def number_texts(count: int) -> dict[str, float]:
    return {f"text {number}": 1 - number / 100 for number in range(1, count + 1)}


# The whole, by hand


def slow_score(index: ListIndex, modes: Sequence[Mode], query: str, row: int) -> float:
    encoded = WordEncoder().encode([query], "query")
    scores = {mode: float(np.float32(index.score(mode, encoded, row))) for mode in modes}
    if len(modes) == 1:
        return scores[modes[0]]
    weights = {"dense": 1.0, "sparse": 0.3, "multi": 1.0}
    return float(np.float32(sum(weights[mode] * score for mode, score in scores.items())))


def slow_mine(
    texts: Sequence[str], records: Sequence[Record], modes: Sequence[Mode], ask: MiningSettings
) -> list[list[str]]:
    """Scores every text for every query and looks at one candidate after the other."""
    index = make_index(texts)
    mined = []
    for record in records:
        query = record["query"]
        scored = [(slow_score(index, modes, query, row), row) for row in range(len(texts))]
        if list(modes) == ["sparse"]:
            scored = [pair for pair in scored if pair[0] > 0]
        ranked = sorted(scored, key=lambda pair: (-pair[0], pair[1]))
        answers = {text for each in records if each["query"] == query for text in each["pos"]}
        with_positives = make_index([*texts, *record["pos"]])
        lowest = min(
            slow_score(with_positives, modes, query, len(texts) + number)
            for number in range(len(record["pos"]))
        )
        negatives: list[str] = []
        for score, row in ranked[: ask.ranks[1]][ask.ranks[0] :]:
            good = texts[row] not in answers and texts[row] != query
            if ask.margin is not None:
                good = good and score <= lowest - ask.margin
            if ask.relative_margin is not None:
                good = good and score <= lowest - abs(lowest) * ask.relative_margin
            if ask.max_score is not None:
                good = good and score <= ask.max_score
            if good:
                negatives.append(texts[row])
        mined.append(negatives)
    return mined


@pytest.mark.parametrize("modes", [("dense",), ("sparse",), ("multi",), ("dense", "sparse"), MODES])
@pytest.mark.parametrize(
    "rules",
    [
        {"ranks": (0, 50), "relative_margin": None},
        {"ranks": (3, 20), "relative_margin": None},
        {"ranks": (0, 50), "relative_margin": 0.2},
        {"ranks": (1, 50), "relative_margin": None, "margin": 0.02},
        {"ranks": (0, 40), "relative_margin": None, "max_score": "median"},
    ],
    ids=str,
)
def test_negatives_are_those_of_a_slow_search(
    modes: tuple[Mode, ...], rules: dict[str, Any]
) -> None:
    texts = write_texts(50, seed=1)
    index: Any = make_index(texts)
    if "max_score" in rules:
        scores = [slow_score(index, modes, "dog elk", row) for row in range(50)]
        rules = {**rules, "max_score": float(np.median(scores)) + 0.001}
    outside = write_texts(8, seed=2, length=5)
    records: list[Record] = [
        {"query": "ant bee cat", "pos": [texts[3], outside[0]]},
        {"query": "dog elk", "pos": [outside[1]]},
        {"query": texts[7], "pos": [texts[9]]},
        {"query": "fox gnu ant", "pos": [texts[12], texts[13]]},
        {"query": "ant bee cat", "pos": [texts[5]]},
        {"query": "lark lark koi", "pos": [outside[2]]},
    ]
    settings = MiningSettings(negatives=1000, **rules)
    source = IndexSource(Searcher(index, WordEncoder()), modes)  # type: ignore[arg-type]
    mined = list(mine(records, source, settings, known=KnownPositives(records)))
    expected = slow_mine(texts, records, modes, settings)
    assert [record["neg"] for record in mined] == expected
    assert len({len(negatives) for negatives in expected}) > 1  # the rules do something


# Where candidates come from


@pytest.mark.parametrize("modes", [("dense",), ("sparse",), ("multi",), ("dense", "sparse"), MODES])
def test_a_positive_scores_the_same_in_and_outside_the_index(
    tmp_path: Path, modes: tuple[Mode, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m3search.training.mining.candidates.ENCODED_TOGETHER", 2)
    texts = write_texts(30, seed=3)
    examples = [
        Example(query, tuple(Document("", text) for text in texts[start : start + 3]))
        for query, start in (("ant bee", 0), ("cat", 2), ("elk fox", 4))
    ]
    inside = open_source(tmp_path / "a", texts, modes).find(examples, 30)
    outside = open_source(tmp_path / "b", texts[10:], modes).find(examples, 30)
    for with_them, without in zip(inside, outside, strict=True):
        expected = [max(score, 0) if modes == ("sparse",) else score
                    for score in with_them.positive_scores]  # fmt: skip
        assert without.positive_scores == pytest.approx(expected, abs=2e-3)
        assert not any(map(math.isnan, with_them.positive_scores))
        listed = {each.passage.text for each in without.candidates}
        assert not listed & set(texts[:10])


def test_a_listed_positive_is_not_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = write_texts(10, seed=4)
    source = open_source(tmp_path, texts)
    asked: list[tuple[str, str]] = []

    def encode(self: WordEncoder, texts: Sequence[str], kind: Any, **options: Any) -> Any:
        asked.extend((text, kind) for text in texts)
        return plain(self, texts, kind, **options)

    plain = WordEncoder.encode
    monkeypatch.setattr(WordEncoder, "encode", encode)
    example = Example("ant", (Document("", texts[0].upper()), Document("", "bee")))
    (found,) = source.find(
        [
            example,
        ],
        10,
    )
    assert asked == [("ant", "query"), ("bee", "document")]
    listed = {each.passage.text: each.score for each in found.candidates}
    assert found.positive_scores[0] == listed[texts[0]]
    assert [each.rank for each in found.candidates] == list(range(1, 11))


def test_titles_are_read_as_the_index_reads_them(tmp_path: Path) -> None:
    documents = [Document("a", "bee cat", "ant"), Document("b", "dog", "elk"), Document("c", "fox")]
    index = Index.build(
        tmp_path / "index", documents, WordEncoder(), title_template="{title} - {text}"
    )
    source = IndexSource(Searcher(index, WordEncoder()), ("dense",))  # type: ignore[arg-type]
    (found,) = source.find([Example("ant", (Document("", "hen", "jay"),))], 3)
    assert sorted(each.passage.text for each in found.candidates) == [
        "ant - bee cat", "elk - dog", "fox",
    ]  # fmt: skip
    assert "jay - hen" in source._searcher.encoder.encoded  # type: ignore[attr-defined]


def test_listed_scores_prefer_the_whole_text() -> None:
    ranked = [Document("1", "same", "other"), Document("2", "same", "title"), Document("3", "same")]
    candidates = [Candidate(i + 1, 0.9 - i / 10, Passage.of(each)) for i, each in enumerate(ranked)]
    asked = [Document("", "same", "title"), Document("", "same"), Document("", "none")]
    found = listed_scores(candidates, asked)
    assert found[:2] == [0.8, 0.9] and math.isnan(found[2])


def test_an_empty_index_is_an_error(tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", [Document("a", "x")], WordEncoder())
    index.delete(["a"])
    with pytest.raises(ArtifactError, match="expected documents to take negatives from"):
        IndexSource(Searcher(index, WordEncoder()), ("dense",))  # type: ignore[arg-type]


def test_draws_are_different_live_documents(tmp_path: Path) -> None:
    texts = write_texts(20, seed=5)
    documents = [Document(f"d{row}", text) for row, text in enumerate(texts)]
    index = Index.build(tmp_path / "index", documents, WordEncoder())
    index.delete([f"d{row}" for row in range(10)])
    source = IndexSource(Searcher(index, WordEncoder()), ("dense",))  # type: ignore[arg-type]
    rng, seen = np.random.default_rng(0), Counter[str]()
    for _ in range(200):
        drawn = [passage.text for passage in source.draw(4, rng)]
        assert len(set(drawn)) == len(drawn) <= 4
        seen.update(drawn)
    assert set(seen) == set(texts[10:])
    assert max(seen.values()) < 2 * min(seen.values())


# Rules


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
        assert rules.broken_by(Passage.of(Document("", text)), score) == rule, text


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
    assert bool(positive_names(record) & Passage.of(document).names) is same
    known = KnownPositives([record])
    assert known.answers(text_key("Q"), Passage.of(document).names) is same
    assert not known.answers(text_key("other"), Passage.of(document).names)


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


# Drawing


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


# Records


def test_all_else_in_a_record_stays_as_it_is() -> None:
    record = {
        "lang": "de", "neg": ["old"], "neg_scores": [1.0], "query": "q", "pos": ["p"],
        "pos_scores": [2.0], "neg_id": ["7"], "deep": {"a": [1, None, "ü"]}, "prompt": "P",
    }  # fmt: skip
    before = json.dumps(record)
    (mined,) = mine([record], ListedSource({"x": 0.1}), ALL)
    assert json.dumps(record) == before
    assert list(mined.items()) == [
        ("lang", "de"), ("neg", ["x"]), ("query", "q"), ("pos", ["p"]),
        ("deep", {"a": [1, None, "ü"]}), ("prompt", "P"),
    ]  # fmt: skip
    (added,) = mine([{"query": "q", "pos": ["p"]}], ListedSource({"x": 0.1}), ALL)
    assert list(added) == ["query", "pos", "neg"]


def test_kept_negatives_come_first_and_are_not_mined_again() -> None:
    keep = MiningSettings(ranks=(0, 9), negatives=2, relative_margin=None, keep=True)
    old = {"query": "q", "pos": ["p"], "neg": ["X", "far"], "neg_scores": [1.0, 2.0]}
    (mined,) = mine([old], ListedSource({"x": 0.3, "y": 0.2, "z": 0.1}), keep)
    assert mined == {"query": "q", "pos": ["p"], "neg": ["X", "far", "y", "z"]}
    (same,) = mine([old], ListedSource({"x": 0.3}), keep)
    assert same == old


def test_the_pool_holds_every_text_once() -> None:
    records = [
        {"query": "q", "pos": ["a", "b"], "neg": ["A", "c"], "title": "t"},
        {"query": "r", "pos": ["b"], "title": "t"},
        {"query": "s", "pos": ["t b"]},
    ]
    pool = list(gather_texts(records))
    assert [(each.title, each.text) for each in pool] == [
        ("t", "a"), ("t", "b"), ("", "A"), ("", "c"),
    ]  # fmt: skip
    assert len({each.id for each in pool}) == 4


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"{", "what JSON does not allow"),
        (b'{"pos": ["a"]}', "no query text"),
        (b'{"query": "q", "pos": []}', "an empty pos"),
        (b'{"query": "q", "pos": ["a"], "neg": [1]}', "neg that is not a list"),
        (b'{"query": "q", "pos_id": "c"}', "'c'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, found: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"query": "q", "pos": ["a"]}\n' + line + b"\n")
    with pytest.raises(DataError, match=f"line 2.*found {found}"):
        list(read_training_records(path))


def test_ids_become_the_texts_of_the_documents_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    documents = [{"_id": "a", "text": "one", "title": "t"}, {"_id": "7", "text": "two"}]
    (tmp_path / "pairs.docs.jsonl").write_text("\n".join(map(json.dumps, documents)))
    lines: list[Record] = [
        {"pos_id": ["a", 7], "query": "q", "x": 1},
        {"pos_id": 7, "query": "r"},
        {"pos_id": "a", "query": "s", "title": "own"},
        {"pos": ["given"], "pos_id": "other", "query": "t"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    first, second, third, fourth = read_training_records(path)
    assert first == lines[0] | {"pos": ["one", "two"], "title": "t"}
    assert second == lines[1] | {"pos": ["two"]}
    assert third == lines[2] | {"pos": ["one"]}
    assert fourth == lines[3]
    assert id_key("7") in positive_names(lines[1]) and id_key("7") in positive_names(first)


def test_a_prompt_is_searched_with_and_is_no_part_of_the_query(tmp_path: Path) -> None:
    source = open_source(tmp_path, ["ant bee", "cat", "dog elk cat"])
    record = {"query": "cat", "pos": ["dog"], "prompt": "ant elk "}
    (mined,) = mine([record], source, ALL)
    longer = {"query": "ant elk cat", "pos": ["dog"]}
    expected = next(iter(mine([longer], source, ALL)))["neg"]
    assert "cat" in expected
    assert mined["neg"] == [text for text in expected if text != "cat"]
    plain = next(iter(mine([{"query": "cat", "pos": ["dog"]}], source, ALL)))["neg"]
    assert mined["neg"] != plain


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_files_are_written_whole_or_not_at_all(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    records = [{"query": "ü", "neg": ["茶"]}, {"query": "b"}]
    write_records(path, records)
    first = path.read_bytes()
    assert list(read_lines(path)) == records
    assert "茶" in (gzip.decompress(first) if name.endswith("gz") else first).decode()

    def fail() -> Iterable[Record]:
        yield records[0]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_records(path, fail())
    assert path.read_bytes() == first
    write_records(path, records)
    assert path.read_bytes() == first
    assert name == "out.jsonl" or first[3:8] == bytes(5)  # no name, no time
    assert [each.name for each in tmp_path.iterdir()] == [name]


def read_lines(path: Path) -> Iterable[Record]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return map(json.loads, text.splitlines())


# Settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"ranks": (10, 10)},
        {"ranks": (-1, 10)},
        {"negatives": 0},
        {"margin": -0.1},
        {"margin": math.inf},
        {"relative_margin": 1.1},
        {"reranker_threshold": -0.1},
        {"max_score": math.nan},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name} = "):
        MiningSettings(**wrong)


def test_reranker_and_settings_go_together() -> None:
    source = ListedSource({"x": 0.1})
    with pytest.raises(ConfigError, match="expected one where a threshold"):
        mine([], source, MiningSettings(teacher_scores=True))
    with pytest.raises(ConfigError, match="expected one where a threshold"):
        mine([], source, MiningSettings(reranker_threshold=0.5))
    with pytest.raises(ConfigError, match="expected none, found one, but neither"):
        mine([], source, ALL, reranker=Judge())


# Reranker


class Judge:
    """The logit of 'text n' is 5 - n; all others get 9. Keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def logits(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        self.asked += pairs
        words = [text.split() for _, text in pairs]
        found = [5.0 - int(each[1]) if each[0] == "text" else 9.0 for each in words]
        return np.array(found, np.float32)


def test_the_reranker_sees_only_what_is_drawn_and_drops_as_if_it_had_seen_all() -> None:
    source, judge, tally = ListedSource(number_texts(40)), Judge(), Tally()
    settings = MiningSettings(
        ranks=(0, 40), negatives=3, relative_margin=None, reranker_threshold=1 / (1 + math.exp(15))
    )  # a logit of -15 may stay: text 20 and those behind it
    records = [{"query": f"q{number}", "pos": ["p"]} for number in range(5)]
    mined = list(mine(records, source, settings, reranker=judge, tally=tally))
    (found,) = source.find([Example("", ())], 40)
    for record in mined:
        order = drawing_order(found.candidates, 42, text_key(record["query"]))
        good = [each for each in order if each.rank >= 20][:3]
        good.sort(key=lambda each: each.rank)
        assert record["neg"] == [each.passage.text for each in good]
    assert len(judge.asked) == len(set(judge.asked)) < 5 * 40 / 2
    assert tally.dropped == {"reranker": len(judge.asked) - 15}


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, 0), (1.0, 8), (0.5, 4)])
def test_the_threshold_is_a_probability(threshold: float, kept: int) -> None:
    settings = MiningSettings((0, 9), 9, relative_margin=None, reranker_threshold=threshold)
    source = ListedSource({f"text {number}": 0.1 for number in range(1, 9)})
    (record,) = mine([{"query": "q", "pos": ["p"]}], source, settings, reranker=Judge())
    assert len(record["neg"]) == kept  # 0.5 is a logit of 0: text 5 stays, text 4 goes


def test_teacher_scores_are_logits_of_all_that_is_written() -> None:
    settings = MiningSettings((0, 3), 3, relative_margin=None, teacher_scores=True, keep=True)
    record = {"pos_scores": [0], "query": "q", "title": "t", "pos": ["p", "text 7"], "neg": ["o"],
              "neg_scores": [0]}  # fmt: skip
    judge = Judge()
    (mined,) = mine([record], ListedSource(number_texts(3)), settings, reranker=judge)
    assert mined["neg"] == ["o", "text 1", "text 2", "text 3"]
    assert mined["neg_scores"] == [9.0, 4.0, 3.0, 2.0]
    assert mined["pos_scores"] == [9.0, 9.0]  # read with their title
    assert list(mined) == list(record)
    assert ("q", "t\np") in judge.asked and len(judge.asked) == len(set(judge.asked))


@pytest.fixture(scope="module")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory, sample_texts: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("models") / "reranker"
    torch.manual_seed(3)
    tokenizer = sentencepiece_tokenizer(sample_texts[:60])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, num_hidden_layers=2, num_labels=1,
        num_attention_heads=4, intermediate_size=64, max_position_embeddings=64,
        initializer_range=0.4, pad_token_id=1,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_reranker_scores_each_pair_as_if_alone(
    tiny_reranker: Path, sample_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Reranker.load(tiny_reranker, device="cpu", dtype="float32")
    words = [text.split() for text in sample_texts[:9]]
    pairs = [(" ".join(words[-n][:4]), " ".join(words[n][: n + 2])) for n in range(9)]
    model = BertForSequenceClassification.from_pretrained(tiny_reranker).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_reranker)
    for each in (tokenizer, loaded._tokenizer):  # as a tokenizer of the BERT class has it
        each.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    expected = []
    for query, text in pairs:
        inputs = tokenizer(query, text, truncation=True, max_length=64, return_tensors="pt")
        assert inputs["token_type_ids"].any()
        with torch.no_grad():
            expected.append(float(model(**inputs).logits[0, 0]))
    for budget in (1, 60, 5000):
        monkeypatch.setattr(reranker, "_BATCH_TOKENS", {"cpu": budget})
        logits = loaded.logits(pairs)
        assert logits.dtype == np.float32 and logits.shape == (len(pairs),)
        assert logits.tolist() == pytest.approx(expected, abs=1e-5)
    scores = [1 / (1 + math.exp(-logit)) for logit in expected]
    assert loaded.score(pairs).tolist() == pytest.approx(scores, abs=1e-5)
    assert loaded.score([]).shape == (0,)
    assert np.ptp(logits) > 0.1


def test_long_pairs_lose_the_end_of_the_longer_text(tiny_reranker: Path) -> None:
    loaded = Reranker.load(tiny_reranker, device="cpu", dtype="float32", max_length=16)
    assert loaded.max_length == 16
    assert Reranker.load(tiny_reranker).max_length == 64  # its positions
    long = "the lighthouse keeper " * 30
    a, b, c = loaded.logits([("who", long), ("who", long + "x"), ("who", "x" + long)])
    assert a == b != c


def test_what_is_no_reranker_is_refused(
    tiny_reranker: Path, tmp_path: Path, sample_texts: list[str]
) -> None:
    with pytest.raises(ConfigError, match="expected 8 to 64 tokens"):
        Reranker.load(tiny_reranker, max_length=65)
    with pytest.raises(ConfigError, match="no such folder"):
        Reranker.load("nowhere")
    with pytest.raises(ArtifactError, match="expected a Hugging Face sequence classifier"):
        Reranker.load(tmp_path)
    two = BertForSequenceClassification.from_pretrained(
        tiny_reranker, num_labels=2, ignore_mismatched_sizes=True
    )
    two.save_pretrained(tmp_path / "two")
    with pytest.raises(ArtifactError, match="found 2 labels"):
        Reranker.load(tmp_path / "two")
    encoder = write_bert(tmp_path / "encoder", sample_texts[:5])
    config = json.loads((encoder / "config.json").read_text())
    config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    (encoder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"found no .*classifier\."):
        Reranker.load(encoder)
