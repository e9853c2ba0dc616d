"""The lengths of passages: those of their token ids, measured once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import m3search.training.lengths as lengths_module
from m3search.model.checkpoint import load_tokenizer
from m3search.model.tokenization import Tokenization
from m3search.training.devices import Devices
from m3search.training.inputs import Data, Source
from m3search.training.lengths import passage_lengths
from m3search.training.recipe import Recipe
from m3search.training.run import Run
from m3search.training.sources import Corpus, Passage, Question


@pytest.fixture(scope="module")
def tokenization(tiny_checkpoint: Path) -> Tokenization:
    return Tokenization(load_tokenizer(tiny_checkpoint))


@pytest.fixture
def corpus(sample_texts: list[str]) -> Corpus:
    """Passages in many languages, a third of them titled, each with another's text as negative."""
    texts = [text[: 20 + 7 * number] for number, text in enumerate(sample_texts[:60])]
    passages = [
        Passage(
            text,
            "A title" if number % 3 == 0 else "",
            (
                Question("q", (texts[number - 1],), negative_titles=("Its own title",)),
                Question("r", (texts[number - 2], text[:9])),
            ),
        )
        for number, text in enumerate(texts)
    ]
    return Corpus(Source("*"), ("a.jsonl",), tuple(passages), "its fingerprint")


def settings(**changes: Any) -> Data:
    return Data((Source("*"),), **{"passage_max_length": 64, "title_probability": 0.0} | changes)


def slow_length(tokenization: Tokenization, texts: Sequence[str], limit: int) -> int:
    return max(len(tokenization.encode([text], limit).ids[0]) for text in texts)


@pytest.mark.parametrize("negatives", [0, 1])
@pytest.mark.parametrize("titles", [0.0, 0.1])
@pytest.mark.parametrize("limit", [12, 64, 512])
def test_a_length_is_that_of_the_longest_text_of_a_passage(
    corpus: Corpus,
    tokenization: Tokenization,
    monkeypatch: pytest.MonkeyPatch,
    negatives: int,
    titles: float,
    limit: int,
) -> None:
    monkeypatch.setattr(lengths_module, "_AT_ONCE", 50)  # so that passages come in several parts
    wanted = []
    for passage in corpus.passages:
        titled = titles > 0 and passage.title
        texts = [f"{passage.title}\n{passage.text}" if titled else passage.text]
        if negatives:
            first, second = passage.questions
            [own] = first.negatives
            texts += [f"Its own title\n{own}" if titles else own, *second.negatives]
        wanted.append(slow_length(tokenization, texts, limit))
    data = settings(passage_max_length=limit, negatives=negatives, title_probability=titles)
    found = passage_lengths(corpus, tokenization, data)
    assert found.dtype == np.int64
    assert found.tolist() == wanted
    assert len(set(wanted)) > 1 or limit == 12


def test_a_title_counts_whichever_question_brings_it(tokenization: Tokenization) -> None:
    titled = Question("q", ("neg",), negative_titles=("A title of many more words than that",))
    plain = Question("r", ("neg", "x"), negative_titles=("", "y"))
    data = settings(negatives=1, title_probability=1.0)
    for questions in ((titled, plain), (plain, titled)):
        corpus = Corpus(Source("*"), ("a.jsonl",), (Passage("text", "", questions),), "of files")
        [length] = passage_lengths(corpus, tokenization, data)
        texts = [f"{title}\n{text}" for text, title in titled.titles().items()]
        assert length == slow_length(tokenization, texts, 64)


def kept_files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "lengths").iterdir()}


def test_what_was_measured_is_kept_and_used(
    corpus: Corpus, tokenization: Tokenization, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = passage_lengths(corpus, tokenization, settings(), tmp_path)
    assert len(kept_files(tmp_path)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(lengths_module, "_measure", lambda *_: pytest.fail("measured again"))
        again = passage_lengths(corpus, tokenization, settings(), tmp_path)
    assert again.tolist() == first.tolist()
    assert again.dtype == np.int64
    shorter = corpus._replace(passages=corpus.passages[:3])  # the file is not that of these
    assert passage_lengths(shorter, tokenization, settings(), tmp_path).tolist() == list(first[:3])


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY\x01\x00", b"half", b"PK\x03\x04"])
def test_a_damaged_file_is_measured_again(
    corpus: Corpus, tokenization: Tokenization, tmp_path: Path, content: bytes
) -> None:
    first = passage_lengths(corpus, tokenization, settings(), tmp_path)
    (name,) = kept_files(tmp_path)
    path = tmp_path / "lengths" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    assert passage_lengths(corpus, tokenization, settings(), tmp_path).tolist() == first.tolist()
    assert path.read_bytes() == whole
    assert kept_files(tmp_path) == {name}


def test_what_decides_the_lengths_has_a_file_of_its_own(
    corpus: Corpus, tokenization: Tokenization, tmp_path: Path
) -> None:
    for number, changes in enumerate(
        [
            {},
            {"passage_max_length": 65},
            {"negatives": 1},
            {"title_probability": 0.5},
            {"passage_max_length": 65, "negatives": 1},
        ]
    ):
        passage_lengths(corpus, tokenization, settings(**changes), tmp_path)
        assert len(kept_files(tmp_path)) == number + 1
    for changes in ({"query_max_length": 9}, {"queries_per_passage": 2}, {"negatives": 7}):
        passage_lengths(corpus, tokenization, settings(**changes), tmp_path)
        assert len(kept_files(tmp_path)) == 5
    passage_lengths(corpus._replace(fingerprint="other"), tokenization, settings(), tmp_path)
    assert len(kept_files(tmp_path)) == 6
    untitled = corpus._replace(source=Source("*", titles=False), fingerprint="untitled")
    for share in (0.0, 0.5, 1.0):
        passage_lengths(untitled, tokenization, settings(title_probability=share), tmp_path)
        assert len(kept_files(tmp_path)) == 7
    passage_lengths(corpus._replace(fingerprint="untitled"), tokenization, settings(), tmp_path)
    assert len(kept_files(tmp_path)) == 7
    titled = corpus._replace(fingerprint="untitled")
    passage_lengths(titled, tokenization, settings(title_probability=0.5), tmp_path)
    assert len(kept_files(tmp_path)) == 8


def test_another_tokenizer_has_a_file_of_its_own(
    corpus: Corpus, tokenization: Tokenization, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passage_lengths(corpus, tokenization, settings(), tmp_path)
    monkeypatch.setattr(Tokenization, "fingerprint", "that of another")
    passage_lengths(corpus, tokenization, settings(), tmp_path)
    assert len(kept_files(tmp_path)) == 2


def test_one_process_measures_before_the_others_look(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    measure = lengths_module._measure

    def note(*arguments: Any) -> Any:
        events.append("measures")
        return measure(*arguments)

    monkeypatch.setattr(lengths_module, "_measure", note)
    monkeypatch.setattr(Devices, "wait", lambda _: events.append("waits"))
    for rank in (0, 1):
        devices = Devices()
        devices.rank = rank
        (tmp_path / str(rank)).mkdir()  # of its own, so that each measures
        Run(recipe, tmp_path / str(rank), devices)
    assert events == ["measures", "waits", "waits", "measures"]
