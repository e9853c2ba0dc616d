"""What an evaluation keeps for the next one: when it counts, when not, and what goes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from evaluation_fakes import TEXTS, WORDS, Log, WordEncoder, evaluate, forget_searches, make_set

from m3search.evaluation import EvaluationSet, Experiment, evaluate_sets, keys
from m3search.evaluation.cache import Cache
from m3search.evaluation.encodings import KeptQueries, read_queries, write_queries
from m3search.evaluation.keys import index_key
from m3search.evaluation.tables import to_markdown
from m3search.model.machine import machine
from m3search.stores.manifest import Layout


@pytest.fixture
def wanted(tmp_path: Path) -> EvaluationSet:
    return EvaluationSet(make_set(tmp_path / "s"), depth=2)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_a_second_evaluation_encodes_nothing_and_finds_the_same(
    wanted: EvaluationSet, cache: Cache
) -> None:
    first, encoded = evaluate(wanted, cache)
    assert {*TEXTS.values()} <= {*encoded}
    second, encoded = evaluate(wanted, cache)
    assert encoded == []
    assert second.report == first.report
    for name in ("counts", "settings", "truncated", "bytes", "model", "bm25"):
        assert second.details[name] == first.details[name]
    for name in ("index", "encode queries"):  # what they took when they were made
        assert second.details["seconds"][name] == first.details["seconds"][name]
    assert (
        second.details["stages_ms"]["encode queries"]
        == (first.details["stages_ms"]["encode queries"])
    )
    for each, reused in ((first, False), (second, None)):  # the second looks at neither
        assert each.details["index_reused"] is each.details["queries_reused"] is reused
        assert each.details["search_reused"] is (reused is None)


def test_other_rows_weights_depths_and_measures_encode_nothing(
    wanted: EvaluationSet, cache: Cache
) -> None:
    evaluate(wanted, cache)
    for changes in (
        {"rows": ("multi", "dense+multi")}, {"weights": (1.0, 0.0, 0.5)}, {"depth": 4},
        {"measures": ("RR@10", "R@1000")}, {"missing": "zero"}, {"candidates": "dense"},
        {"name": "other"}, {"group": "g"}, {"language": "en"},
    ):  # fmt: skip
        changed = replace(wanted, **changes)
        found, encoded = evaluate(changed, cache)
        assert encoded == [], changes
        assert found.report == evaluate(changed, None)[0].report


def test_without_a_cache_everything_is_encoded_and_nothing_stays(
    wanted: EvaluationSet, cache: Cache, tmp_path: Path
) -> None:
    kept, _ = evaluate(wanted, cache)
    before = sorted(tmp_path.rglob("*"))
    found, encoded = evaluate(wanted, None)
    assert {*TEXTS.values()} <= {*encoded}
    assert found.report == kept.report
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "0" * 64}, {"max_length": 511}, {"pooling": "mean"}, {"mcls": True},
        {"vocabulary": 11}, {"dim": 5}, {"multi_dim": 3}, {"fusion_weights": (1.0, 1.0, 1.0)},
    ],
    ids=str,
)  # fmt: skip
def test_another_model_or_use_of_it_has_another_key(tmp_path: Path, change: Any) -> None:
    encoder: Any = Log().encoders(None)
    corpus = make_set(tmp_path / "s") / "corpus.jsonl.gz"
    key = index_key(corpus, Layout("{text}"), encoder)
    other = replace(encoder, identity=replace(encoder.identity, **change))
    assert index_key(corpus, Layout("{text}"), other) != key
    moved = replace(encoder, identity=replace(encoder.identity, name="elsewhere"))
    assert index_key(corpus, Layout("{text}"), moved) == key


def test_all_else_that_decides_an_index_is_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder: Any = Log().encoders(None)
    corpus = make_set(tmp_path / "s") / "corpus.jsonl.gz"
    more = make_set(tmp_path / "more", TEXTS | {"d5": "x"}) / "corpus.jsonl.gz"
    found = [
        index_key(corpus, Layout("{text}"), encoder),
        index_key(more, Layout("{text}"), encoder),
        index_key(corpus, Layout("{title} {text}"), encoder),
        index_key(corpus, Layout("{text}"), replace(encoder, precision="cuda bfloat16")),
        index_key(corpus, Layout("{text}"), replace(encoder, modes=("dense",))),
    ]
    changes: list[dict[str, Any]] = [{"multi_codec": "int8"}, {"sparse_codec": "log8"}]
    for change in changes:
        found.append(index_key(corpus, Layout("{text}", **change), encoder))
    monkeypatch.setattr(keys, "version", lambda _: "0.0")  # of a library
    keys.code_key.cache_clear()
    found.append(index_key(corpus, Layout("{text}"), encoder))
    package = shutil.copytree(Path(keys.__file__).parents[1], tmp_path / "m3search")
    monkeypatch.setattr(keys, "__file__", str(package / "evaluation" / "keys.py"))
    for name in ("encoder.py", "stores/codecs.py", "model/tokenization.py", "corpus/documents.py"):
        with (package / name).open("a") as file:
            file.write("# another code\n")
        keys.code_key.cache_clear()
        found.append(index_key(corpus, Layout("{text}"), encoder))
    assert len({*found}) == len(found)
    (package / "evaluation" / "html.py").write_text("")
    keys.code_key.cache_clear()
    assert index_key(corpus, Layout("{text}"), encoder) == found[-1]
    monkeypatch.undo()
    keys.code_key.cache_clear()
    assert index_key(corpus, Layout("{text}"), encoder) == found[0]


def damage(path: Path) -> None:
    """One bit in the middle of a file, which keeps its size."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def files_of(cache: Cache) -> list[Path]:
    files = [path for path in cache.folder.rglob("*") if path.is_file()]
    return sorted(path for path in files if path.suffix != ".lock" and path.name != "built.json")


