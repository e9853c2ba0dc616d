"""Corpus, queries, qrels and runs: what is read, and what each bad file is answered with."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from killing import kill_at_each_call

from m3search.corpus import (
    document_text,
    read_corpus,
    read_qrels,
    read_queries,
    read_run,
    write_run,
)
from m3search.corpus.scripts import SPACELESS, is_spaceless
from m3search.errors import ConfigError, DataError
from m3search.lines import SeenIds, find_file, read_lines
from m3search.records import Document, Query

GOOD = b'{"_id": "a", "text": "tea"}\n'


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def error_of(path: Path | str, read=read_corpus) -> DataError:
    with pytest.raises(DataError) as caught:
        list(read(path))
    return caught.value


# --- good corpora


def test_every_field_finds_its_place(tmp_path: Path) -> None:
    lines = [
        {"_id": "a", "title": "T", "text": "x", "lang": "de", "year": 2001},
        {"id": 7, "contents": "y"},
        {"docid": "c", "text": "", "title": "only a title"},
        {"_id": "d", "text": ""},
        {"_id": "e", "id": "kept", "text": "z", "contents": "kept", "title": None},
    ]
    path = write(tmp_path / "c.jsonl", "\n".join(json.dumps(line) for line in lines))
    assert list(read_corpus(path)) == [
        Document("a", "x", "T", {"lang": "de", "year": 2001}),
        Document("7", "y"),
        Document("c", "", "only a title"),
        Document("d", ""),
        Document("e", "z", "", {"id": "kept", "contents": "kept"}),
    ]


def test_a_document_can_be_sent_to_another_process(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.jsonl", '{"_id": "a", "text": "x", "lang": "de"}\n{"_id": 1, "text": ""}'
    )
    documents = list(read_corpus(path))
    assert pickle.loads(pickle.dumps(documents)) == documents


def packed(content: bytes) -> dict[str, bytes]:
    zstd = zstandard.ZstdCompressor()
    half = len(content) // 2
    return {
        "plain": content,
        "gzip": gzip.compress(content),
        "gzip of two members": gzip.compress(content[:half]) + gzip.compress(content[half:]),
        "zstd": zstd.compress(content),
        "zstd of two frames": zstd.compress(content[:half]) + zstd.compress(content[half:]),
        "zstd with a skippable frame": b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstd.compress(content),
    }


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


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = write(tmp_path / "c", GOOD + b"not JSON")
    documents = read_corpus(path)
    assert next(documents).id == "a"
    with pytest.raises(DataError):
        next(documents)


# --- wrong lines


@pytest.mark.parametrize(
    ("line", "expected", "found"),
    [
        (b"{", "JSON", "what JSON does not allow"),
        (b'{"_id": "b", "text": "x"} trailing', "JSON", "Extra data"),
        (b'{"_id": "b", "text": "x", "n": NaN}', "JSON", "NaN"),
        (b'{"_id": "b", "text": "x", "n": -Infinity}', "JSON", "-Infinity"),
        (b'{"_id": "b", "text": "x", "n": 1e999}', "JSON", "1e999"),
        (b'{"_id": "b", "text": "x", "n": ' + b"9" * 5000 + b"}", "JSON", "4300"),
        (b"[" * 100_000, "JSON", "what JSON does not allow"),
        (b'["b", "x"]', "a JSON object", "an array"),
        (b'"b"', "a JSON object", "a string"),
        (b"12", "a JSON object", "a number"),
        (b"null", "a JSON object", "null"),
        (b"true", "a JSON object", "true or false"),
        (b'{"text": "x"}', 'an id in "_id", "id" or "docid"', "none"),
        (b'{"_id": null, "text": "x"}', 'an id in "_id", "id" or "docid"', "none"),
        (b'{"_id": "", "text": "x"}', '"_id" to be a string or a number', "an empty string"),
        (b'{"id": true, "text": "x"}', '"id" to be a string or a number', "true or false"),
        (b'{"id": ["b"], "text": "x"}', '"id" to be a string or a number', "an array"),
        (b'{"_id": "b"}', 'text in "text" or "contents"', "no such field"),
        (b'{"_id": "b", "body": "x"}', 'text in "text" or "contents"', "only body"),
        (b'{"_id": "b", "text": null}', 'text in "text" or "contents"', 'null in "text"'),
        (b'{"_id": "b", "text": 5}', '"text" to be a string', "a number"),
        (b'{"_id": "b", "contents": ["x"]}', '"contents" to be a string', "an array"),
        (b'{"_id": "b", "text": "x", "title": {}}', '"title" to be a string', "an object"),
        (b'{"_id": "b", "text": "caf\xe9"}', "UTF-8", "byte 0xe9 at byte 26"),
        (b'{"_id": "b", "text": "\\ud800"}', "characters", "\\ud800"),
        (b'{"_id": "b", "text": "x", "m": [{"\\uDC00": 1}]}', "characters", "\\udc00"),
        (b'{"_id": "a", "text": "x"}', "an id of its own", "'a', which line 1 has"),
    ],
)
def test_a_wrong_line_stops_or_is_left_out(
    tmp_path: Path, line: bytes, expected: str, found: str
) -> None:
    path = write(tmp_path / "c.jsonl", GOOD + b"\n" + line + b'\n{"_id": "z", "text": "x"}\n')
    error = error_of(path)
    assert (error.file, error.line) == (str(path), 3)
    assert error.expected == expected
    assert found in error.found
    assert error.remedy
    reported: list[DataError] = []
    documents = list(read_corpus(path, on_error="skip", report=reported.append))
    assert [document.id for document in documents] == ["a", "z"]
    assert [str(report) for report in reported] == [str(error)]


def test_a_line_that_was_left_out_does_not_take_its_id(tmp_path: Path) -> None:
    path = write(tmp_path / "c", b'{"_id": "b"}\n{"_id": "b", "text": "x"}\n')
    assert [document.id for document in read_corpus(path, on_error="skip")] == ["b"]


def test_an_array_of_documents_is_told_how_to_become_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", '[\n {"_id": "b", "text": "x"}\n]')
    assert "jq" in error_of(path).remedy


def test_an_unknown_way_to_treat_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="skip"):
        read_corpus(write(tmp_path / "c", GOOD), on_error="skp")  # type: ignore[arg-type]


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


def test_find_file_prefers_the_plain_one(tmp_path: Path) -> None:
    assert find_file(tmp_path, "corpus.jsonl") is None
    write(tmp_path / "corpus.jsonl.zst", b"")
    assert find_file(tmp_path, "corpus.jsonl") == tmp_path / "corpus.jsonl.zst"
    write(tmp_path / "corpus.jsonl", b"")
    assert find_file(tmp_path, "corpus.jsonl") == tmp_path / "corpus.jsonl"


# --- ids


@given(st.lists(st.text(max_size=2), max_size=60))
def test_seen_ids_are_those_of_a_dict(ids: list[str]) -> None:
    seen, slow = SeenIds(), {}
    for line, name in enumerate(ids, start=1):
        assert seen.add(name, line) == slow.get(name, 0)
        slow.setdefault(name, line)


def test_seen_ids_grow() -> None:
    seen = SeenIds()
    assert not any(seen.add(f"id{i}", i + 1) for i in range(20_000))
    assert all(seen.add(f"id{i}", 1) == i + 1 for i in range(20_000))
    bytes_an_id = (seen._hashes.itemsize + seen._lines.itemsize) * len(seen._lines) / 20_000
    assert 18 <= bytes_an_id <= 36


# --- what is encoded


def test_document_text() -> None:
    both = Document("1", "text {title}", "Title {x}")
    assert document_text(both) == "Title {x}\ntext {title}"
    assert document_text(both, "{title} {text}") == "Title {x} text {title}"
    assert document_text(Document("1", "text")) == "text"
    assert document_text(Document("1", "", "Title")) == "Title"
    assert document_text(Document("1", "")) == ""
    for template in ("{titel}\n{text}", "{} {text}", "{title", "{title.x}"):
        with pytest.raises(ConfigError, match="title template"):
            document_text(both, template)


# --- queries


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


# --- scripts


def test_scripts_without_spaces() -> None:
    for code in range(0x42000):
        inside = any(first <= code <= last for first, last in SPACELESS)
        assert is_spaceless(code) is inside, hex(code)
    assert all(is_spaceless(ord(character)) for character in "กກཀကកあア検ꀀㄅ𠀀")
    assert not any(is_spaceless(ord(character)) for character in "aαйאعह한1 ")
