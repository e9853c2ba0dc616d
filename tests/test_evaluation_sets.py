"""Suites, collections and experiments on tiny sets, with an encoder and a searcher made up."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from killing import kill_at_each_call
from scipy import sparse as sp

from m3search import plan
from m3search.corpus import read_run
from m3search.errors import ArtifactError, ConfigError, DataError
from m3search.evaluation import (
    Engine,
    EvaluationSet,
    Experiment,
    ReportFolder,
    evaluate_sets,
    load_sets,
    suite,
)
from m3search.evaluation.collection import Sample, load_collection
from m3search.evaluation.report import table
from m3search.evaluation.suite import ROWS, modes_of
from m3search.records import Document, Encoded, ModelIdentity, Query, Run

TEXTS = {"d1": "red fox", "d2": "blue whale", "d3": "red panda", "d4": "green tree"}
QUERIES = {"q1": "red animal", "q2": "whale", "q3": "not judged"}
JUDGED = {"q1": {"d1": 2, "d3": 1}, "q2": {"d2": 1}}
IDENTITY = ModelIdentity("fake", "f" * 64, 4, 10, 2, 512, "cls")


def make_set(
    folder: Path,
    texts: dict[str, str] = TEXTS,
    queries: dict[str, str] = QUERIES,
    judged: dict[str, dict[str, int]] = JUDGED,
    split: str = "test",
) -> Path:
    (folder / "qrels").mkdir(parents=True)
    lines = "\n".join(json.dumps({"_id": name, "text": text}) for name, text in texts.items())
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    lines = "\n".join(json.dumps({"_id": name, "text": text}) for name, text in queries.items())
    (folder / "queries.jsonl").write_text(lines)
    rows = [
        f"{query}\t{document}\t{grade}"
        for query, grades in judged.items()
        for document, grade in grades.items()
    ]
    (folder / "qrels" / f"{split}.tsv").write_text(
        "\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n"
    )
    return folder


@dataclass
class FakeEncoder:
    identity: ModelIdentity = IDENTITY


@dataclass
class FakeManifest:
    documents: int
    complete: bool = True
    truncated: int = 3


@dataclass
class FakeIndex:
    documents: list[Document]
    manifest: FakeManifest

    def bytes_by_store(self) -> dict[str, int]:
        return {"dense": 1_500_000, "sparse": 500_000}


@dataclass
class Log:
    """What an evaluation asked for."""

    built: list[Path] = field(default_factory=list)
    opened: list[Path] = field(default_factory=list)
    encoded: list[int] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    lengths: list[int | None] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    damaged: bool = False
    cause: BaseException | None = None
    fails: Exception | None = None

    def engine(self) -> Engine:
        return Engine(self.build, self.open, lambda index, _: FakeSearcher(index, self))

    def build(self, path, documents, encoder, *, title_template, progress) -> FakeIndex:
        self.built.append(path)
        self.templates.append(title_template)
        if (path / "ids").exists():
            raise ArtifactError(str(path), expected="no index", found="one", remedy="None.")
        path.mkdir(exist_ok=True)
        found = list(documents)
        if self.fails is not None:
            raise self.fails
        (path / "ids").write_text(json.dumps([list(each[:3]) for each in found]))
        progress(len(found))
        return FakeIndex(found, FakeManifest(len(found)))

    def open(self, path: Path) -> FakeIndex:
        self.opened.append(path)
        if self.damaged:
            raise ArtifactError(
                str(path), expected="sound", found="damage", remedy="None."
            ) from self.cause
        if not (path / "ids").exists():
            return FakeIndex([], FakeManifest(0, complete=False))
        found = [Document(*each) for each in json.loads((path / "ids").read_text())]
        return FakeIndex(found, FakeManifest(len(found)))

    def encoders(self, length: int | None) -> FakeEncoder:
        self.lengths.append(length)
        return FakeEncoder(replace(IDENTITY, max_length=length or 512))


@dataclass
class FakeQueries:
    """The first query is longer than the model reads."""

    queries: list[Query]

    @property
    def encoded(self) -> SimpleNamespace:
        return SimpleNamespace(truncated=np.arange(len(self.queries)) == 0)


@dataclass
class FakeSearcher:
    """Scores are the number of common words, and a tenth more for every mode asked."""

    index: FakeIndex
    log: Log

    def encode(self, queries) -> FakeQueries:
        found = list(queries)
        self.log.encoded.append(len(found))
        return FakeQueries(found)

    def run(self, queries, k, *, modes, **settings) -> Run:
        assert isinstance(queries, FakeQueries)
        self.log.runs.append({"k": k, "modes": modes, **settings})
        run: Run = {}
        for query in queries.queries:
            words = set(query.text.split())
            scores = {
                each.id: len(words & set(each.text.split())) + len(modes) / 10
                for each in self.index.documents
            }
            run[query.id] = {name: score for name, score in scores.items() if score >= 1}
        return run


# --- suites


def test_a_folder_needs_no_other_file(tmp_path: Path) -> None:
    [found] = load_sets([make_set(tmp_path / "animals")])
    assert found == EvaluationSet(tmp_path / "animals", "animals")
    assert found.rows == ROWS
    assert found.measures == ("nDCG@10", "R@100")


def test_a_suite_gives_its_settings_to_its_sets(tmp_path: Path) -> None:
    path = tmp_path / "suites" / "s.toml"
    path.parent.mkdir()
    path.write_text(
        """
        description = "both"
        depth = 50
        language = "en"
        rows = ["dense", "bm25"]
        [[sets]]
        path = "../one"
        [[sets]]
        path = "/far/two"
        name = "second"
        split = "dev"
        depth = 7
        language = "de"
        max_length = 128
        weights = [1, 0, 0.5]
        measures = ["RR@10"]
        """
    )
    one, two = load_sets([path])
    assert one.path == path.parent / "../one" and one.name == "one"
    assert (one.depth, one.language, one.rows) == (50, "en", ("dense", "bm25"))
    assert one.weights is None and one.max_length is None
    assert (two.path, two.name, two.split, two.depth) == (Path("/far/two"), "second", "dev", 7)
    assert (two.language, two.max_length, two.weights) == ("de", 128, (1.0, 0.0, 0.5))
    assert two.measures == ("RR@10",) and two.rows == ("dense", "bm25")
    one, two = load_sets([path], data="/data", settings=["depth=9", "sets.2.split=test"])
    assert one.path == Path("/data/../one") and two.path == Path("/far/two")
    assert (one.depth, two.depth, two.split) == (9, 7, "test")


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("dpeth = 3\n[[sets]]\npath = 'a'", "key dpeth", "'depth'"),
        ("[[sets]]\npath = 'a'\nsplt = 'x'", "key sets.1.splt", "'split'"),
        ("[[sets]]\nname = 'a'", "key sets.1", "the key path"),
        ("sets = []", "s.toml", "no [[sets]]"),
        ("name = 'x'\n[[sets]]\npath = 'a'", "key name", "expected one of candidates"),
        ("depth = 'x'\n[[sets]]\npath = 'a'", "s.toml, key depth", "a whole number"),
        ("missing = 'zeroes'\n[[sets]]\npath = 'a'", "s.toml, key missing", "'zero'"),
        ("[[sets]]\npath = 'a'\ntitle_template = 'x'", "key sets.1.title_template", "{text}"),
        ("[[sets]]\npath = 3", "key sets.1.path", "a path"),
        ("[[sets]]\npath = 'a'\nmeasures = ['ndcg@10']", "key sets.1.measures", "'nDCG@10'"),
        ("[[sets]]\npath = 'a'\nrows = ['dense+spars']", "key sets.1.rows", "'sparse'"),
        ("[[sets]]\npath = 'a'\nrows = ['dense+dense']", "key sets.1.rows", "different modes"),
        ("rows = []\n[[sets]]\npath = 'a'", "s.toml", "no rows"),
        ("[[sets]]\npath = 'a'\ndepth = 0", "key sets.1", "below 1"),
        ("[[sets]]\npath = 'a'\nname = 'a/b'", "key sets.1", "'a/b'"),
        ("[[sets]]\npath = 'a'\nweights = [1, -1, 1]", "key sets.1", "from 0 up"),
        ("[[sets]]\npath = 'a'\n[[sets]]\npath = 'b/a'", "sets", "'a' twice"),
    ],
)
def test_a_wrong_suite(tmp_path: Path, text: str, where: str, said: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_sets([path])
    assert where in caught.value.where
    assert said in str(caught.value)


def test_rows_and_their_modes() -> None:
    assert modes_of("all") == ("dense", "sparse", "multi")
    assert modes_of("multi+dense") == ("dense", "multi")
    assert modes_of("sparse") == ("sparse",)
    assert modes_of("bm25") is None


# --- collections


def test_a_collection_and_its_counts(tmp_path: Path) -> None:
    judged = JUDGED | {"q2": {"d2": 0}}
    collection = load_collection(EvaluationSet(make_set(tmp_path / "s", judged=judged)))
    assert collection.queries == (Query("q1", "red animal"), Query("q2", "whale"))
    assert collection.qrels == judged
    assert [each.id for each in collection.read()] == list(TEXTS)
    assert collection.counts() == {
        "documents": 4,
        "queries": 2,
        "queries_without_judgement": 1,
        "queries_without_relevant": 1,
        "judgements": 3,
        "judgements_of_unknown_documents": 0,
    }


def test_judgements_of_unknown_documents(tmp_path: Path) -> None:
    judged = {"q1": {"d1": 1, "gone": 1}, "q2": {"gone": 1, "lost": 1}}
    wanted = EvaluationSet(make_set(tmp_path / "s", judged=judged))
    with pytest.raises(DataError, match="2 others: 'gone', 'lost'"):
        load_collection(wanted)
    kept = load_collection(replace(wanted, unknown_documents="keep"))
    assert kept.unknown == 3
    assert kept.qrels == judged


def test_judgements_of_queries_that_are_not_there(tmp_path: Path) -> None:
    judged = JUDGED | {f"x{number}": {"d1": 1} for number in range(5)}
    with pytest.raises(DataError, match=r"5 others: 'x0', 'x1', 'x2', \.\.\."):
        load_collection(EvaluationSet(make_set(tmp_path / "s", judged=judged)))


def test_missing_files_say_what_is_there(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "s", split="dev")
    with pytest.raises(DataError, match=r"found only dev\.tsv"):
        load_collection(EvaluationSet(folder))
    assert load_collection(EvaluationSet(folder, split="dev")).documents == 4
    (folder / "corpus.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"expected corpus\.jsonl"):
        load_collection(EvaluationSet(folder, split="dev"))


def test_a_missing_folder_is_told_before_anything_is_run(tmp_path: Path) -> None:
    log = Log()
    sets = [EvaluationSet(make_set(tmp_path / "s")), EvaluationSet(tmp_path / "none")]
    with pytest.raises(DataError, match="--data"):
        evaluate_sets(sets, log.encoders, engine=log.engine())
    assert not log.built


def test_a_sample_is_uniform_and_the_same_every_time() -> None:
    def sample(size: int, of: int) -> list[int]:
        taken = Sample(size)
        for number in range(of):
            taken.add(str(number))
        assert taken.seen == of
        return [int(text) for text in taken.texts]

    assert sample(10, 5) == [0, 1, 2, 3, 4]
    assert sample(500, 5000) == sample(500, 5000)
    quarters = [
        sum(number * 4 // 5000 == part for number in sample(500, 5000)) for part in range(4)
    ]
    assert sum(quarters) == 500 and min(quarters) > 85


# --- experiments


def test_rows_and_measures_of_a_set(tmp_path: Path) -> None:
    log, steps = Log(), []
    [wanted] = load_sets([make_set(tmp_path / "animals")])
    wanted = replace(wanted, depth=30, weights=(1.0, 0.3, 1.0), language="en", max_length=64)
    found = evaluate_sets(
        [wanted],
        log.encoders,
        engine=log.engine(),
        progress=lambda *step: steps.append(step),
        provenance={"command": "m3search eval animals"},
    ).to_json()
    assert set(found) == {"sets", "provenance"}
    [animals] = found["sets"].values()
    assert list(animals["rows"]) == list(ROWS)
    assert animals["rows"]["dense"] == {"nDCG@10": pytest.approx(0.93, 0.01), "R@100": 1.0}
    assert animals["rows"]["bm25"]["R@100"] == 1.0
    assert animals["counts"]["queries"] == 2
    assert animals["bytes"] == {"dense": 1_500_000, "sparse": 500_000}
    assert animals["bm25"]["language_origin"] == "given"
    assert animals["model"]["max_length"] == 64
    assert set(animals["seconds"]) == {"index", "encode queries", "bm25 index", *ROWS}
    assert found["provenance"]["command"] == "m3search eval animals"
    assert "bm25s" in found["provenance"]["versions"]
    json.dumps(found, allow_nan=False)
    assert log.encoded == [2]
    assert log.lengths == [64]
    assert [run["modes"] for run in log.runs] == [modes_of(row) for row in ROWS[:-1]]
    shared = {
        "k": 100, "depth": 30, "weights": (1.0, 0.3, 1.0),
        "missing": "exact", "candidates": "union",
    }  # fmt: skip
    assert all(run == {**shared, "modes": run["modes"]} for run in log.runs)
    assert steps[0] == ("animals: indexing", 4, 4)


def test_a_measure_that_looks_further_gets_longer_runs(tmp_path: Path) -> None:
    log = Log()
    wanted = EvaluationSet(make_set(tmp_path / "s"), measures=("R@1000",), rows=("sparse",))
    evaluate_sets([wanted], log.encoders, engine=log.engine())
    assert [run["k"] for run in log.runs] == [1000]


def test_bm25_alone_needs_no_model(tmp_path: Path) -> None:
    def refuse(_: int | None) -> FakeEncoder:
        raise AssertionError

    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("bm25",))
    [result] = evaluate_sets([wanted], refuse).sets
    assert list(result.report.means) == ["bm25"]
    assert "model" not in result.details


def test_the_mean_is_over_sets_and_for_what_all_have(tmp_path: Path) -> None:
    log = Log()
    one = EvaluationSet(make_set(tmp_path / "one"), rows=("bm25", "dense"))
    two = EvaluationSet(
        make_set(tmp_path / "two", judged={"q1": {"d4": 1}}),
        rows=("dense", "sparse"),
        measures=("R@100", "P@1"),
    )
    found = evaluate_sets([one, two], log.encoders, engine=log.engine()).to_json()
    assert found["mean"] == {"rows": {"dense": {"R@100": 0.5}}}
    assert log.lengths == [None]  # one encoder serves sets of the same length


def test_an_index_is_used_again_while_nothing_changed(tmp_path: Path) -> None:
    work = tmp_path / "work"
    folder = make_set(tmp_path / "s")
    wanted = EvaluationSet(folder, rows=("dense",))

    def reused(log: Log, wanted: EvaluationSet = wanted) -> bool:
        [result] = evaluate_sets([wanted], log.encoders, work=work, engine=log.engine()).sets
        assert result.report.means["dense"]["R@100"] > 0
        assert len(log.built) + len(log.opened) >= 1
        return bool(result.details["index_reused"])

    assert not reused(Log())
    log = Log()
    assert reused(log) and not log.built
    assert not reused(Log(), replace(wanted, max_length=7))  # another length, other vectors
    assert reused(Log())  # and the first one is still there
    assert not reused(Log(damaged=True))
    [note, _] = sorted(work.glob("*/built.json"), key=lambda path: path.stat().st_mtime_ns)[::-1]
    note.unlink()  # as after a kill between the end of the building and its note
    assert reused(Log())
    (note.parent / "index" / "ids").unlink()  # as after a kill in the building
    log = Log()
    assert not reused(log) and (note.parent / "index") in log.built
    assert reused(Log())
    make_set(tmp_path / "other", texts=TEXTS | {"d5": "new"})
    (tmp_path / "other" / "corpus.jsonl.gz").rename(folder / "corpus.jsonl.gz")
    assert not reused(Log())


@pytest.mark.parametrize(
    ("cause", "removed"),
    [(None, True), (FileNotFoundError(), True), (BlockingIOError(), False), (OSError(), False)],
)
def test_an_index_is_removed_only_where_it_is_damaged(
    tmp_path: Path, cause: BaseException | None, removed: bool
) -> None:
    work = tmp_path / "work"
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense",))
    evaluate_sets([wanted], Log().encoders, work=work, engine=Log().engine())
    [held] = work.glob("*/index/ids")
    held.with_name("mark").write_text("")
    log = Log(damaged=True, cause=cause)
    if removed:
        [result] = evaluate_sets([wanted], log.encoders, work=work, engine=log.engine()).sets
        assert result.details["index_reused"] is False
    else:
        with pytest.raises(ArtifactError):
            evaluate_sets([wanted], log.encoders, work=work, engine=log.engine())
    assert held.with_name("mark").exists() is not removed


@pytest.mark.parametrize("kind", [ArtifactError, ConfigError])
def test_a_building_that_fails_keeps_what_is_there(
    tmp_path: Path, kind: type[ArtifactError | ConfigError]
) -> None:
    work = tmp_path / "work"
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense",))
    log = Log(fails=kind("build", expected="room", found="none", remedy="None."))
    for _ in range(2):  # into nothing, and into what the first one left
        with pytest.raises(kind, match="room"):
            evaluate_sets([wanted], log.encoders, work=work, engine=log.engine())
        [place] = work.glob("*/index")
        (place / "mark").write_text("")
    log.fails = None
    evaluate_sets([wanted], log.encoders, work=work, engine=log.engine())
    assert len(log.built) == 3
    assert (place / "mark").exists()


def test_of_two_evaluations_at_once_the_second_leaves_the_index_of_the_first(
    tmp_path: Path,
) -> None:
    """The second starts while the first is in its building, with m3search's own index."""
    work = tmp_path / "work"
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense",))
    met: list[str] = []

    @dataclass
    class Nested(WordEncoder):
        def encode(self, texts, kind="document", **options: object) -> Encoded:
            if kind == "document":
                with pytest.raises(ArtifactError, match="one writer at a time") as caught:
                    evaluate_sets([wanted], lambda _: WordEncoder(self.words), work=work)
                met.append(str(caught.value))
            return super().encode(texts, kind, **options)

    words = sorted({word for text in TEXTS.values() for word in text.split()})
    [result] = evaluate_sets([wanted], lambda _: Nested(words), work=work).sets
    assert result.report.means["dense"]["R@100"] == 1.0
    assert len(met) == 1
    evaluate_sets([wanted], lambda _: WordEncoder(words), work=work)  # the lock is free again


