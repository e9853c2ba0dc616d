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