def test_whatever_is_damaged_is_found_told_and_made_anew(
    wanted: EvaluationSet, tmp_path: Path
) -> None:
    told: list[str] = []
    cache = Cache(tmp_path / "cache", report=told.append)
    first, _ = evaluate(wanted, cache)
    names = [path.relative_to(cache.folder) for path in files_of(cache)]
    assert {path.suffix for path in names} >= {".faiss", ".json", ".npy", ".sqlite"}
    assert {path.parent.name for path in names} >= {"index", "queries", "runs", "searches"}
    for name in names:
        kind = name.parts[1]
        for spoil in (damage, shorten, Path.unlink):
            if kind != "searches":  # what was found is there without what it was found in
                forget_searches(cache.folder)
            spoil(cache.folder / name)
            found, encoded = evaluate(wanted, cache)
            lost = kind != "index" or name.name == "manifest.json"  # nothing is there without it
            assert len(told) == (0 if spoil is Path.unlink and lost else 1), (name, told)
            expected = f"damaged in the cache, so it is made again: {cache.folder / name}: "
            assert all(line.startswith(expected) for line in told), (name, told)
            told.clear()
            assert bool(encoded) is (kind in ("index", "queries")), name
            assert found.details["search_reused"] is False, name
            assert found.details["bm25_reused"] is (kind != "runs"), name
            assert found.report == first.report, name
            again, encoded = evaluate(wanted, cache)
            assert not encoded and again.details["search_reused"] and again.details["bm25_reused"]
            assert not told
            assert again.report == first.report


