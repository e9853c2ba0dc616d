"""Documents that several sets of an evaluation have: encoded once, and the same results."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from evaluation_fakes import TEXTS, WORDS, WordEncoder, make_set

from m3search.evaluation import EvaluationSet, Experiment, evaluate_sets
from m3search.evaluation.cache import Cache
from m3search.evaluation.collection import load_collection
from m3search.evaluation.encodings import pack
from m3search.evaluation.shared_texts import SharedTexts, SharingEncoder
from m3search.evaluation.tables import to_markdown

MORE = {"d5": "red tree", "d6": "green fox"}


@pytest.fixture
def small(tmp_path: Path) -> EvaluationSet:
    return EvaluationSet(make_set(tmp_path / "small"), depth=2)


@pytest.fixture
def large(tmp_path: Path) -> EvaluationSet:
    """The same documents by other ids, and two of its own."""
    return EvaluationSet(make_set(tmp_path / "large", TEXTS | MORE), depth=2)


def evaluate(
    sets: Sequence[EvaluationSet], cache: Cache | None = None
) -> tuple[Experiment, list[str]]:
    encoder: Any = WordEncoder(WORDS)
    return evaluate_sets(sets, lambda _: encoder, cache=cache), encoder.texts


def test_what_another_set_has_is_not_encoded_again(
    small: EvaluationSet, large: EvaluationSet, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    found, encoded = evaluate([small, large])
    assert sorted(tmp_path.rglob("*")) == before
    for text in (TEXTS | MORE).values():
        assert encoded.count(text) == 1
    assert [each.details["shared"] for each in found.sets] == [0, len(TEXTS)]
    assert "as they had been before: large 4." in to_markdown(found)
    for each, wanted in zip(found.sets, (small, large), strict=True):
        (alone,) = evaluate([wanted])[0].sets
        assert each.report == alone.report and alone.details["shared"] == 0
        assert each.details["bytes"] == alone.details["bytes"]


def test_it_does_not_matter_which_set_is_first(small: EvaluationSet, large: EvaluationSet) -> None:
    found, encoded = evaluate([large, small])
    assert all(encoded.count(text) == 1 for text in (TEXTS | MORE).values())
    assert [each.details["shared"] for each in found.sets] == [0, len(TEXTS)]


def test_a_report_from_the_cache_says_it_still(
    small: EvaluationSet, large: EvaluationSet, tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "cache")
    first, _ = evaluate([small, large], cache)
    again, encoded = evaluate([small, large], cache)
    assert not encoded
    other, encoded = evaluate([replace(large, depth=4)], cache)  # the index, searched otherwise
    assert not encoded
    for found in (first, again, other):
        assert found.sets[-1].details["shared"] == len(TEXTS)


def test_texts_cut_at_another_length_are_others(small: EvaluationSet, large: EvaluationSet) -> None:
    found, encoded = evaluate([small, replace(large, max_length=7)])
    assert all(encoded.count(text) == 2 for text in TEXTS.values())
    assert [each.details["shared"] for each in found.sets] == [0, 0]


def shared(*sets: EvaluationSet, folder: Path, **options: int) -> SharedTexts:
    return SharedTexts([(each, load_collection(each)) for each in sets], folder, **options)


def test_only_texts_of_two_corpora_are_kept(
    small: EvaluationSet, large: EvaluationSet, tmp_path: Path
) -> None:
    """Not those of one corpus in two sets, which have one index, nor repeated ones of one."""

    def count(*sets: EvaluationSet) -> int:
        return len(shared(*sets, folder=tmp_path).left[0])

    assert count(small, large) == len(TEXTS)
    assert count(small, replace(small, name="again")) == 0
    twice = EvaluationSet(make_set(tmp_path / "twice", TEXTS | {"d7": TEXTS["d1"]}))
    assert count(twice) == count() == 0
    assert count(twice, small) == len(TEXTS)


def test_titles_are_part_of_the_texts(small: EvaluationSet, tmp_path: Path) -> None:
    """As the template of each set has them."""
    titled = EvaluationSet(make_set(tmp_path / "titled"), title_template="{title}: {text}")
    lines = [{"_id": "d1", "title": "red", "text": "fox"}, {"_id": "d2", "text": "blue whale"},
             {"_id": "d3", "title": "x", "text": "y"}]  # fmt: skip
    content = "\n".join(map(json.dumps, lines)).encode()
    (titled.path / "corpus.jsonl.gz").write_bytes(gzip.compress(content))
    for template, expected in (("{title} {text}", 2), ("{text}", 1), ("{title}\n{text}", 1)):
        of_them = shared(small, replace(titled, title_template=template), folder=tmp_path)
        assert len(of_them.left[0]) == expected, template


def test_nothing_is_kept_that_no_other_corpus_will_have(
    small: EvaluationSet, large: EvaluationSet, tmp_path: Path
) -> None:
    held, judged = {"d1": "red fox", "d2": "grey seal"}, {"q1": {"d1": 1}}
    third = EvaluationSet(make_set(tmp_path / "third", held, judged=judged))
    texts = shared(small, large, third, folder=tmp_path)
    assert texts.pass_by(["red fox", "blue whale", "grey seal"]).tolist() == [2, 1, -1]
    assert texts.pass_by(["red fox", "blue whale"]).tolist() == [1, 0]
    assert texts.pass_by(["red fox"]).tolist() == texts.pass_by(["red fox"]).tolist() == [0]


@pytest.fixture
def texts(small: EvaluationSet, large: EvaluationSet, tmp_path: Path) -> Iterator[SharedTexts]:
    with closing(shared(small, large, folder=tmp_path)) as found:
        yield found


def encode(encoder: WordEncoder, texts: SharedTexts, *asked: str) -> tuple[Any, int]:
    sharing = SharingEncoder(encoder, texts)  # type: ignore[arg-type]
    return sharing.encode(asked), sharing.taken


def test_what_comes_back_is_what_was_computed_in_its_place(texts: SharedTexts) -> None:
    encoder = WordEncoder(WORDS)
    encode(encoder, texts, "red fox", "blue whale")
    asked = ("red panda", "blue whale", "red tree", "red fox")
    found, taken = encode(encoder, texts, *asked)
    assert taken == 2
    alone = WordEncoder(WORDS).encode(asked)
    np.testing.assert_array_equal(found.dense, alone.dense)
    assert (found.sparse != alone.sparse).nnz == 0
    for vectors, expected in zip(found.multi, alone.multi, strict=True):
        np.testing.assert_array_equal(vectors, expected)
    all_of_them, taken = encode(encoder, texts, "red fox", "red panda")
    assert taken == len(all_of_them) == 2


def test_another_use_of_the_model_encodes_anew(texts: SharedTexts) -> None:
    encode(WordEncoder(WORDS), texts, "red fox")
    for other in (WordEncoder(WORDS[1:]), WordEncoder(WORDS, precision="cuda bfloat16"),
                  WordEncoder(WORDS, modes=("dense",))):  # fmt: skip
        assert encode(other, texts, "red fox")[1] == 0
    assert encode(WordEncoder(WORDS), texts, "red fox")[1] == 1


def test_without_room_texts_are_encoded_again(
    small: EvaluationSet, large: EvaluationSet, tmp_path: Path
) -> None:
    one = len(pack(WordEncoder(WORDS).encode(["red fox"])))
    for room, expected in ((one - 1, 0), (one, 1), (2 * one - 1, 1), (2 * one, 2)):
        with closing(shared(small, large, folder=tmp_path, most=room)) as texts:
            encode(WordEncoder(WORDS), texts, "red fox", "blue panda", "red panda")
            found, taken = encode(WordEncoder(WORDS), texts, "red fox", "red panda")
            assert (taken, len(found)) == (expected, 2), room
    texts = shared(small, large, folder=tmp_path / "none")
    for _ in range(2):
        assert encode(WordEncoder(WORDS), texts, "red fox")[1] == 0


def test_a_disk_that_fills_up_gets_its_room_back(
    texts: SharedTexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(WordEncoder(WORDS), texts, "red fox")
    file = texts._file
    assert file is not None
    full = MagicMock(wraps=file, write=MagicMock(side_effect=OSError(28, "No space left")))
    monkeypatch.setattr(texts, "_file", full)
    found, taken = encode(WordEncoder(WORDS), texts, "red panda", "blue whale")
    assert len(found) == 2 and taken == 0 and file.closed
    assert encode(WordEncoder(WORDS), texts, "red fox", "red panda")[1] == 0


def test_after_the_end_nothing_is_held(texts: SharedTexts) -> None:
    encode(WordEncoder(WORDS), texts, "red fox")
    texts.close()
    texts.close()
    encode(WordEncoder(WORDS), texts, "red panda")
    assert texts._file is None
    assert encode(WordEncoder(WORDS), texts, "red fox")[1] == 0