def test_of_two_evaluations_that_find_damage_one_builds(tmp_path: Path) -> None:
    """The second starts after the first has removed the index, before there is another."""
    work = tmp_path / "work"
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense",))
    first, second = Log(), Log(damaged=True)

    def build(path: Path, *arguments: Any, **options: Any) -> FakeIndex:
        path.mkdir(exist_ok=True)
        (path / "half").write_text("")
        with pytest.raises(ArtifactError, match="one writer at a time"):
            evaluate_sets([wanted], second.encoders, work=work, engine=second.engine())
        assert (path / "half").exists()
        return first.build(path, *arguments, **options)

    engine = replace(first.engine(), build=build)
    evaluate_sets([wanted], first.encoders, work=work, engine=engine)
    assert not second.built


def test_an_index_of_another_content_is_built_anew(tmp_path: Path) -> None:
    work = tmp_path / "work"
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense",))
    evaluate_sets([wanted], Log().encoders, work=work, engine=Log().engine())
    [held] = work.glob("*/index/ids")
    documents = json.loads(held.read_text())
    held.write_text(json.dumps([*documents, ["added", "red", ""]]))  # as by `index --add`
    [result] = evaluate_sets([wanted], Log().encoders, work=work, engine=Log().engine()).sets
    assert result.details["index_reused"] is False
    assert json.loads(held.read_text()) == documents


