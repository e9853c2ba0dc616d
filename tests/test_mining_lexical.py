"""Candidates by BM25: scores, positives and draws, by either implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from m3search.evaluation.bm25 import BM25, Language
from m3search.records import Document, Query
from m3search.training.mining.candidates import Example, KeyedText
from m3search.training.mining.lexical import LexicalSource

ANIMALS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen")
DOCUMENTS = [
    Document(f"d{row}", f"{name} {ANIMALS[row - 1]} {ANIMALS[row - 2]} lives here", name)
    for row, name in enumerate(ANIMALS)
]


def test_bm25_scores_are_those_of_the_baseline() -> None:
    passages = {each.id: KeyedText.of(each) for each in DOCUMENTS}
    source = LexicalSource(passages)
    asked = (DOCUMENTS[2], DOCUMENTS[7], Document("", "nowhere"))
    deep, short = (source.find([Example("cat dog", asked, "hen ")], depth)[0] for depth in (8, 2))
    bm25 = BM25([Document(name, each.text) for name, each in passages.items()], Language(None, ""))
    run = bm25.run([Query("q", "cat dog")], 8)["q"]
    assert [each.score for each in deep.candidates] == list(run.values())
    assert [each.passage.text for each in deep.candidates] == [passages[n].text for n in run]
    assert deep.positive_scores[:2] == [run["d2"], 0.0]  # d7 shares no word with the query
    last = list(run.values())[1]
    assert short.positive_scores[1] == last  # below a full list: at most what the last one has
    assert math.isnan(deep.positive_scores[2]) and math.isnan(short.positive_scores[2])
    drawn = source.draw(50, np.random.default_rng(0))
    assert sorted(each.text for each in drawn) == sorted(
        f"{each.title}\n{each.text}" for each in DOCUMENTS
    )
    assert len(source.draw(3, np.random.default_rng(0))) == 3


def test_lucene_takes_the_place_of_bm25s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3search.evaluation.lucene.LuceneBM25", StandIn)
    documents = [Document(name, f"{name} bird") for name in ("ant", "bee")]
    source = LexicalSource({each.id: KeyedText.of(each) for each in documents}, "lucene")
    (found,) = source.find([Example("bee", (documents[0],))], 5)
    assert isinstance(source._bm25, StandIn)
    assert [each.passage.text for each in found.candidates] == ["bee bird"]
    assert found.positive_scores == [0.0]


class StandIn(BM25):
    """bm25s in Lucene's place."""
