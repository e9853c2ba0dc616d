"""Training files: what a line may say, what is made of it, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from training_runs import write_lines, write_pairs

from m3search.errors import DataError
from m3search.training.data import Pair, documents_beside, read_pairs, read_texts

DOCUMENTS = [
    {"_id": "d1", "title": "Bread", "text": "Flour and water."},
    {"_id": "d2", "title": "", "text": "Ice that flows."},
    {"_id": 3, "text": "Told by its number."},
]


def read_line(folder: Path, **line: Any) -> Pair:
    """The pair of a file of one line."""
    (pair,) = read_pairs(write_lines(folder / "pairs.jsonl", [line]))
    return pair


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"{", "what JSON does not allow"),
        (b"[]", "an array"),
        (b'{"pos": ["a"]}', "no query"),
        (b'{"text": "a"}', "a text alone, which only stage retromae reads, and others from"),
        (b'{"query": " ", "pos": ["a"]}', "an empty query"),
        (b'{"query": ["q"], "pos": ["a"]}', "an array as query"),
        (b'{"query": "q"}', "no pos"),
        (b'{"query": "q", "pos": []}', "an empty pos"),
        (b'{"query": "q", "pos_id": []}', "an empty pos"),
        (b'{"query": "q", "pos": ["a"], "pos_id": "d"}', "pos and pos_id, which stands in place"),
        (b'{"query": "q", "pos": "a"}', "pos that is not a list"),
        (b'{"query": "q", "pos": ["a"], "neg": [1]}', "neg that is not a list"),
        (b'{"query": "q", "pos": ["a"], "title": 3}', "a title that is a number"),
        (b'{"query": "q", "pos": ["a"], "prompt": ["p"]}', "a prompt that is an array"),
        (b'{"query": "\xff", "pos": ["a"]}', "byte 0xff"),
        (b'{"query": "\\ud800", "pos": ["a"]}', "half of a surrogate pair"),
        (b'{"query": "q", "pos": ["a", ""]}', "an empty text in pos"),
        (b'{"query": "q", "pos": ["a"], "neg": [" "]}', "an empty text in neg"),
        (b'{"query": "q", "pos": ["a"], "pos_scores": [1, 2]}', "2 pos_scores for 1 texts in pos"),
        (
            b'{"query": "q", "pos": ["a"], "neg": ["b", "c"], "neg_scores": [1]}',
            "1 neg_scores for 2 texts in neg",
        ),
        (b'{"query": "q", "pos": ["a"], "neg_scores": [1]}', "1 neg_scores for 0 texts in neg"),
        (
            b'{"query": "q", "pos": ["a"], "neg": ["b", "c"], "neg_titles": ["T"]}',
            "1 neg_titles for 2 texts in neg",
        ),
        (
            b'{"query": "q", "pos": ["a"], "neg": ["b"], "neg_titles": [null]}',
            "neg_titles that is not a list of texts",
        ),
        (b'{"query": "q", "pos": ["a"], "pos_scores": 1}', "pos_scores that is not a list of n"),
        (b'{"query": "q", "pos": ["a"], "pos_scores": ["1"]}', "pos_scores that is not a list"),
        (b'{"query": "q", "pos": ["a"], "pos_scores": [true]}', "pos_scores that is not a list"),
        (b'{"query": "q", "pos": ["a"], "pos_scores": [NaN]}', "what JSON does not allow"),
        (b'{"query": "q", "pos": ["a"], "pos_scores": [1e999]}', "what JSON does not allow"),
        (b'{"query": "q", "pos": ["a"], "type": "sts"}', "type 'sts', not one of normal, symm"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, found: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"query": "q", "pos": ["a"]}\n' + line + b"\n")
    with pytest.raises(DataError, match=f"line 2.*found {found}") as caught:
        list(read_pairs(path))
    assert (caught.value.file, caught.value.line) == (str(path), 2)


def test_pairs_are_read_from_zstd_and_behind_a_byte_order_mark(tmp_path: Path) -> None:
    line = b'{"query": "q", "pos": ["a"]}'
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(line))
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + line)
    for name in ("a.jsonl.zst", "b.jsonl"):
        assert [pair.query for pair in read_pairs(tmp_path / name)] == ["q"]


@pytest.mark.parametrize("name", ["words.tsv", "words.tsv.gz"])
def test_columns_are_a_query_and_its_passage(tmp_path: Path, name: str) -> None:
    content = b"Haus\thouse\r\n\nKatze \tthe cat\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    pairs = list(read_pairs(tmp_path / name))
    assert pairs == [Pair("Haus", ("house",)), Pair("Katze", ("the cat",))]
    texts = [("", text) for text in ("Haus", "house", "Katze", "the cat")]
    assert list(read_texts(tmp_path / name)) == texts


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"Haus", "1 columns, 0 of them empty"),
        (b"Haus\thouse\tn", "3 columns, 0 of them empty"),
        (b"Haus\t ", "2 columns, 1 of them empty"),
        (b"Haus\t\xff", "byte 0xff at byte 6"),
    ],
)
def test_a_bad_line_of_columns_is_named(tmp_path: Path, line: bytes, found: str) -> None:
    path = tmp_path / "words.tsv"
    path.write_bytes(b"Katze\tcat\n" + line + b"\n")
    with pytest.raises(DataError, match=f"line 2.*found {found}"):
        list(read_pairs(path))


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    whole = gzip.compress((tmp_path / "pairs.jsonl").read_bytes())
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz.*damage or an early end"):
        list(read_pairs(path))


def test_a_line_gives_all_that_it_says(tmp_path: Path) -> None:
    line = {"query": "q", "pos": ["a", "b"], "neg": ["x", "y"], "title": "T"}
    scores = {"pos_scores": [2, 1.5], "neg_scores": [-1, 0]}
    found = read_line(tmp_path, **line, **scores, unknown=1)
    assert found == Pair("q", ("a", "b"), ("x", "y"), "T", (2.0, 1.5), (-1.0, 0.0))
    assert all(type(score) is float for score in found.positive_scores + found.negative_scores)
    titled = read_line(tmp_path, **line, neg_titles=["X", ""], type="only_1neg")
    assert titled == Pair("q", ("a", "b"), ("x",), "T", negative_titles=("X",))
    nothing = {
        "neg": None,
        "neg_titles": None,
        "title": None,
        "prompt": None,
        "type": None,
        "pos_scores": None,
    }
    assert read_line(tmp_path, query="q", pos=["a"], **nothing) == Pair("q", ("a",))


@pytest.mark.parametrize(
    ("kind", "positive", "negatives", "scores"),
    [
        (None, "a", ("x", "y"), (1.0, 2.0)),
        ("normal", "a", ("x", "y"), (1.0, 2.0)),
        ("symmetric_class", "a", ("x", "y"), (1.0, 2.0)),
        ("symmetric_clustering", "say: a", ("say: x", "say: y"), (1.0, 2.0)),
        ("symmetric_sts", "say: a", ("say: x", "say: y"), (1.0, 2.0)),
        ("only_1neg", "a", ("x",), (1.0,)),
    ],
)
def test_a_type_says_what_the_prompt_stands_before(
    tmp_path: Path,
    kind: str | None,
    positive: str,
    negatives: tuple[str, ...],
    scores: tuple[float, ...],
) -> None:
    line = {"query": "q", "pos": ["a"], "neg": ["x", "y"], "neg_scores": [1, 2]}
    found = read_line(tmp_path, **line, prompt="say: ", type=kind)
    assert found == Pair("say: q", (positive,), negatives, "", (), scores)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_a_pair_may_name_its_documents(tmp_path: Path, name: str, suffix: str) -> None:
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
    told = "\n".join(map(json.dumps, DOCUMENTS)).encode()
    beside = tmp_path / f"pairs.docs.jsonl{suffix}"
    beside.write_bytes(pack[suffix](told))
    lines = [
        {"query": "q1", "pos_id": "d1", "neg": ["x"]},
        {"query": "q2", "pos_id": ["d2", "d1"]},
        {"query": "q3", "pos_id": "d1", "title": "Own"},
        {"query": "q4", "pos": ["text"], "pos_id": None},
        {"query": "q5", "pos_id": [3, "3"]},
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert documents_beside(tmp_path / name) == beside
    assert list(read_pairs(tmp_path / name)) == [
        Pair("q1", ("Flour and water.",), ("x",), "Bread"),
        Pair("q2", ("Ice that flows.", "Flour and water."), (), ""),
        Pair("q3", ("Flour and water.",), (), "Own"),
        Pair("q4", ("text",)),
        Pair("q5", ("Told by its number.",) * 2),
    ]


@pytest.mark.parametrize("name", ["d3", 4, True, None, ["d1", "d3"], [["d1"]]])
def test_a_document_that_is_not_there_is_named(tmp_path: Path, name: Any) -> None:
    good = {"query": "q", "pos": ["a"]}
    path = write_lines(tmp_path / "pairs.jsonl", [good, {"query": "q", "pos_id": name}])
    with pytest.raises(DataError, match=r"line 2: expected a pos_id.*and no such file") as caught:
        list(read_pairs(path))
    write_lines(tmp_path / "pairs.docs.jsonl", DOCUMENTS)
    with pytest.raises(DataError, match=r"in pairs\.docs\.jsonl has, found") as caught:
        list(read_pairs(path))
    assert caught.value.line == 2 and "no such file" not in caught.value.found


def test_a_bad_document_is_named_in_its_own_file(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "pairs.jsonl", [{"query": "q", "pos_id": "d1"}])
    beside = write_lines(tmp_path / "pairs.docs.jsonl", [DOCUMENTS[0], {"_id": "d2"}])
    with pytest.raises(DataError) as caught:
        list(read_pairs(path))
    assert (caught.value.file, caught.value.line) == (str(beside), 2)


def test_texts_are_those_of_texts_and_of_pairs(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"text": "alone"},
        {"text": "titled", "title": "T", "_id": "d1"},
        {"query": "q1", "pos": ["a", "b"], "neg": ["x"], "title": "P"},
        {"query": "q3", "pos": ["a"], "neg": ["y", "z"], "neg_titles": ["N", ""]},
        {"query": "q2", "pos_id": "d1"},
    ]
    texts = list(read_texts(write_lines(tmp_path / "texts.jsonl", lines)))
    assert texts == [
        ("", "alone"),
        ("T", "titled"),
        ("", "q1"),
        ("P", "a"),
        ("P", "b"),
        ("", "x"),  # the title is that of the positives
        ("", "q3"),
        ("", "a"),
        ("N", "y"),
        ("", "z"),
        ("", "q2"),
    ]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ({"text": ""}, "an empty text"),
        ({"text": " \n"}, "an empty text"),
        ({"text": 3}, "a number as text"),
        ({"text": "a", "title": 3}, "a title that is a number"),
        ({"title": "a"}, "null as text"),
        ({"query": "q"}, "no pos"),
        ({"query": 3, "pos": ["a"]}, "a number as query"),
        ({"query": 3, "pos_id": "d1"}, "a number as query"),
        ({"query": "", "pos_id": "d1"}, "an empty query"),
        ({"query": "q", "pos": ["a"], "pos_id": "d1"}, "pos and pos_id"),
    ],
)
def test_a_bad_line_of_texts_is_named(tmp_path: Path, line: dict[str, Any], found: str) -> None:
    path = write_lines(tmp_path / "texts.jsonl", [{"text": "good"}, line])
    with pytest.raises(DataError, match=f"line 2.*found {found}"):
        list(read_texts(path))
