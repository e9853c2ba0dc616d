"""Queries: JSON lines, two columns, and wrong ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from corpus_files import error_of, write

from m3search.corpus import read_queries
from m3search.records import Query


def test_queries_of_json_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path / "q.jsonl", '{"_id": 1, "text": "a\\tb", "x": 1}\n{"id": "2", "query": ""}'
    )
    assert list(read_queries(path)) == [Query("1", "a\tb"), Query("2", "")]


@pytest.mark.parametrize("name", ["q.tsv", "q.txt", "q.tsv.gz"])
@pytest.mark.parametrize("header", ["", "id\ttext\n", "query-id\tquery\r\n"])
def test_queries_of_two_columns(tmp_path: Path, name: str, header: str) -> None:
    content = f'{header}q1\twhat "is" it\t?\nq2\t\n'.encode()
    path = write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    assert list(read_queries(path)) == [Query("q1", 'what "is" it\t?'), Query("q2", "")]


def test_wrong_queries(tmp_path: Path) -> None:
    content = b'{"_id": "1", "text": "a"}\n{"_id": "1", "text": "b"}\n{"_id": "2"}\n'
    path = write(tmp_path / "q.jsonl", content)
    assert "which line 1 has" in error_of(path, read_queries).found
    lines: list[int | None] = []
    queries = read_queries(path, on_error="skip", report=lambda error: lines.append(error.line))
    assert list(queries) == [Query("1", "a")]
    assert lines == [2, 3]
    path = write(tmp_path / "q.tsv", b"q1\ta\nno tab\n")
    assert error_of(path, read_queries).line == 2


TOPICS = """
<top>
<num> Number: 301
<title> Topic: International
  Organized Crime

<desc> Description:
Identify <organizations>.
</top>

<top><num>302</num><title>Poliomyelitis</title> and
</top>
"""


@pytest.mark.parametrize("name", ["topics.txt", "topics.txt.gz", "topics.tsv"])
def test_topics_of_trec(tmp_path: Path, name: str) -> None:
    content = TOPICS.encode()
    path = write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    wanted = [Query("301", "International Organized Crime"), Query("302", "Poliomyelitis")]
    assert list(read_queries(path)) == wanted


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ("<top>\n<num> 1\n</top>\n", 1, "expected a topic with a <title>, found none"),
        ("<top>\n<title> x\n</top>\n", 1, "expected a topic with a <num>, found none"),
        ("<top>\n<num> 1\n<title> x\n", 1, "a topic without its end"),
        ("<top>\n<num> 1\n<title> x\n<top>\n", 1, "a topic without its end"),
        ("<top>\n<num> 1\n<title> x\n</top>\nstray\n", 5, "expected <top>, found 'stray'"),
        ("<top>\n<num>1\n<title>x\n</top>\n<top>\n<num>1\n<title>y\n</top>\n", 8, "which line 4"),
    ],
)
def test_wrong_topics(tmp_path: Path, content: str, line: int, said: str) -> None:
    error = error_of(write(tmp_path / "topics.txt", content), read_queries)
    assert error.line == line
    assert said in str(error)
