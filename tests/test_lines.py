"""Text files line by line: how they may be packed, and how a bad file is answered."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import pytest
import zstandard
from corpus_files import GOOD, error_of, packed, write
from hypothesis import given
from hypothesis import strategies as st

from m3search.corpus import read_corpus, read_queries
from m3search.errors import DataError
from m3search.lines import find_file, parse_object, read_lines
from m3search.records import Document


@pytest.mark.parametrize("packing", packed(b""))
def test_compression_is_told_by_the_content(tmp_path: Path, packing: str) -> None:
    content = b"".join(b'{"_id": %d, "text": "%s"}\r\n' % (i, b"x" * i * 99) for i in range(200))
    path = write(tmp_path / "corpus", packed(content)[packing])
    documents = list(read_corpus(path))
    assert [document.id for document in documents] == [str(i) for i in range(200)]
    assert [len(document.text) for document in documents] == [99 * i for i in range(200)]


def test_standard_input_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in packed(GOOD).items():
        stream = io.TextIOWrapper(io.BufferedReader(io.BytesIO(content)))
        monkeypatch.setattr(sys, "stdin", stream)
        assert list(read_corpus("-")) == [Document("a", "tea")], name
        assert not stream.closed


def test_byte_order_mark_blank_lines_and_a_missing_last_newline(tmp_path: Path) -> None:
    path = write(tmp_path / "c", b"\xef\xbb\xbf" + GOOD + b"\n  \r\n" + b'{"_id":"b","text":"y"}')
    assert [document.id for document in read_corpus(path)] == ["a", "b"]


def test_a_very_long_line_and_every_script(tmp_path: Path) -> None:
    text = "हिन्दी 中文 العربية \U0001f375 " * 50_000
    line = json.dumps({"_id": "ß", "text": text})  # with escapes, pairs of surrogates among them
    path = write(tmp_path / "c.zst", zstandard.ZstdCompressor().compress(line.encode()))
    assert list(read_corpus(path)) == [Document("ß", text)]


@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), min_size=1))
def test_lines_are_those_of_a_split(tmp_path_factory: pytest.TempPathFactory, lines) -> None:
    folder = tmp_path_factory.mktemp("lines")
    content = b"x" + b"\n".join(lines)
    expected = [
        (number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()
    ]
    for packing in ("gzip of two members", "zstd of two frames", "plain"):
        path = write(folder / "f", packed(content)[packing])
        assert [(n, line.removesuffix(b"\n")) for n, line in read_lines(path)] == expected


def test_find_file_prefers_the_plain_one(tmp_path: Path) -> None:
    assert find_file(tmp_path, "corpus.jsonl") is None
    write(tmp_path / "corpus.jsonl.zst", b"")
    assert find_file(tmp_path, "corpus.jsonl") == tmp_path / "corpus.jsonl.zst"
    write(tmp_path / "corpus.jsonl", b"")
    assert find_file(tmp_path, "corpus.jsonl") == tmp_path / "corpus.jsonl"


# --- wrong files


def test_a_missing_file_is_told_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl.gz", gzip.compress(GOOD))
    with pytest.raises(DataError, match=r"Did you mean .*corpus\.jsonl\.gz"):
        read_corpus(tmp_path / "corpus.jsonl")
    with pytest.raises(DataError, match="nothing at this path"):
        read_corpus(tmp_path / "no folder" / "corpus.jsonl")


def test_a_folder_names_the_file_inside(tmp_path: Path) -> None:
    assert "a folder" in error_of(tmp_path).found
    write(tmp_path / "corpus.jsonl.gz", gzip.compress(GOOD))
    assert str(tmp_path / "corpus.jsonl.gz") in error_of(tmp_path).remedy
    write(tmp_path / "queries.jsonl", GOOD)
    assert str(tmp_path / "queries.jsonl") in error_of(tmp_path, read_queries).remedy


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf", gzip.compress(b"")])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_an_empty_file(tmp_path: Path, content: bytes, on_error) -> None:
    path = write(tmp_path / "c", content)
    with pytest.raises(DataError, match="empty file"):
        list(read_corpus(path, on_error=on_error))


@pytest.mark.parametrize("packing", ["gzip", "zstd", "zstd of two frames"])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_file_that_was_cut_off(tmp_path: Path, packing: str, on_error) -> None:
    content = b"".join(b'{"_id": %d, "text": "x"}\n' % i for i in range(2000))
    path = write(tmp_path / "c", packed(content)[packing][:-20])
    read: list[str] = []
    with pytest.raises(DataError, match="sound compressed file") as caught:
        for document in read_corpus(path, on_error=on_error):
            read.append(document.id)
    assert read == [str(i) for i in range(len(read))]
    assert caught.value.line == len(read) + 1


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_a_damaged_file(tmp_path: Path, packing: str) -> None:
    content = bytearray(packed(GOOD * 1000)[packing])
    content[len(content) // 2] ^= 0xFF
    path = write(tmp_path / "c", bytes(content))
    assert isinstance(error_of(path, lambda p: read_corpus(p, on_error="stop")), DataError)


def test_a_checksum_is_checked(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(GOOD))
    content[-6] ^= 0xFF
    assert "CRC" in error_of(write(tmp_path / "c", bytes(content))).found


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"BZh91AY&SY", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"PK\x03\x04", "zip"),
        (b"PAR1", "Parquet"),
        ("{}".encode("utf-16"), "UTF-16"),
    ],
)
def test_other_formats_are_called_by_their_names(
    tmp_path: Path, content: bytes, found: str
) -> None:
    assert found in error_of(write(tmp_path / "c", content)).found


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_name_that_promises_compression(tmp_path: Path, suffix: str) -> None:
    assert f"rename it without {suffix}" in error_of(write(tmp_path / f"c{suffix}", GOOD)).remedy


def test_a_file_without_permission_is_an_error_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "c", GOOD)
    monkeypatch.setattr(Path, "open", refuse)
    assert error_of(path).found == "Permission denied"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"query": "q" "pos": []}\n', "Expecting ',' delimiter at character 15 of the line"),
        (b'{"query": "q", "pos": ["a"]\r\n', "Expecting ',' delimiter at character 28 of the line"),
        (b'{"a": 1} {}', "Extra data at character 10 of the line"),
        (b'{"a": NaN}\n', "NaN is not a number"),
    ],
)
def test_an_error_in_a_line_has_one_line_number(line: bytes, found: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_object("x.jsonl", 4, line)
    assert caught.value.found == f"what JSON does not allow ({found})"
    assert str(caught.value).count("line 4") == 1