def test_what_was_cut_is_counted_and_told(tmp_path: Path) -> None:
    log, work = Log(), tmp_path / "work"
    sets = [EvaluationSet(make_set(tmp_path / name), rows=("dense",)) for name in ("one", "two")]
    for _ in range(2):  # built, and used again
        report = ReportFolder(tmp_path / "out")
        experiment = evaluate_sets(
            sets, log.encoders, engine=log.engine(), work=work, keep=report.add
        )
        text = report.finish(experiment).read_text()
        found = json.loads((tmp_path / "out" / "report.json").read_text())
        for name in ("one", "two"):
            assert found["sets"][name]["truncated"] == {"documents": 3, "queries": 1}
        assert (
            "\nCut at the maximum length: one 3 documents, 1 queries; two 3 documents, 1 queries.\n"
        ) in text


def test_what_was_cut_of_an_index_of_m3search_itself(tmp_path: Path) -> None:
    """Documents in two chunks, and a query."""
    texts = {f"d{number}": "red fox" + " x" * (number % 3 == 0) for number in range(600)}
    wanted = EvaluationSet(make_set(tmp_path / "s", texts=texts, judged={"q1": {"d1": 1}}))
    wanted = replace(wanted, rows=("dense",), depth=2)

    class Cutting(WordEncoder):
        def encode(self, texts, kind="document", **options: object) -> Encoded:
            cut = np.array([text.endswith((" x", "animal")) for text in texts])
            return replace(super().encode(texts, kind, **options), truncated=cut)

    [result] = evaluate_sets([wanted], lambda _: Cutting(["red", "fox"])).sets
    assert result.details["truncated"] == {"documents": 200, "queries": 1}


