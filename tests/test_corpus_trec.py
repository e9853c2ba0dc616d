"""Judgements and runs: what is read and written, and what is wrong in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from corpus_files import error_of, write
from hypothesis import given
from hypothesis import strategies as st
from killing import kill_at_each_call

from m3search.corpus import read_qrels, read_run, write_run
from m3search.errors import DataError

# --- qrels


@pytest.mark.parametrize(
    "content",
    [
        "query-id\tcorpus-id\tscore\nq 1\td1\t2\nq 1\td2\t0\nq2\td1\t1\n",
        "q 1\td1\t2\r\nq 1\td2\t0\r\nq2\td1\t1\r\n",
    ],
)
def test_qrels_of_beir(tmp_path: Path, content: str) -> None:
    expected = {"q 1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}
    assert read_qrels(write(tmp_path / "test.tsv", content)) == expected


@pytest.mark.parametrize("content", ["q1 0 d1 2\nq1 0 d2 -1\n", "q1\t0\td1\t2\nq1\t0\td2\t-1\n"])
def test_qrels_of_trec(tmp_path: Path, content: str) -> None:
    assert read_qrels(write(tmp_path / "qrels", content)) == {"q1": {"d1": 2, "d2": -1}}


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        ("q1\td1\t1\nq1\td1\t1\n", 2, "'d1' a second time for query 'q1'"),
        ("q1\td1\t1.0\n", 1, "'1.0'"),
        ("q1 0 d1 1\nq1 0 d2 high\n", 2, "'high'"),
        ("q1 0 d1 1\nq1\td2\t1\n", 2, "3 columns"),
        ("q1\td1\t1\nq1 0 d2 1\n", 2, "4 columns"),
        ("q1 d1\n", 1, "2 columns"),
        ("q1 0 d1 1 5\n", 1, "5 columns"),
        ("query-id\tcorpus-id\tscore\n", None, "only a header"),
        ("", None, "an empty file"),
    ],
)
def test_wrong_qrels(tmp_path: Path, content: str, line: int | None, found: str) -> None:
    error = error_of(write(tmp_path / "test.tsv", content), read_qrels)
    assert error.line == line
    assert found in error.found


# --- runs


def test_a_run_as_trec_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    write_run(path, {"q2": {"b": 0.5, "x": 2.0, "a": 0.5}, "q1": {}}, tag="mine")
    assert path.read_text() == ("q2 Q0 x 1 2.0 mine\nq2 Q0 b 2 0.5 mine\nq2 Q0 a 3 0.5 mine\n")
    assert list(tmp_path.iterdir()) == [path]


def test_the_order_of_a_run_that_was_read(tmp_path: Path) -> None:
    lines = ["q Q0 c 2 1 t", "q Q0 b 1 1 t", "q Q0 e 9 3.5 t", "q Q0 d 3 -1e-3 t", "q Q0 a 2 1 t"]
    run = read_run(write(tmp_path / "r", "\n".join(lines)))
    assert list(run["q"].items()) == [("e", 3.5), ("b", 1), ("a", 1), ("c", 1), ("d", -0.001)]


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5).filter(
    lambda word: word.split() == [word]
)


@given(
    st.dictionaries(
        words,
        st.dictionaries(words, st.floats(allow_nan=False, allow_infinity=False), min_size=1),
        min_size=1,
        max_size=3,
    )
)
def test_a_run_comes_back_as_it_was_written(tmp_path_factory, run) -> None:
    path = tmp_path_factory.mktemp("run") / "run.trec"
    write_run(path, run)
    back = read_run(path)
    assert back == run
    for query, scored in run.items():
        assert list(back[query]) == sorted(scored, key=lambda document: -scored[document])


@pytest.mark.parametrize(
    ("run", "tag", "expected"),
    [
        ({"q 1": {"d": 1.0}}, "t", "query id"),
        ({"q": {"d\t1": 1.0}}, "t", "document id"),
        ({"q": {"": 1.0}}, "t", "document id"),
        ({"q": {"d": 1.0}}, "my run", "tag"),
        ({"q": {"d": float("nan")}}, "t", "finite scores"),
        ({"q": {"d": 1.0, "e": float("-inf")}}, "t", "finite scores"),
    ],
)
def test_a_run_that_cannot_be_written(tmp_path: Path, run, tag: str, expected: str) -> None:
    write_run(tmp_path / "run", {"old": {"d": 1.0}})
    with pytest.raises(DataError) as caught:
        write_run(tmp_path / "run", run, tag)
    assert expected in caught.value.expected
    assert read_run(tmp_path / "run") == {"old": {"d": 1.0}}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_is_whole_wherever_its_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    old = {f"q{number}": {"old": 1.0} for number in range(3)}
    new = {f"q{number}": {f"d{i}": 1.0 / (i + 1) for i in range(300)} for number in range(5)}
    write_run(path, old)
    met = []
    for _ in kill_at_each_call(lambda: write_run(path, new)):
        met.append(read_run(path))
        assert met[-1] in (old, new)
    assert len(met) > 8
    assert met[0] == old
    assert read_run(path) == new


def test_a_run_leaves_the_files_beside_it_alone(tmp_path: Path) -> None:
    (tmp_path / "run.part").write_text("mine")
    write_run(tmp_path / "run", {"q": {"d": 1.0}})
    assert (tmp_path / "run.part").read_text() == "mine"
    assert {each.name for each in tmp_path.iterdir()} == {"run", "run.part"}


def test_a_run_into_a_pipe_and_through_a_link(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_run(pipe, {"q": {"d": 1.0}})
        assert os.read(reader, 100) == b"q Q0 d 1 1.0 m3search\n"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to("folder/run")
    for score in (1.0, 2.0):
        write_run(link, {"q": {"d": score}})
        assert link.is_symlink()
        assert read_run(tmp_path / "folder" / "run") == {"q": {"d": score}}


def test_no_place_for_a_run(tmp_path: Path) -> None:
    for place in (tmp_path / "no folder" / "run", tmp_path):
        with pytest.raises(DataError, match="a place to write to"):
            write_run(place, {"q": {"d": 1.0}})


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("q Q0 d 1 1.0", "5"),
        ("q Q0 d 1 high t", "'high'"),
        ("q Q0 d 1 nan t", "'nan'"),
        ("q Q0 d one 1.0 t", "'one'"),
        ("q Q0 d 1 1.0 t\nq Q0 d 2 0.5 t", "a second time"),
    ],
)
def test_wrong_runs(tmp_path: Path, content: str, found: str) -> None:
    assert found in error_of(write(tmp_path / "run", content), read_run).found


def test_an_empty_run_found_nothing(tmp_path: Path) -> None:
    """A lexical baseline may match no query of a set in another script."""
    write_run(tmp_path / "nothing.trec", {"q": {}})
    assert read_run(tmp_path / "nothing.trec") == {}
    (tmp_path / "blank.trec").write_text("\n")
    with pytest.raises(DataError, match="at least one line"):
        read_run(tmp_path / "blank.trec")
