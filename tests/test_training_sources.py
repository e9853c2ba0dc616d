"""The sources of a recipe: which files are read, and what is put together of their lines."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from training_runs import write_lines

from m3search.errors import ConfigError, DataError
from m3search.training.data import Pair
from m3search.training.inputs import Source
from m3search.training.sources import (
    Corpus,
    Passage,
    Question,
    group_by_passage,
    read_source,
    read_sources,
)


def names_of(corpus: Corpus) -> list[str]:
    """The one query of each passage."""
    return [question.text for passage in corpus.passages for question in passage.questions]


def write_query(path: Path, query: str, **fields: Any) -> Path:
    return write_lines(path, [{"query": query, "pos": [f"on {query}"], **fields}])


def test_passages_are_grouped_over_all_files_of_a_source(tmp_path: Path) -> None:
    write_lines(tmp_path / "b.jsonl", [{"query": "q2", "pos": ["same"]}])
    write_lines(tmp_path / "a.jsonl", [{"query": "q1", "pos": ["same"]}])
    corpus = read_source(tmp_path, Source("*.jsonl"))
    assert corpus.passages == (Passage("same", "", (Question("q1"), Question("q2"))),)
    assert corpus.files == ("a.jsonl", "b.jsonl")
    assert corpus.questions == 2


def test_pairs_of_a_gzip_file_are_grouped(tmp_path: Path) -> None:
    lines = [
        {"query": "q1", "pos": ["a", "b"], "neg": ["x"], "title": "T"},
        {"query": "q2", "pos": ["a"], "neg": ["b", "a"], "title": "later"},
    ]
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    a, b = read_source(tmp_path, Source("pairs.jsonl.gz")).passages
    assert a == Passage("a", "T", (Question("q1", ("x",)), Question("q2", ("b",))))
    assert b == Passage("b", "T", (Question("q1", ("x",)),))


def test_titles_of_negatives_stay_with_them(tmp_path: Path) -> None:
    lines = [
        {"query": "q", "pos": ["a"], "neg": ["a", "x", "y"], "neg_titles": ["A", "X", ""]},
        {"query": "q", "pos": ["a"], "neg": ["z"]},
        {"query": "r", "pos": ["a"], "neg": ["z"]},
    ]
    write_lines(tmp_path / "pairs.jsonl", lines)
    (passage,) = read_source(tmp_path, Source("*.jsonl")).passages
    assert passage.questions == (
        Question("q", ("x", "y", "z"), negative_titles=("X", "", "")),
        Question("r", ("z",)),
    )


def test_a_source_without_titles_has_none(tmp_path: Path) -> None:
    line = {"query": "q", "pos": ["a"], "title": "A", "neg": ["x"], "neg_titles": ["X"]}
    write_lines(tmp_path / "pairs.jsonl", [line])
    titled, untitled = (
        read_source(tmp_path, Source("*.jsonl", titles=titles)) for titles in (True, False)
    )
    assert titled.passages == (Passage("a", "A", (Question("q", ("x",), negative_titles=("X",)),)),)
    assert untitled.passages == (Passage("a", "", (Question("q", ("x",)),)),)
    assert untitled.fingerprint == titled.fingerprint


def test_a_glob_finds_files_and_folders_of_training_files(tmp_path: Path) -> None:
    for name in ("one.jsonl", "set/two.jsonl", "set/three.json", "set/deep/four.jsonl"):
        write_query(tmp_path / name, Path(name).stem)
    five = write_query(tmp_path / "set" / "five", "five")
    (tmp_path / "set" / "five.jsonl.gz").write_bytes(gzip.compress(five.read_bytes()))
    (tmp_path / "set" / "README.md").write_text("no pairs")
    for pattern, found in {
        "one.jsonl": ["one"],
        "set": ["five", "three", "two"],
        "set/*.jsonl": ["two"],
        "*/deep": ["four"],
        "**/*.jsonl": ["one", "four", "two"],
        "set/deep*": ["four"],
        "[os]*": ["one", "five", "three", "two"],
    }.items():
        corpus = read_source(tmp_path, Source(pattern))
        assert names_of(corpus) == found, pattern
        assert len(set(corpus.files)) == len(corpus.files)


def test_a_file_that_a_glob_finds_twice_is_read_once(tmp_path: Path) -> None:
    write_query(tmp_path / "set" / "one.jsonl", "one")
    assert read_source(tmp_path, Source("**/*")).files == ("set/one.jsonl",)


@pytest.mark.parametrize("pattern", ["*.jsonl", "empty", "only.docs.jsonl"])
def test_no_file_is_an_error(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "empty").mkdir()
    write_lines(tmp_path / "only.docs.jsonl", [{"_id": "d", "text": "t"}])
    with pytest.raises(ConfigError, match=r"files = .*found none.*data\.folder"):
        read_source(tmp_path, Source(pattern))


def test_documents_are_no_pairs_but_texts(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"query": "q", "pos_id": "d1"}])
    documents = [{"_id": f"d{i}", "text": f"text {i}", "title": f"T{i}"} for i in (1, 2)]
    write_lines(tmp_path / "a.docs.jsonl", documents)
    pairs = read_source(tmp_path, Source("*.jsonl"))
    assert pairs.files == ("a.jsonl",)
    assert pairs.passages == (Passage("text 1", "T1", (Question("q"),)),)
    texts = read_source(tmp_path, Source("*.jsonl"), pairs=False)
    assert texts.files == ("a.docs.jsonl", "a.jsonl")
    assert texts.passages == (Passage("text 1", "T1"), Passage("text 2", "T2"), Passage("q"))


def test_a_source_by_file_is_one_for_each_file(tmp_path: Path) -> None:
    for name in ("set.[de].jsonl", "set.fr.jsonl"):
        write_query(tmp_path / name, Path(name).stem)
    (whole,) = read_sources(tmp_path, Source("set.*"))
    assert (whole.name, len(whole.passages)) == ("set.*", 2)
    source = Source("set.*", weight=0.5, by_file=True)
    german, french = read_sources(tmp_path, source)
    assert (german.name, german.files) == ("set.[de].jsonl", ("set.[de].jsonl",))
    assert (french.name, names_of(french)) == ("set.fr.jsonl", ["set.fr"])
    assert german.source == french.source == source
    assert french.fingerprint == read_source(tmp_path, Source("set.fr.jsonl")).fingerprint


def test_the_fingerprint_is_of_all_that_is_read(tmp_path: Path) -> None:
    contents = {
        "a.jsonl": b'{"query": "q", "pos_id": "d"}\n',
        "b.jsonl": b'{"query": "q", "pos": ["p"]}\n',
        "a.docs.jsonl": b'{"_id": "d", "text": "t"}\n',
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    digest = hashlib.sha256(b"".join(hashlib.sha256(c).digest() for c in contents.values()))
    first = read_source(tmp_path, Source("*.jsonl")).fingerprint
    assert first == digest.hexdigest()
    assert first != read_source(tmp_path, Source("b.jsonl")).fingerprint
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content + b"\n")
        assert read_source(tmp_path, Source("*.jsonl")).fingerprint != first, name
        (tmp_path / name).write_bytes(content)
    assert read_source(tmp_path, Source("*.jsonl")).fingerprint == first


def test_a_bad_line_of_a_source_is_an_error(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"query": "q", "pos": ["a"]}, {"query": "q"}])
    with pytest.raises(DataError, match=r"a\.jsonl, line 2"):
        read_source(tmp_path, Source("*.jsonl"))


def test_a_query_that_stands_twice_for_a_passage_is_one_question() -> None:
    pairs = [
        Pair("q", ("a",), ("x", "y")),
        Pair("other", ("a",), ("z",)),
        Pair("q", ("b", "a"), ("y", "w", "a")),
    ]
    assert group_by_passage(pairs) == [
        Passage("a", "", (Question("q", ("x", "y", "w")), Question("other", ("z",)))),
        Passage("b", "", (Question("q", ("y", "w", "a")),)),
    ]


def test_a_negative_keeps_the_title_that_any_line_gives_it() -> None:
    """As where some files were mined again and others not."""
    titled = Pair("q", ("a",), ("x", "y"), negative_titles=("X", ""))
    for lines in ([titled, Pair("q", ("a",), ("x",))], [Pair("q", ("a",), ("x",)), titled]):
        ((question,),) = (passage.questions for passage in group_by_passage(lines))
        assert question.titles() == {"x": "X"}
    blank = Pair("q", ("a",), ("x", "z"), negative_titles=("", "Z"))
    ((question,),) = (passage.questions for passage in group_by_passage([titled, blank]))
    assert question.titles() == {"x": "X", "z": "Z"}


def test_scores_of_a_teacher_follow_their_texts() -> None:
    pairs = [
        Pair("q", ("a", "b"), ("x", "b", "y"), "", (5.0, 4.0), (3.0, 2.0, 1.0)),
        Pair("q", ("a",), ("z",), "", (9.0,), (0.5,)),
    ]
    a, b = group_by_passage(pairs)
    assert a.questions == (Question("q", ("x", "b", "y", "z"), 5.0, (3.0, 2.0, 1.0, 0.5)),)
    assert b.questions == (Question("q", ("x", "y"), 4.0, (3.0, 1.0)),)


@pytest.mark.parametrize(
    ("pairs", "taught"),
    [
        ([Pair("q", ("a",), ("x",), "", (), (1.0,))], False),
        ([Pair("q", ("a",), ("x",), "", (1.0,), ())], False),
        ([Pair("q", ("a",), (), "", (1.0,), ())], True),
        ([Pair("q", ("a",), ("x",), "", (2.0,), (1.0,)), Pair("q", ("a",), ("y",))], False),
        ([Pair("q", ("a",)), Pair("q", ("a",), ("x",), "", (2.0,), (1.0,))], True),
    ],
)
def test_a_question_has_all_scores_or_none(pairs: list[Pair], taught: bool) -> None:
    ((question,),) = (passage.questions for passage in group_by_passage(pairs))
    assert (question.score is not None) == taught
    assert len(question.negative_scores) == (len(question.negatives) if taught else 0)


def test_every_text_is_there_once_with_a_title_if_it_has_one(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"text": "a"},
        {"text": "b", "title": "B"},
        {"query": "q", "pos": ["a"], "neg": ["b", "c"], "title": "A"},
        {"text": "a", "title": "later"},
    ]
    write_lines(tmp_path / "texts.jsonl", lines)
    corpus = read_source(tmp_path, Source("*.jsonl"), pairs=False)
    assert corpus.passages == (Passage("a", "A"), Passage("b", "B"), Passage("q"), Passage("c"))
    assert corpus.questions == 0