def test_missing_candidates_and_template_of_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    folder = make_set(tmp_path / "one")
    path.write_text(
        f"""
        missing = "zero"
        candidates = "dense"
        title_template = "{{text}} {{title}}"
        rows = ["multi"]
        [[sets]]
        path = "{folder}"
        [[sets]]
        path = "{folder}"
        name = "again"
        missing = "min"
        title_template = "{{text}}"
        """
    )
    log = Log()
    one, again = load_sets([path])
    found = evaluate_sets([one, again], log.encoders, engine=log.engine()).to_json()["sets"]
    assert [(run["missing"], run["candidates"]) for run in log.runs] == [
        ("zero", "dense"), ("min", "dense"),
    ]  # fmt: skip
    assert log.templates == ["{text} {title}", "{text}"]
    assert found["one"]["settings"]["missing"] == "zero"
    assert found["again"]["settings"]["candidates"] == "dense"
    assert found["again"]["settings"]["title_template"] == "{text}"


def test_another_template_makes_another_index(tmp_path: Path) -> None:
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense",))
    for template, reused in (("{title}\n{text}", False), ("{text}", False), ("{text}", True)):
        each = replace(wanted, title_template=template)
        log = Log()
        [result] = evaluate_sets(
            [each], log.encoders, work=tmp_path / "work", engine=log.engine()
        ).sets
        assert result.details["index_reused"] is reused


