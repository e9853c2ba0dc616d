"""What a set's queries found, kept for the next evaluation: when it counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluation_fakes import QUERIES, Log, forget_searches, make_set

from m3search.errors import ArtifactError
from m3search.evaluation import EvaluationSet, ReportFolder, SetResult, evaluate_sets, keys
from m3search.evaluation.bm25 import Language
from m3search.evaluation.cache import Cache
from m3search.evaluation.checked import read_checked, write_checked
from m3search.evaluation.keys import bm25_key, queries_key, search_key
from m3search.evaluation.latency import when_timed
from m3search.evaluation.results import describe_reuse
from m3search.evaluation.tables import to_markdown
from m3search.records import Query

ROWS = ("dense", "all", "bm25")


@pytest.fixture
def wanted(tmp_path: Path) -> EvaluationSet:
    return EvaluationSet(make_set(tmp_path / "s"), rows=ROWS, language="en")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def evaluate(
    wanted: EvaluationSet, cache: Cache | None, *, latencies: bool = True, **options: Any
) -> tuple[SetResult, Log]:
    """The result of a set, and what was asked of the engine for it."""
    log = Log()
    [result] = evaluate_sets(
        [wanted], log.encoders, cache=cache, engine=log.engine(), latencies=latencies, **options
    ).sets
    return result, log


def test_a_second_evaluation_opens_no_index_and_tells_when_it_was_searched(
    wanted: EvaluationSet, cache: Cache
) -> None:
    first, log = evaluate(wanted, cache)
    assert log.built and log.searches
    second, log = evaluate(wanted, cache)
    assert (log.built, log.opened, log.encoded, log.searches) == ([], [], [], [])
    assert second.report == first.report and second.differences == first.differences
    reused = {"index_reused", "queries_reused", "search_reused", "bm25_reused"}
    assert {name: first.details[name] for name in reused} == dict.fromkeys(reused, False)
    assert {name: second.details[name] for name in reused} == {
        "index_reused": None, "queries_reused": None, "search_reused": True, "bm25_reused": True,
    }  # fmt: skip
    rest = [name for name in first.details if name not in reused]
    assert {"seconds", "stages_ms", "timed", "bytes", "truncated", "bm25"} <= {*rest}
    assert [second.details[name] for name in rest] == [first.details[name] for name in rest]
    assert [*second.details] == [*first.details]
    assert [*second.details["timed"]] == ["search", "bm25"]


def test_a_report_has_the_same_files_with_and_without_a_cache(
    wanted: EvaluationSet, cache: Cache, tmp_path: Path
) -> None:
    contents = []
    for number, used in enumerate((None, cache, cache)):
        folder = ReportFolder(tmp_path / f"report{number}")
        log = Log()
        experiment = evaluate_sets(
            [wanted], log.encoders, cache=used, engine=log.engine(), keep=folder.add
        )
        written = folder.finish(experiment).parent
        files = [path for path in sorted(written.rglob("*")) if path.parent != written]
        found = {path.relative_to(written): path.read_bytes() for path in files if path.is_file()}
        report = json.loads((written / "report.json").read_text())["sets"]["s"]
        contents.append((found, report["rows"], report["differences"]))
    assert len(contents[0][0]) == 5  # three runs, the scores, the values per query
    assert contents[0] == contents[1] == contents[2]


def test_weights_and_measures_need_no_search_and_other_searches_do(
    wanted: EvaluationSet, cache: Cache
) -> None:
    evaluate(wanted, cache)
    for changes in (
        {"weights": (1.0, 0.0, 0.5)}, {"measures": ("RR@10",)}, {"missing": "zero"},
        {"name": "other"}, {"group": "g"}, {"rows": ("all", "dense")}, {"split": "dev"},
    ):  # fmt: skip
        if "split" in changes:
            qrels = wanted.path / "qrels"
            shutil.copy(qrels / "test.tsv", qrels / "dev.tsv")
        changed = replace(wanted, **changes)
        found, log = evaluate(changed, cache)
        assert not log.searches and found.details["search_reused"], changes
        assert found.report == evaluate(changed, None)[0].report
    for changes in (
        {"rows": ("dense",)}, {"depth": 300}, {"measures": ("R@1000",)}, {"candidates": "dense"},
        {"rows": ("sparse", "all")},
    ):  # fmt: skip
        changed = replace(wanted, **changes)
        for reused in (False, True):
            found, log = evaluate(changed, cache)
            assert bool(log.searches) is not reused, changes
            assert found.details["search_reused"] is reused and not log.encoded
            assert found.report == evaluate(changed, None)[0].report
    (wanted.path / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": name, "text": "panda"}) for name in QUERIES)
    )
    found, log = evaluate(wanted, cache)
    assert log.searches and log.encoded and found.report == evaluate(wanted, None)[0].report
    assert not found.details["bm25_reused"]


def test_times_that_are_asked_for_later_are_measured(wanted: EvaluationSet, cache: Cache) -> None:
    first, _ = evaluate(wanted, cache, latencies=False)
    assert [*first.details["stages_ms"]] == ["bm25"]
    timed, log = evaluate(wanted, cache)
    assert log.searches and "score multi" in timed.details["stages_ms"]
    untimed, log = evaluate(wanted, cache, latencies=False)
    assert not log.searches and untimed.details["search_reused"]


def test_only_the_bm25_of_the_same_words_and_queries_is_used_again(
    wanted: EvaluationSet, cache: Cache
) -> None:
    only = replace(wanted, rows=("bm25",))
    first, _ = evaluate(only, cache)
    for changes, reused in (
        ({}, True), ({"language": "de"}, False), ({"language": None}, False),
        ({"measures": ("R@1000",)}, False), ({"measures": ("P@1",)}, True), ({"depth": 3}, True),
    ):  # fmt: skip
        changed = replace(only, **changes)
        found, _ = evaluate(changed, cache)
        assert found.details["bm25_reused"] is reused, changes
        assert found.report == evaluate(changed, None)[0].report
    again, _ = evaluate(only, cache)
    for name in ("bm25", "seconds", "stages_ms", "timed"):
        assert again.details[name] == first.details[name]


def test_a_run_of_bm25_costs_no_large_index_its_place(wanted: EvaluationSet, cache: Cache) -> None:
    least = replace(cache, limit=1)
    evaluate(wanted, least)
    second, log = evaluate(wanted, least)
    assert second.details["search_reused"] and not log.built


def test_all_that_decides_a_search_is_in_its_key(tmp_path: Path) -> None:
    queries, model = [Query("q", "fox")], {"name": "a", "fingerprint": "f"}

    def plans(*rows: str, **changes: Any) -> Any:
        return EvaluationSet(tmp_path, rows=rows, **changes).plans(100).values()

    def found() -> Iterator[str]:
        yield search_key("1", model, queries, plans("all"))
        yield search_key("2", model, queries, plans("all"))
        yield search_key("1", model | {"name": "b"}, queries, plans("all"))
        yield search_key("1", model, [Query("q", "dog")], plans("all"))
        yield search_key("1", model, [Query("p", "fox")], plans("all"))
        yield search_key("1", model, queries, plans("all", depth=201))
        yield search_key("1", model, queries, plans("all", candidates="dense"))
        yield search_key("1", model, queries, plans("all", "dense"))
        yield search_key("1", model, queries, plans("dense+multi"))

    first = [*found()]
    assert len({*first}) == len(first) == 9
    weighed = plans("all", weights=(1.0, 2.0, 3.0), missing="zero")
    assert search_key("1", model, queries, weighed) == first[0]
    assert queries_key(queries, 10) != queries_key(queries, 11)


@pytest.mark.parametrize(
    ("sources", "name"),
    [
        (keys.SEARCH_SOURCES, "candidates.py"), (keys.SEARCH_SOURCES, "evaluation/components.py"),
        (keys.BM25_SOURCES, "evaluation/words.py"), (keys.BM25_SOURCES, "corpus/documents.py"),
    ],
)  # fmt: skip
def test_another_code_searches_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: tuple[str, ...], name: str
) -> None:
    corpus = make_set(tmp_path / "s") / "corpus.jsonl.gz"

    def key() -> str:
        keys.code_key.cache_clear()
        if sources is keys.SEARCH_SOURCES:
            return search_key("1", {}, [], [])
        return bm25_key(corpus, "bm25s", Language("en", "given"), 1.2, 0.75)

    before = key()
    package = Path(keys.__file__).parents[1]
    assert all((package / source).exists() for source in sources)
    copy = shutil.copytree(package, tmp_path / "m3search", ignore=shutil.ignore_patterns("models"))
    monkeypatch.setattr(keys, "__file__", str(copy / "evaluation" / "keys.py"))
    assert key() == before
    with (copy / name).open("a") as file:
        file.write("# another code\n")
    assert key() != before
    monkeypatch.undo()
    keys.code_key.cache_clear()


def test_of_a_checked_file_every_byte_counts(tmp_path: Path) -> None:
    path, note, content = tmp_path / "folder" / "file", {"seconds": 1.5, "é": [1]}, b"a\nb\0"
    told: list[str] = []
    assert read_checked(path, told.append) is None  # no damage
    write_checked(path, note, content)
    assert read_checked(path, told.append) == (note, content) and not told
    whole = path.read_bytes()
    spoiled = [
        whole[:place] + rest
        for place in range(len(whole))
        for rest in (b"", bytes([whole[place] ^ 1]) + whole[place + 1 :])
    ]
    for found in [*spoiled, whole + b"x"]:
        path.write_bytes(found)
        assert read_checked(path, told.append) is None
        assert told.pop() == f"damaged in the cache, so it is made again: {path}: " + (
            "its checksum differs"
        )
    assert not told


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(ArtifactError, match=r"Is a directory.*--no-cache"):
        read_checked(tmp_path, told.append)
    assert not told


@pytest.mark.parametrize("kept", [True, False])
def test_what_sets_of_one_evaluation_share_is_not_called_reused(
    wanted: EvaluationSet, cache: Cache, kept: bool
) -> None:
    again = replace(wanted, name="again", measures=("RR@10",))
    held = cache if kept else None
    for number in range(2):
        log = Log()
        found = evaluate_sets(
            [wanted, again], log.encoders, cache=held, engine=log.engine(), latencies=True
        ).sets
        known = bool(number) and kept
        assert describe_reuse(found) == ("searches of 2, BM25 of 2 (of 2 sets)" if known else "")


def test_a_report_says_what_was_not_made_anew(wanted: EvaluationSet, cache: Cache) -> None:
    first, _ = evaluate(wanted, cache)
    second, _ = evaluate(wanted, cache)
    forget_searches(cache.folder)
    third, _ = evaluate(wanted, cache)
    bm25 = replace(second, details={"bm25_reused": True})
    assert describe_reuse([first]) == ""
    assert describe_reuse([first, second]) == "searches of 1, BM25 of 1 (of 2 sets)"
    assert describe_reuse([first, second, third, bm25]) == (
        "searches of 1, indexes of 1, encoded queries of 1, BM25 of 3 (of 4 sets)"
    )
    assert when_timed([first]).endswith(f" to {max(first.details['timed'].values())}.")
    assert when_timed([first, second]).endswith(
        ". Not made anew: " + describe_reuse([first, second]) + "."
    )


def test_shortcuts_are_left_aside_where_that_is_asked(tmp_path: Path) -> None:
    """What was found with them is neither taken for it nor weighed."""
    log, cache = Log(), Cache(tmp_path / "cache")
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense", "all"))
    report = ReportFolder(tmp_path / "out")
    evaluate_sets([wanted], log.encoders, cache=cache, engine=log.engine(), keep=report.add)
    report.finish(evaluate_sets([wanted], log.encoders, cache=cache, engine=log.engine()))
    exact = replace(wanted, exact=True)
    with pytest.raises(ArtifactError, match="scores with exact = True, found with False"):
        evaluate_sets([exact], log.encoders, scores=tmp_path / "out" / "scores")
    searches = len(log.searches)
    kept: list[Any] = []
    keep = lambda *given: kept.append(given)  # noqa: E731
    found = evaluate_sets([exact], log.encoders, cache=cache, engine=log.engine(), keep=keep)
    assert log.exact[:searches] == [False] * searches and all(log.exact[searches:])
    assert len(log.searches) > searches and found.sets[0].details["settings"]["exact"]
    assert kept[0][3].origin.exact
    assert "Of s: every document looked at." in to_markdown(found)
