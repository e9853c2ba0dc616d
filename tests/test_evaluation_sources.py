"""Data sets by name: what is written of each, once and whole, and what is said of others."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_copies import (  # noqa: F401
    JUDGED,
    QUERIES,
    TEXTS,
    Hub,
    hub_of_a_test,
    put_beir,
    put_miracl,
    put_mkqa,
    put_mldr,
    put_narrativeqa,
)

from m3search.errors import ArtifactError, ConfigError, DataError
from m3search.evaluation import EvaluationSet, load_sets
from m3search.evaluation.collection import Collection, load_collection
from m3search.evaluation.sources import cache_folder, fetch, find_source
from m3search.evaluation.sources.catalogue import NAMES
from m3search.evaluation.sources.source import Contents, Source
from m3search.records import Document, Query


def loaded(name: str, cache: Path) -> tuple[EvaluationSet, Collection]:
    [wanted] = load_sets([name], data=cache)
    return wanted, load_collection(wanted)


def texts_of(found: Collection) -> dict[str, tuple[str, str]]:
    return {each.id: (each.title, each.text) for each in found.read()}


def test_miracl_in_shards(hub: Hub, tmp_path: Path) -> None:
    texts = {f"{n}#0": (f"title {n}", f"text {n}") for n in range(24)}
    put_miracl(hub, "yo", texts, QUERIES, JUDGED, shards=12)
    put_miracl(hub, "sw", TEXTS, QUERIES, JUDGED)
    wanted, found = loaded("miracl/yo", tmp_path / "sets")
    assert (wanted.name, wanted.split, wanted.language) == ("miracl-yo", "dev", "yo")
    assert texts_of(found) == texts
    assert list(texts_of(found)) == list(texts)  # docs-10 after docs-2
    assert {each.id: each.text for each in found.queries} == {
        "q1": "what is tea",
        "q2": QUERIES["q2"],
    }
    assert (found.qrels, found.unjudged) == (JUDGED, 1)
    assert sorted(
        path.relative_to(tmp_path / "sets").as_posix() for path in (tmp_path / "sets").rglob("*")
    ) == [
        "miracl", "miracl/yo", "miracl/yo/corpus.jsonl.gz", "miracl/yo/qrels",
        "miracl/yo/qrels/dev.tsv.gz", "miracl/yo/queries.jsonl.gz",
    ]  # fmt: skip


def test_mldr(hub: Hub, tmp_path: Path) -> None:
    put_mldr(hub, "it", {"a": "long", "b": "longer"}, {"q-it-1": ("che cosa", ["b"])})
    wanted, found = loaded("mldr/it", tmp_path / "sets")
    assert (wanted.name, wanted.split, wanted.language) == ("mldr-it", "test", "it")
    assert texts_of(found) == {"a": ("", "long"), "b": ("", "longer")}
    assert found.qrels == {"q-it-1": {"b": 1, "a": 0}}
    assert found.queries == (Query("q-it-1", "che cosa"),)


def test_mkqa_in_two_languages_on_one_corpus(hub: Hub, tmp_path: Path) -> None:
    questions = {
        "km": {"7": ("អ្វី", ["Café", "tea"]), "8": ("x", [])},
        "zh_cn": {"7": ("什么", ["茶"])},
    }
    put_mkqa(hub, questions, folder="MKQA_test-data/")
    put_beir(hub, "nq", {"doc0": ("Café", "A CAFÉ’S…"), "doc1": ("", "Tea")}, QUERIES, JUDGED)
    wanted, found = loaded("mkqa/km", tmp_path / "sets")
    assert wanted.language == "en"
    assert wanted.measures == ("AnswerRecall@100", "AnswerRecall@20")
    assert texts_of(found) == {"doc0": ("café", "a café's..."), "doc1": ("", "tea")}
    assert found.answers == {"7": ("Café", "tea"), "8": ()}
    other, _ = loaded("mkqa/zh_cn", tmp_path / "sets")
    one, two = (each.path / "corpus.jsonl.gz" for each in (wanted, other))
    assert one.samefile(two) and one.samefile(tmp_path / "sets" / "mkqa" / "corpus.jsonl.gz")


@pytest.mark.parametrize("parquet", [False, True])
def test_beir(hub: Hub, tmp_path: Path, parquet: bool) -> None:
    put_beir(hub, "scifact", TEXTS, QUERIES, JUDGED, parquet=parquet)
    put_beir(hub, "msmarco", TEXTS, QUERIES, JUDGED, split="validation", parquet=parquet)
    for name, split in (("scifact", "test"), ("msmarco", "dev")):
        wanted, found = loaded(f"beir/{name}", tmp_path / "sets")
        assert (wanted.name, wanted.split, wanted.language) == (f"beir-{name}", split, "en")
        assert (texts_of(found), found.qrels) == (TEXTS, JUDGED)
        assert [each.id for each in found.queries] == ["q1", "q2"]


def test_narrativeqa(hub: Hub, tmp_path: Path) -> None:
    asked = [("s1", "who?"), ("s1", "where?"), ("s2", "who?")]
    put_narrativeqa(hub, {"s1": "Once", "s2": "Twice"}, asked)
    wanted, found = loaded("narrativeqa", tmp_path / "sets")
    assert (wanted.name, wanted.path) == ("narrativeqa", tmp_path / "sets" / "narrativeqa")
    assert texts_of(found) == {"s1": ("", "Once"), "s2": ("", "Twice")}
    assert found.qrels == {"0": {"s1": 1}, "1": {"s1": 1}, "2": {"s2": 1}}
    assert [each.text for each in found.queries] == ["who?", "where?", "who?"]


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[None]:
    """Data sets of ir_datasets on this disk: `m3test/a`, and `m3test/b` without judgements."""
    import ir_datasets

    files = {
        "docs": "d1\ttea\nd2\trice\n",
        "queries": "q1\twhat\n",
        "qrels": "q1 0 d1 1\nq1 0 d1 2\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    whole = {
        "docs_tsv": str(tmp_path / "docs"),
        "queries_tsv": str(tmp_path / "queries"),
    }
    judged = ir_datasets.create_dataset(**whole, qrels_trec=str(tmp_path / "qrels"))
    ir_datasets.registry.register("m3test/a", judged)
    ir_datasets.registry.register("m3test/b", ir_datasets.create_dataset(**whole))
    yield
    for name in ("m3test/a", "m3test/b"):
        del ir_datasets.registry._registered[name]


@pytest.mark.usefixtures("registered")
def test_ir_datasets(tmp_path: Path) -> None:
    wanted, found = loaded("ir:m3test/a", tmp_path / "sets")
    assert (wanted.name, wanted.path.name) == ("ir-m3test-a", "m3test+a")
    assert texts_of(found) == {"d1": ("", "tea"), "d2": ("", "rice")}
    assert (found.qrels, found.queries) == ({"q1": {"d1": 2}}, (Query("q1", "what"),))
    with pytest.raises(ConfigError, match=r"Did you mean ir:m3test/[ab]"):
        find_source("ir:m3test/c")
    with pytest.raises(ConfigError, match="no qrels"):
        find_source("ir:m3test/b")


def test_settings_go_before_those_of_a_data_set(hub: Hub, tmp_path: Path) -> None:
    put_miracl(hub, "yo", TEXTS, QUERIES, JUDGED)
    settings = ["language=sw", "depth=7", "measures=['R@5']"]
    [wanted] = load_sets(["miracl/yo"], data=tmp_path / "sets", settings=settings)
    assert (wanted.language, wanted.depth, wanted.measures) == ("sw", 7, ("R@5",))
    assert wanted.split == "dev"
    shutil.rmtree(tmp_path / "sets")
    with pytest.raises(ConfigError, match="dpeth"):
        load_sets(["miracl/yo"], data=tmp_path / "sets", settings=["dpeth=7"])
    assert not (tmp_path / "sets").exists()  # nothing is fetched for a wrong setting


def test_what_is_there_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    put_miracl(hub, "yo", TEXTS, QUERIES, JUDGED)
    told: list[str] = []
    load_sets(["miracl/yo"], data=tmp_path / "sets", report=told.append)
    assert len(told) == 1 and "fetching miracl/yo from huggingface.co/datasets" in told[0]
    shutil.rmtree(hub.folder)
    load_sets(["miracl/yo"], data=tmp_path / "sets", report=told.append)
    assert len(told) == 1


def test_by_default_they_are_in_the_cache_of_the_user(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_miracl(hub, "yo", TEXTS, QUERIES, JUDGED)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    [wanted] = load_sets(["miracl/yo"])
    assert wanted.path == tmp_path / "cache" / "m3search" / "sets" / "miracl" / "yo"
    monkeypatch.setattr("m3search.evaluation.sources.fetching.user_cache", lambda: None)
    with pytest.raises(ConfigError, match="--data FOLDER"):
        cache_folder(None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("miracl/you", "Did you mean miracl/yo"),
        ("beir/scifacts", "Did you mean beir/scifact"),
        ("beir", "one of beir/<name>, miracl/<lang>"),
        ("ir:vaswanii", "Did you mean ir:vaswani?"),
        ("nowhere", "a data set (beir/<name>, miracl/<lang>, mkqa/<lang>, mldr/<lang>, narr"),
    ],
)
def test_a_name_that_is_none(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_sets([name], data=tmp_path / "sets")
    assert said in str(caught.value)
    assert not (tmp_path / "sets").exists()


def test_a_data_set_that_cannot_be_reached(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_sets(["miracl/yo"], data=tmp_path / "sets")
    assert caught.value.where == "miracl/yo"
    assert "huggingface.co/datasets/miracl/miracl" in caught.value.expected
    assert f"in one of the layouts into {tmp_path}/sets/miracl/yo" in caught.value.remedy
    assert not any((tmp_path / "sets" / "miracl").iterdir())


def test_a_repository_without_the_files(hub: Hub, tmp_path: Path) -> None:
    put_miracl(hub, "sw", TEXTS, QUERIES, JUDGED)
    with pytest.raises(DataError, match=r"miracl-corpus-v1.0-yo/docs-\*.jsonl.gz, found no such"):
        load_sets(["miracl/yo"], data=tmp_path / "sets")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"query_id": "q", "query": None}, '"query" to be a value'),
        ({"query_id": ["q"], "query": "x"}, '"query_id" to be a string'),
        (
            {"query_id": "q", "query": "x", "positive_passages": {}, "negative_passages": []},
            '"positive_passages" to be a list',
        ),
    ],
)
def test_a_changed_layout_is_told_with_the_line(
    hub: Hub, tmp_path: Path, line: dict[str, Any], said: str
) -> None:
    put_mldr(hub, "it", {"a": "x"}, {"q": ("x", ["a"])})
    hub.put("Shitao/MLDR", "mldr-v1.0-it/test.jsonl.gz", json.dumps(line).encode())
    with pytest.raises(DataError) as caught:
        load_sets(["mldr/it"], data=tmp_path / "sets")
    assert caught.value.line == 1 and said in str(caught.value)
    assert not (tmp_path / "sets" / "mldr" / "it").exists()


def test_packages_that_are_not_installed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_narrativeqa(hub, {"s": "x"}, [("s", "who?")] * 2)
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    for name, package in (("narrativeqa", "datasets"), ("ir:vaswani", "ir_datasets")):
        with pytest.raises(ConfigError, match=rf"{package}.*pip install 'm3search\[eval\]'"):
            load_sets([name], data=tmp_path / "sets")


def test_every_name_of_the_catalogue_has_a_source() -> None:
    for kind, names in NAMES.items():
        for name in names:
            source = find_source(f"{kind}/{name}")
            assert (source.folder, source.set_name) == (f"{kind}/{name}", f"{kind}-{name}")


SLOW = """
import sys, time
from pathlib import Path
from m3search.evaluation.sources import Source, fetch
from m3search.evaluation.sources.source import Contents
from m3search.records import Document, Query