def test_a_suite_takes_what_a_search_takes() -> None:
    assert get_args(suite.Missing) == get_args(plan.Missing)
    assert get_args(suite.Candidates) == get_args(plan.Candidates)


def test_an_index_of_m3search_itself(tmp_path: Path) -> None:
    wanted = EvaluationSet(make_set(tmp_path / "s"), depth=2)

    def encoders(_: int | None) -> WordEncoder:
        return WordEncoder(sorted({word for text in TEXTS.values() for word in text.split()}))

    for reused in (False, True):
        [result] = evaluate_sets([wanted], encoders, work=tmp_path / "work").sets
        assert result.details["index_reused"] is reused
        assert result.details["bytes"]
        assert {row: means["R@100"] for row, means in result.report.means.items()} == (
            dict.fromkeys(ROWS, 1.0)
        )


@dataclass
class WordEncoder:
    """Counts of known words in all three modes, as m3search's own index stores them."""

    words: list[str]

    @property
    def identity(self) -> ModelIdentity:
        size = len(self.words) + 1
        return ModelIdentity("words", "w" * 64, size, size, size, 512, "cls")

    def encode(self, texts, kind="document", *, progress=None, **_: object) -> Encoded:
        size = len(self.words) + 1
        multi, dense = [], np.zeros((len(texts), size), dtype=np.float32)
        dense[:, -1] = 1e-3
        for row, text in enumerate(texts):
            known = [self.words.index(word) for word in text.split() if word in self.words]
            dense[row, known] = 1
            multi.append(np.eye(size, dtype=np.float32)[[*known, size - 1]])
        if progress is not None:
            progress(len(texts))
        weights = sp.csr_array(np.where(dense > 0.5, dense, 0).astype(np.float32))
        return Encoded(dense / np.linalg.norm(dense, axis=1, keepdims=True), weights, multi)


