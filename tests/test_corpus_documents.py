"""Documents: their fields, what is encoded of them, and how wrong lines are answered."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from corpus_files import GOOD, error_of, write

from m3search.corpus import document_text, read_corpus
from m3search.errors import ConfigError, DataError
from m3search.records import Document


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


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = write(tmp_path / "c", GOOD + b"not JSON")
    documents = read_corpus(path)
    assert next(documents).id == "a"
    with pytest.raises(DataError):
        next(documents)


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
        (b'{"_id": "b\\u0000", "text": "x"}', '"_id" without the character NUL', r"'b\x00'"),
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
