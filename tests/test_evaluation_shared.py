"""Texts that several corpora of an evaluation have: encoded once, and found the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_fakes import WordEncoder, make_set

from m3search.encoder import Encoder
from m3search.evaluation import EvaluationSet, evaluate_sets
from m3search.evaluation.shared import sharing_texts, texts_taken
from m3search.evaluation.tables import to_markdown

TEXTS = {"a": "red fox", "b": "blue whale in a tree", "c": "", "d": "green panda"}
WORDS = ["red", "blue", "green", "fox", "whale", "panda", "tree"]


def sets_of(folder: Path) -> list[EvaluationSet]:
    """Two sets, and one of all their texts, of which one is new."""
    first, second = {k: TEXTS[k] for k in "ab"}, {k: TEXTS[k] for k in "cd"}
    every = {"new": "tree tree", **{f"p{name}": text for name, text in TEXTS.items()}}
    asked, judged = {"q": "fox whale"}, {"q": {"x": 1}}
    return [
        EvaluationSet(make_set(folder / name, texts, asked, judged), unknown_documents="keep")
        for name, texts in (("first", first), ("second", second), ("every", every))
    ]


def assert_same(found: Any, wanted: Any) -> None:
    assert np.array_equal(found.dense, wanted.dense)
    assert (found.sparse != wanted.sparse).nnz == 0 and found.sparse.shape == wanted.sparse.shape
    assert found.truncated.tolist() == wanted.truncated.tolist()
    for one, other in zip(found.multi, wanted.multi, strict=True):
        assert np.array_equal(one, other)


def test_each_text_is_encoded_once(tiny_checkpoint: Path, tmp_path: Path) -> None:
    plain = Encoder.load(tiny_checkpoint, max_length=8)
    encoder = sharing_texts(plain, sets_of(tmp_path), tmp_path)
    texts = [*TEXTS.values(), "a longer text that the model does not read to its very end", "x"]
    first = encoder.encode(texts)
    assert_same(first, plain.encode(texts))
    assert first.truncated.any() and texts_taken(encoder) == 0
    again = encoder.encode(["tree tree", *reversed(texts)])  # what no corpus shares is not kept
    assert texts_taken(encoder) == len(TEXTS)
    for place, text in enumerate(reversed(texts), start=1):
        was = len(texts) - place
        if text in TEXTS.values():
            assert_same(again[place : place + 1], first[was : was + 1])
    assert_same(encoder.encode(["blue whale in a tree"]), first[1:2])
    assert len(encoder.encode([])) == 0
    asked = encoder.encode(["red fox"], "query")
    assert_same(asked, plain.encode(["red fox"], "query"))
    assert texts_taken(encoder) == len(TEXTS) + 1


def test_a_corpus_alone_shares_nothing(tmp_path: Path) -> None:
    one = sets_of(tmp_path)[0]
    same = replace(one, name="same")  # shares the index
    encoder = WordEncoder(WORDS)
    sharing = sharing_texts(encoder, [one, same], tmp_path)  # type: ignore[arg-type]
    for _ in range(2):
        sharing.encode(["red fox"])
    assert encoder.texts == ["red fox"] * 2 and texts_taken(sharing) == 0


def test_large_corpora_are_not_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = WordEncoder(WORDS)
    monkeypatch.setattr("m3search.evaluation.shared.LARGE", 1)
    sharing = sharing_texts(encoder, sets_of(tmp_path), tmp_path)  # type: ignore[arg-type]
    for _ in range(2):
        sharing.encode(["red fox"])
    assert texts_taken(sharing) == 0


def test_the_file_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = WordEncoder(WORDS)
    monkeypatch.setattr("m3search.evaluation.shared.MOST", 1)
    sharing = sharing_texts(encoder, sets_of(tmp_path), tmp_path)  # type: ignore[arg-type]
    for _ in range(2):
        sharing.encode(["red fox", "green panda"])
    assert encoder.texts == ["red fox", "green panda", "green panda"]


def test_an_evaluation_says_what_it_did_not_encode(tmp_path: Path) -> None:
    encoder = WordEncoder(WORDS)
    sets = [replace(each, rows=("dense", "all")) for each in sets_of(tmp_path)]
    found = evaluate_sets(sets, lambda _: encoder)  # type: ignore[arg-type,return-value]
    documents = [text for text in encoder.texts if text != "fox whale"]
    assert sorted(documents) == sorted([*TEXTS.values(), "tree tree"])
    counts = [each.details["encoded_before"] for each in found.sets]
    assert counts == [0, 0, len(TEXTS)]
    assert f"not in these seconds: documents {len(TEXTS)} of every." in to_markdown(found)
    alone = evaluate_sets(sets[2:], lambda _: WordEncoder(WORDS))  # type: ignore[arg-type,return-value]
    assert alone.sets[0].report.per_query == found.sets[2].report.per_query


def test_texts_that_are_cut_elsewhere_are_encoded_anew(tmp_path: Path) -> None:
    encoder = WordEncoder(WORDS)
    first, second, every = (replace(each, rows=("dense",)) for each in sets_of(tmp_path))
    sets = [first, second, replace(every, max_length=256)]
    found = evaluate_sets(sets, lambda _: encoder)  # type: ignore[arg-type,return-value]
    assert [each.details["encoded_before"] for each in found.sets] == [0, 0, 0]