# --- reports


def run_two_sets(tmp_path: Path, out: Path) -> Path:
    log = Log()
    sets = [
        EvaluationSet(make_set(tmp_path / name), rows=("dense", "bm25")) for name in ("one", "two")
    ]
    folder = ReportFolder(out)
    experiment = evaluate_sets(
        sets,
        log.encoders,
        engine=log.engine(),
        keep=folder.add,
        provenance={"command": "m3search eval one two"},
    )
    return folder.finish(experiment)


def test_a_report_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = run_two_sets(tmp_path, out)
    assert path == out / "report.md"
    assert sorted(each.relative_to(out).as_posix() for each in out.rglob("*")) == [
        "queries", "queries/one.tsv", "queries/two.tsv", "report.json", "report.md", "runs",
        "runs/one.bm25.trec", "runs/one.dense.trec", "runs/two.bm25.trec", "runs/two.dense.trec",
    ]  # fmt: skip
    assert read_run(out / "runs" / "one.dense.trec")["q2"] == {"d2": pytest.approx(1.1)}
    found = json.loads((out / "report.json").read_text())
    values = [line.split("\t") for line in (out / "queries" / "one.tsv").read_text().splitlines()]
    assert values[0] == ["row", "measure", "query", "value"]
    dense = [
        float(v) for row, measure, _, v in values[1:] if (row, measure) == ("dense", "nDCG@10")
    ]
    mean = found["sets"]["one"]["rows"]["dense"]["nDCG@10"]
    assert sum(dense) / len(dense) == pytest.approx(mean, abs=1e-6)
    text = path.read_text()
    assert f"| {100 * mean:.1f} |" in text.replace("**", "")
    for part in ("| mean |", "- Command: m3search eval one two", "- Model: fake (ffffffffffff)"):
        assert part in text