def documents():
    yield Document("a", "x")
    print("begun", flush=True)
    time.sleep(60)

read = lambda: Contents(documents(), [Query("q", "x")])
fetch(Source("miracl/yo", "here", read), Path(sys.argv[1]))
"""


def quick(name: str = "miracl/yo") -> Source:
    return Source(name, "here", lambda: Contents([Document("b", "y")], [Query("q", "x")]))


def test_a_killed_fetch_leaves_nothing_half_and_begins_anew(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path)], stdout=subprocess.PIPE, env=os.environ
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
        with pytest.raises(ArtifactError, match="one writer at a time"):
            fetch(quick(), tmp_path)
    finally:
        process.kill()
        process.communicate()
    assert not (tmp_path / "miracl" / "yo").exists()
    place = fetch(quick(), tmp_path)
    assert b'"b"' in gzip.decompress((place / "corpus.jsonl.gz").read_bytes())
    assert [each.name for each in place.parent.iterdir()] == ["yo"]


def test_a_fetch_that_fails_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    def documents() -> Iterator[Document]:
        yield Document("a", "x")
        raise OSError(28, "No space left on device")

    source = Source("miracl/yo", "here", lambda: Contents(documents(), []))
    with pytest.raises(DataError, match="No space left"):
        fetch(source, tmp_path)
    assert list((tmp_path / "miracl").iterdir()) == []
