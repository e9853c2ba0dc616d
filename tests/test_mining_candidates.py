"""Mining against a slow search by hand, and where its candidates come from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mining_fakes import Record, open_source, write_texts
from searching import ListIndex, WordEncoder, make_index

from m3search.errors import ArtifactError, ConfigError
from m3search.index import Index
from m3search.records import MODES, Document, Mode
from m3search.search import Searcher
from m3search.training.mining.candidates import (
    Candidate,
    Example,
    IndexSource,
    KeyedText,
    listed_scores,
)
from m3search.training.mining.negatives import mine
from m3search.training.mining.records import (
    KnownPositives,
)
from m3search.training.mining.rules import (
    MiningSettings,
)

PAPER = (1.0, 0.3, 1.0)
SUMS = [
    (("dense", "sparse"), None),
    (MODES, None),
    (MODES, (0.2, 5.0, 0.0)),
    (("dense", "multi"), (0.1, 9.0, 3.0)),
]


def slow_score(
    index: ListIndex,
    modes: Sequence[Mode],
    query: str,
    row: int,
    weights: Sequence[float] | None = None,
) -> float:
    encoded = WordEncoder().encode([query], "query")
    scores = {mode: float(np.float32(index.score(mode, encoded, row))) for mode in modes}
    if len(modes) == 1:
        return scores[modes[0]]
    by_mode = dict(zip(MODES, weights or PAPER, strict=True))
    return float(np.float32(sum(by_mode[mode] * score for mode, score in scores.items())))


def slow_mine(
    texts: Sequence[str],
    records: Sequence[Record],
    modes: Sequence[Mode],
    weights: Sequence[float] | None,
    ask: MiningSettings,
) -> list[list[str]]:
    """Scores every text for every query and looks at one candidate after the other."""
    index = make_index(texts)
    mined = []
    for record in records:
        query = record["query"]
        scored = [(slow_score(index, modes, query, row, weights), row) for row in range(len(texts))]
        if list(modes) == ["sparse"]:
            scored = [pair for pair in scored if pair[0] > 0]
        ranked = sorted(scored, key=lambda pair: (-pair[0], pair[1]))
        answers = {text for each in records if each["query"] == query for text in each["pos"]}
        with_positives = make_index([*texts, *record["pos"]])
        lowest = min(
            slow_score(with_positives, modes, query, len(texts) + number, weights)
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


@pytest.mark.parametrize(
    ("modes", "weights"), [*(((mode,), None) for mode in MODES), *SUMS], ids=str
)
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
    modes: tuple[Mode, ...], weights: tuple[float, ...] | None, rules: dict[str, Any]
) -> None:
    texts = write_texts(50, seed=1)
    index: Any = make_index(texts)
    if "max_score" in rules:
        scores = [slow_score(index, modes, "dog elk", row, weights) for row in range(50)]
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
    source = IndexSource(Searcher(index, WordEncoder()), modes, weights)  # type: ignore[arg-type]
    mined = list(mine(records, source, settings, known=KnownPositives(records)))
    expected = slow_mine(texts, records, modes, weights, settings)
    assert [record["neg"] for record in mined] == expected
    assert len({len(negatives) for negatives in expected}) > 1  # the rules do something


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
    candidates = [
        Candidate(i + 1, 0.9 - i / 10, KeyedText.of(each)) for i, each in enumerate(ranked)
    ]
    asked = [Document("", "same", "title"), Document("", "same"), Document("", "none")]
    found = listed_scores(candidates, asked)
    assert found[:2] == [0.8, 0.9] and math.isnan(found[2])


def test_weights_are_those_of_a_search(tmp_path: Path) -> None:
    texts = write_texts(5, seed=4)
    index = Index.build(tmp_path, [Document(t, t) for t in texts], WordEncoder())
    searcher = Searcher(index, WordEncoder())  # type: ignore[arg-type]
    for weights, found in (((1, 2), "three numbers"), ((0, 0, 1), "only zeros")):
        with pytest.raises(ConfigError, match=f"weights: expected .*{found}"):
            IndexSource(searcher, ("dense", "sparse"), weights)
    example = [Example("ant", (Document("", "bee"),))]
    alone, weighed = (IndexSource(searcher, ("multi",), w).find(example, 5) for w in (None, PAPER))
    assert alone == weighed  # a mode alone weighs 1


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
    rng, seen, first = np.random.default_rng(0), Counter[str](), Counter[str]()
    for _ in range(400):
        drawn = [passage.text for passage in source.draw(4, rng)]
        assert len(set(drawn)) == len(drawn) <= 4
        seen.update(drawn)
        first.update(drawn[:1])
    assert set(seen) == set(texts[10:])
    assert max(seen.values()) < 2 * min(seen.values())
    # who takes only some of a draw takes no more of the beginning of the index
    assert max(first.values()) < 2 * min(first[text] for text in texts[10:])