def test_an_older_report_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    (out / "runs" / "old.dense.trec").write_text("old")
    (out / "report.json").write_text("{}")
    (out / "notes.txt").write_text("mine")
    (out / ".unfinished" / "runs").mkdir(parents=True)  # of a killed run
    (out / ".unfinished" / "runs" / "half.trec").write_text("half")
    run_two_sets(tmp_path, out)
    names = {each.name for each in out.rglob("*")}
    assert {"notes.txt", "one.dense.trec"} <= names
    assert not names & {"old.dense.trec", "half.trec", ".unfinished"}


def test_an_evaluation_that_fails_leaves_the_older_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_two_sets(tmp_path / "first", out)
    before = (out / "report.json").read_text()
    folder, log = ReportFolder(out), Log()
    good = EvaluationSet(make_set(tmp_path / "good"), rows=("dense",))
    bad = EvaluationSet(make_set(tmp_path / "bad", split="dev"), rows=("dense",))
    with pytest.raises(DataError):
        evaluate_sets([good, bad], log.encoders, engine=log.engine(), keep=folder.add)
    assert (out / "report.json").read_text() == before
    assert not (out / "runs" / "good.dense.trec").exists()


def test_killed_at_any_call_a_report_is_whole_or_has_no_report_json(tmp_path: Path) -> None:
    log, out, safe = Log(), tmp_path / "out", tmp_path / "safe"
    sets = [EvaluationSet(make_set(tmp_path / name), rows=("dense",)) for name in ("one", "two")]

    def contents() -> dict[str, bytes]:
        files = [each for each in out.rglob("*") if each.is_file()]
        shown = {each.relative_to(out).as_posix(): each.read_bytes() for each in files}
        return {name: read for name, read in shown.items() if not name.startswith(".unfinished")}

    def evaluate(wanted: EvaluationSet) -> tuple[ReportFolder, Experiment]:
        report = ReportFolder(out)
        return report, evaluate_sets([wanted], log.encoders, engine=log.engine(), keep=report.add)

    report, experiment = evaluate(sets[0])
    report.finish(experiment)
    old = contents()
    report, experiment = evaluate(sets[1])
    shutil.copytree(out, safe)
    met = []
    for _ in kill_at_each_call(lambda: report.finish(experiment)):
        met.append(contents())
        shutil.rmtree(out)
        shutil.copytree(safe, out)
    new = contents()
    assert {"runs/one.dense.trec", "report.json"} <= old.keys()
    assert {"runs/two.dense.trec", "report.json"} <= new.keys()
    whole = [found for found in met if "report.json" in found]
    assert all(found in (old, new) for found in whole)
    assert whole[0] == old and whole[-1] == new
    assert len(whole) < len(met) and len(met) > 20
    json.loads(new["report.json"])
    report, experiment = evaluate(sets[0])  # after any of them, another one
    report.finish(experiment)
    assert contents().keys() == old.keys()


