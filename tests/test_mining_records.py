"""Lines of training files as mining reads and writes them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from mining_fakes import ALL, ListedSource, Record, open_source

from m3search.errors import DataError
from m3search.records import Document
from m3search.training.mining.candidates import (
    id_key,
)
from m3search.training.mining.negatives import mine
from m3search.training.mining.records import (
    gather_texts,
    positive_names,
    read_training_records,
    write_records,
)
from m3search.training.mining.rules import (
    MiningSettings,
)


def test_all_else_in_a_record_stays_as_it_is() -> None:
    record = {
        "lang": "de", "neg": ["old"], "neg_scores": [1.0], "query": "q", "pos": ["p"],
        "pos_scores": [2.0], "neg_id": ["7"], "deep": {"a": [1, None, "ü"]}, "prompt": "P",
    }  # fmt: skip
    before = json.dumps(record)
    (mined,) = mine([record], ListedSource({"x": 0.1}), ALL)
    assert json.dumps(record) == before
    assert list(mined.items()) == [
        ("lang", "de"), ("neg", ["x"]), ("query", "q"), ("pos", ["p"]),
        ("deep", {"a": [1, None, "ü"]}), ("prompt", "P"),
    ]  # fmt: skip
    (added,) = mine([{"query": "q", "pos": ["p"]}], ListedSource({"x": 0.1}), ALL)
    assert list(added) == ["query", "pos", "neg"]


def test_kept_negatives_come_first_and_are_not_mined_again() -> None:
    keep = MiningSettings(ranks=(0, 9), negatives=2, relative_margin=None, keep=True)
    old = {"query": "q", "pos": ["p"], "neg": ["X", "far"], "neg_scores": [1.0, 2.0]}
    (mined,) = mine([old], ListedSource({"x": 0.3, "y": 0.2, "z": 0.1}), keep)
    assert mined == {"query": "q", "pos": ["p"], "neg": ["X", "far", "y", "z"]}
    (same,) = mine([old], ListedSource({"x": 0.3}), keep)
    assert same == old


def test_a_title_stays_apart_from_the_text_of_a_negative(tmp_path: Path) -> None:
    documents = [Document("1", "b", "T"), Document("2", "c"), Document("3", "", "U")]
    source = open_source(tmp_path, documents)
    (mined,) = mine(
        [{"query": "q", "pos": ["p"], "neg_titles": ["old"], "neg": ["o"]}], source, ALL
    )
    titles = dict(zip(mined["neg"], mined["neg_titles"], strict=True))
    assert titles == {"b": "T", "c": "", "U": ""}
    keep = replace(ALL, keep=True)
    kept = {"query": "q", "pos": ["p"], "neg": ["o", "b"], "neg_titles": ["V", "t"]}
    (more,) = mine([kept], source, keep)
    assert more["neg"][:2] == ["o", "b"] and more["neg_titles"][:2] == ["V", "t"]
    assert sorted(more["neg"][2:]) == ["U", "c"]  # "t b" is there already
    (untitled,) = mine([kept], ListedSource({"x": 0.1}), ALL)
    assert untitled == {"query": "q", "pos": ["p"], "neg": ["x"]}


def test_no_text_is_a_negative_twice_by_another_title(tmp_path: Path) -> None:
    documents = [Document("1", "b", "T"), Document("2", "b", "U"), Document("3", "c", "V")]
    source = open_source(tmp_path, documents)
    (mined,) = mine([{"query": "q", "pos": ["p"]}], source, ALL)
    assert sorted(mined["neg"]) == ["b", "c"]
    for old in ("b", "V\nc"):  # without its title, and as lines had it that hold no titles
        kept = {"query": "q", "pos": ["p"], "neg": [old]}
        (more,) = mine([kept], source, replace(ALL, keep=True))
        assert sorted(more["neg"][1:]) == (["c"] if old == "b" else ["b"])


def test_the_pool_holds_every_text_once() -> None:
    records = [
        {"query": "q", "pos": ["a", "b"], "neg": ["A", "c"], "title": "t"},
        {"query": "r", "pos": ["b"], "title": "t"},
        {"query": "s", "pos": ["t b"], "neg": ["b", "d"], "neg_titles": ["t", "u"]},
    ]
    pool = list(gather_texts(records))
    assert [(each.title, each.text) for each in pool] == [
        ("t", "a"), ("t", "b"), ("", "A"), ("", "c"), ("u", "d"),
    ]  # fmt: skip
    assert len({each.id for each in pool}) == 5


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"{", "what JSON does not allow"),
        (b'{"pos": ["a"]}', "no query"),
        (b'{"query": "q", "pos": []}', "an empty pos"),
        (b'{"query": "q", "pos": ["a"], "neg": [1]}', "neg that is not a list"),
        (b'{"query": "q", "pos_id": "c"}', "'c'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, found: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"query": "q", "pos": ["a"]}\n' + line + b"\n")
    with pytest.raises(DataError, match=f"line 2.*found {found}"):
        list(read_training_records(path))


def test_ids_become_the_texts_of_the_documents_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    documents = [{"_id": "a", "text": "one", "title": "t"}, {"_id": "7", "text": "two"}]
    (tmp_path / "pairs.docs.jsonl").write_text("\n".join(map(json.dumps, documents)))
    lines: list[Record] = [
        {"pos_id": ["a", 7], "query": "q", "x": 1},
        {"pos_id": 7, "query": "r"},
        {"pos_id": "a", "query": "s", "title": "own"},
        {"pos": ["given"], "query": "t"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    first, second, third, fourth = read_training_records(path)
    assert first == lines[0] | {"pos": ["one", "two"], "title": "t"}
    assert second == lines[1] | {"pos": ["two"]}
    assert third == lines[2] | {"pos": ["one"]}
    assert fourth == lines[3]
    assert id_key("7") in positive_names(lines[1]) and id_key("7") in positive_names(first)


def test_what_was_mined_by_ids_can_be_trained_on_and_mined_again(tmp_path: Path) -> None:
    path, out = tmp_path / "pairs.jsonl", tmp_path / "out" / "pairs.jsonl"
    out.parent.mkdir()
    for folder in (tmp_path, out.parent):  # of which the second names the texts no longer
        (folder / "pairs.docs.jsonl").write_text('{"_id": "a", "text": "one"}\n')
    path.write_text('{"query": "q", "pos_id": "a"}\n')
    write_records(out, mine(read_training_records(path), ListedSource({"x": 0.1}), ALL))
    line = {"query": "q", "pos": ["one"], "neg": ["x"]}
    assert list(read_training_records(out)) == [line]


def test_a_prompt_is_searched_with_and_is_no_part_of_the_query(tmp_path: Path) -> None:
    source = open_source(tmp_path, ["ant bee", "cat", "dog elk cat"])
    record = {"query": "cat", "pos": ["dog"], "prompt": "ant elk "}
    (mined,) = mine([record], source, ALL)
    longer = {"query": "ant elk cat", "pos": ["dog"]}
    expected = next(iter(mine([longer], source, ALL)))["neg"]
    assert "cat" in expected
    assert mined["neg"] == [text for text in expected if text != "cat"]
    plain = next(iter(mine([{"query": "cat", "pos": ["dog"]}], source, ALL)))["neg"]
    assert mined["neg"] != plain


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_files_are_written_whole_or_not_at_all(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    records = [{"query": "ü", "neg": ["茶"]}, {"query": "b"}]
    write_records(path, records)
    first = path.read_bytes()
    assert list(read_lines(path)) == records
    assert "茶" in (gzip.decompress(first) if name.endswith("gz") else first).decode()

    def fail() -> Iterable[Record]:
        yield records[0]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_records(path, fail())
    assert path.read_bytes() == first
    write_records(path, records)
    assert path.read_bytes() == first
    assert name == "out.jsonl" or first[3:8] == bytes(5)  # no name, no time
    assert [each.name for each in tmp_path.iterdir()] == [name]


def read_lines(path: Path) -> Iterable[Record]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return map(json.loads, text.splitlines())