def test_an_evaluation_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    """By SIGKILL, with 1,000 of 1,500 documents committed."""
    make_set(tmp_path / "s", {f"d{n}": "red fox" for n in range(1500)}, judged={"q1": {"d1": 1}})
    code = """
import os, signal, sys
from pathlib import Path
from m3search.evaluation import EvaluationSet, evaluate_sets
from m3search.evaluation.cache import Cache
import m3search.index
sys.path.insert(0, sys.argv[2])
from evaluation_fakes import WordEncoder

class Dying(WordEncoder):
    def encode(self, texts, kind="document", **options):
        if len(self.texts) > 500:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(texts, kind, **options)

build = m3search.index.Index.build
m3search.index.Index.build = lambda *a, **o: build(*a, segment_documents=500, **o)
folder = Path(sys.argv[1])
wanted = EvaluationSet(folder / "s", rows=("dense",), depth=2)
evaluate_sets([wanted], lambda _: Dying(["red", "fox"]), cache=Cache(folder / "cache"))
"""
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", code, str(tmp_path), tests]
    ended = subprocess.run(command, check=False, timeout=300)
    assert ended.returncode == -signal.SIGKILL
    wanted = EvaluationSet(tmp_path / "s", rows=("dense",), depth=2)
    encoder = WordEncoder(["red", "fox"])
    [result] = evaluate_sets([wanted], lambda _: encoder, cache=Cache(tmp_path / "cache")).sets
    assert encoder.texts.count("red fox") == 500
    assert result.details["counts"]["documents"] == 1500
    assert "index" not in result.details["seconds"]  # nobody knows what it took in all
    fresh = WordEncoder(["red", "fox"])
    [other] = evaluate_sets([wanted], lambda _: fresh).sets
    assert result.report == other.report and fresh.texts.count("red fox") == 1500


def test_of_many_evaluations_at_once_each_finds_the_same_and_one_encodes(
    wanted: EvaluationSet, cache: Cache
) -> None:
    expected, _ = evaluate(wanted, None)
    found: list[tuple[Any, list[str]]] = []
    threads = [Thread(target=lambda: found.append(evaluate(wanted, cache))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.report for each, _ in found] == [expected.report] * 4
    assert sorted(bool(encoded) for _, encoded in found) == [False, False, False, True]


def test_times_of_another_machine_are_told(
    wanted: EvaluationSet, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = evaluate(wanted, cache)
    again, _ = evaluate(wanted, cache)
    assert "timed_on" not in here.details and "timed_on" not in again.details
    other = machine() | {"processor": "Abacus", "threads": 99}
    for module in ("experiment", "engine", "searches", "baseline_runs"):
        monkeypatch.setattr(f"m3search.evaluation.{module}.machine", lambda: other)
    there, _ = evaluate(wanted, cache)
    assert there.details["timed_on"] == dict.fromkeys(("search", "bm25"), machine())
    text = to_markdown(Experiment((there,), {}))
    assert f"on another machine than below: {machine()['processor']}, " in text
    deeper, encoded = evaluate(replace(wanted, depth=150), cache)  # a search of this machine
    assert [*deeper.details["timed_on"]] == ["bm25"]
    assert {*encoded} == {"red animal", "whale"}  # alone, as the times of the other are not its own


def test_queries_come_back_as_they_were(tmp_path: Path) -> None:
    texts = ["red fox", "", "whale"]
    encoded = WordEncoder(WORDS).encode(texts)
    encoded = replace(encoded, truncated=np.array([True, False, False]))
    kept = KeptQueries(encoded, 1.5, (0.25, 0.5), {"processor": "Abacus"})
    write_queries(tmp_path, texts, kept)
    told: list[str] = []
    found = read_queries(tmp_path, texts, told.append)
    assert found is not None and (found.seconds, found.alone) == (1.5, (0.25, 0.5))
    assert np.array_equal(found.encoded.dense, encoded.dense)
    assert found.encoded.sparse.shape == encoded.sparse.shape
    assert (found.encoded.sparse != encoded.sparse).nnz == 0
    assert np.array_equal(found.encoded.truncated, encoded.truncated)
    for one, other in zip(found.encoded.multi, encoded.multi, strict=True):
        assert np.array_equal(one, other) and one.dtype == other.dtype
    for others in (texts[:2], texts[::-1], ["red", "fox", "whale"]):
        assert read_queries(tmp_path, others, told.append) is None
    write_queries(tmp_path, [], KeptQueries(encoded[:0], 0.0))
    none = read_queries(tmp_path, [], told.append)
    assert none is not None and len(none.encoded) == 0 and not told


def test_times_of_queries_alone_are_added_where_they_are_asked_for_later(
    wanted: EvaluationSet, cache: Cache
) -> None:
    encoder = WordEncoder(WORDS)
    evaluate_sets([wanted], lambda _: encoder, cache=cache)
    _, encoded = evaluate(wanted, cache)
    assert {*encoded} == {"red animal", "whale"}
    assert evaluate(wanted, cache)[1] == []