def test_ids_with_white_space_cost_the_run_file_only(tmp_path: Path) -> None:
    texts = {"d 1": "red fox", "d2": "blue whale"}
    folder = make_set(tmp_path / "s", texts=texts, judged={"q1": {"d 1": 1}})
    report = ReportFolder(tmp_path / "out")
    sets = [EvaluationSet(folder, rows=("bm25",))]
    experiment = evaluate_sets(sets, Log().encoders, keep=report.add)
    text = report.finish(experiment).read_text()
    assert "No run of bm25 on s" in text and "'d 1'" in text
    assert not list((tmp_path / "out" / "runs").iterdir())
    assert experiment.sets[0].report.means["bm25"]["R@100"] == 1.0


def test_a_file_in_the_place_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="a folder for the report"):
        ReportFolder(tmp_path / "out")


def test_the_best_row_is_bold_and_a_row_that_a_set_lacks_is_empty(tmp_path: Path) -> None:
    log = Log()
    sets = [
        EvaluationSet(make_set(tmp_path / "one"), rows=("dense", "bm25"), measures=("P@1",)),
        EvaluationSet(
            make_set(tmp_path / "two", judged={"q1": {"d4": 1}}), rows=("bm25",), measures=("P@1",)
        ),
    ]
    experiment = evaluate_sets(sets, log.encoders, engine=log.engine())
    assert table(experiment, "P@1").splitlines()[2:] == [
        "| set | dense | bm25 |",
        "|---|---:|---:|",
        "| one | **100.0** | **100.0** |",
        "| two |  | **0.0** |",
        "| mean |  | **50.0** |",
    ]
