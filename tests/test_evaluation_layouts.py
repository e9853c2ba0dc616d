"""Layouts of a set's folder: each gives the same collection, and says what it lacks."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from evaluation_fakes import JUDGED, QUERIES, TEXTS, Log

from m3search.errors import ConfigError, DataError
from m3search.evaluation import EvaluationSet, evaluate_sets, load_sets
from m3search.evaluation.collection import load_collection
from m3search.evaluation.layouts import find_set_files


def lines(objects: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


CORPUS = lines([{"id": name, "text": text} for name, text in TEXTS.items()])
TRIPLES = [(q, d, grade) for q, judged in JUDGED.items() for d, grade in judged.items()]
FLAG = {
    "corpus.jsonl": CORPUS,
    "dev_queries.jsonl": lines([{"id": name, "text": text} for name, text in QUERIES.items()]),
    "dev_qrels.jsonl": lines([{"qid": q, "docid": d, "relevance": g} for q, d, g in TRIPLES]),
}
TREC = {
    "corpus.jsonl": CORPUS,
    "topics.dev.tsv": "".join(f"{name}\t{text}\n" for name, text in QUERIES.items()),
    "qrels.dev.tsv": "".join(f"{q}\tQ0\t{d}\t{g}\n" for q, d, g in TRIPLES),
}
CLASSIC = {
    "corpus.jsonl": CORPUS,
    "topics.dev.txt": "".join(
        f"<top>\n<num> Number: {name}\n<title> Topic: {text}\n<desc> Description:\nMore.\n</top>\n"
        for name, text in QUERIES.items()
    ),
    "qrels.dev.txt": "".join(f"{q} 0 {d} {g}\n" for q, d, g in TRIPLES),
}
LAYOUTS = {"flag": FLAG, "trec": TREC, "classic": CLASSIC}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def write_layout(folder: Path, files: dict[str, str], suffix: str = "") -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / (name + suffix)).write_bytes(PACKED[suffix](content.encode()))
    return folder


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_collection(tmp_path: Path, layout: str, suffix: str) -> None:
    folder = write_layout(tmp_path / "s", LAYOUTS[layout], suffix)
    [wanted] = load_sets([folder], settings=["split=dev"])
    found = load_collection(wanted)
    assert [(each.id, each.text) for each in found.read()] == list(TEXTS.items())
    assert [(each.id, each.text) for each in found.queries] == list(QUERIES.items())[:2]
    assert (found.qrels, found.unjudged) == (JUDGED, 1)


def test_the_split_chooses_among_layouts_and_their_queries(tmp_path: Path) -> None:
    """Queries of another layout beside them are not taken."""
    folder = write_layout(tmp_path / "s", FLAG | TREC | {"queries.jsonl": "{}"})
    files = find_set_files(EvaluationSet(folder, split="dev"))
    assert (files.queries.name, files.judgements.name) == ("dev_queries.jsonl", "dev_qrels.jsonl")
    (folder / "dev_qrels.jsonl").unlink()
    assert find_set_files(EvaluationSet(folder, split="dev")).queries.name == "topics.dev.tsv"


def test_a_suite_names_other_files(tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "s", {f"my.{name}": text for name, text in FLAG.items()})
    suite = tmp_path / "suite.toml"
    suite.write_text(
        '[[sets]]\npath = "s"\ncorpus = "my.corpus.jsonl"\nqueries = "my.dev_queries.jsonl"\n'
        f'qrels = "{folder}/my.dev_qrels.jsonl"\n'
    )
    [wanted] = load_sets([suite])
    assert load_collection(wanted).qrels == JUDGED
    (folder / "queries.jsonl").write_text(FLAG["dev_queries.jsonl"])
    alone = EvaluationSet(folder, corpus=wanted.corpus, qrels=wanted.qrels)
    assert find_set_files(alone).queries.name == "queries.jsonl"


@pytest.mark.parametrize(
    ("lacking", "layout", "expected"),
    [
        ("corpus.jsonl", FLAG, "corpus.jsonl, plain or as .gz or .zst"),
        ("dev_queries.jsonl", FLAG, "dev_queries.jsonl, plain"),
        ("dev_qrels.jsonl", FLAG, "qrels/dev.tsv or dev_qrels.jsonl or qrels.dev.txt or"),
        ("topics.dev.txt", CLASSIC, "topics.dev.tsv or topics.dev.txt, plain"),
    ],
)
def test_a_file_that_lacks_is_told_before_anything_is_run(
    tmp_path: Path, lacking: str, layout: dict[str, str], expected: str
) -> None:
    there = {name: text for name, text in layout.items() if name != lacking}
    good = EvaluationSet(write_layout(tmp_path / "good", FLAG), split="dev")
    bad = EvaluationSet(write_layout(tmp_path / "bad", there), split="dev")
    log = Log()
    with pytest.raises(DataError) as caught:
        evaluate_sets([good, bad], log.encoders, engine=log.engine())
    assert expected in caught.value.expected
    assert caught.value.found == f"only {', '.join(sorted(there))}"
    assert not log.built


@pytest.mark.parametrize(
    ("file", "content", "line", "said"),
    [
        ("dev_qrels.jsonl", '{"docid": "d1", "relevance": 1}', 1, 'an id in "qid" or "query-id"'),
        ("dev_qrels.jsonl", '{"qid": "q1", "relevance": 1}', 1, '"docid" or "corpus-id"'),
        ("dev_qrels.jsonl", '{"qid": "q1", "docid": "d1"}', 1, 'a grade in "relevance"'),
        ("dev_qrels.jsonl", '{"qid": "q1", "docid": "d1", "score": 0.5}', 1, "an integer"),
        (
            "dev_qrels.jsonl",
            '{"qid": "q1", "docid": "d1", "relevance": 1}\n' * 2,
            2,
            "'d1' a second time",
        ),
        ("dev_qrels.jsonl", "", None, "an empty file"),
        ("dev_queries.jsonl", "\n", None, "an empty file"),
        ("dev_queries.jsonl", '{"id": "q1", "text": "a"}\n{"text": "b"}', 2, "an id in"),
        ("dev_queries.jsonl", '{"id": "other", "text": "a"}', None, "2 that it lacks: 'q1', 'q2'"),
        ("corpus.jsonl", "", None, "an empty file"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(
    tmp_path: Path, file: str, content: str, line: int | None, said: str
) -> None:
    folder = write_layout(tmp_path / "s", FLAG | {file: content})
    with pytest.raises(DataError, match=r".") as caught:
        load_collection(EvaluationSet(folder, split="dev"))
    assert caught.value.line == line
    assert said in str(caught.value)


def test_keys_of_files_are_strings(tmp_path: Path) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text("[[sets]]\npath = 's'\nqueries = 3\n")
    with pytest.raises(ConfigError, match="queries"):
        load_sets([suite])
