"""The time of each stage, for queries that are asked one at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_fakes import FakeIndex, FakeManifest, FakeSearcher, Log, WordEncoder, make_set
from evaluation_results import STAGES, result

from m3search.corpus import read_corpus
from m3search.evaluation import EvaluationSet, Experiment, evaluate_sets
from m3search.evaluation.latency import (
    measure_encoding,
    measure_stages,
    row_milliseconds,
    sample_queries,
    summary,
)
from m3search.evaluation.markdown import markdown
from m3search.evaluation.suite import RowSettings
from m3search.evaluation.tables import latency_table, size_table, to_markdown
from m3search.index import Index
from m3search.records import MODES, ModelIdentity, Query
from m3search.search import Searcher
from m3search.timings import WEIGH, Timings

QUERIES = [Query(f"q{number}", "red fox") for number in range(5)]


def plans(*rows: str, **changes: Any) -> list[Any]:
    return [*EvaluationSet(Path("s"), rows=rows, **changes).plans(10).values()]


def ask_alone(searcher: Any, queries: list[Query], asked: list[Any], **options: Any) -> Any:
    """Both parts of the measurement, as an evaluation that keeps nothing makes them."""
    alone = measure_encoding(searcher, queries)
    names = [query.id for query in queries]
    return measure_stages(searcher, searcher.encode(queries), names, alone, asked, **options)


def test_every_query_is_timed_alone_in_every_stage(tmp_path: Path) -> None:
    documents = read_corpus(make_set(tmp_path / "set") / "corpus.jsonl.gz")
    encoder: Any = WordEncoder(["red", "fox"])
    searcher = Searcher(Index.build(tmp_path / "index", documents, encoder), encoder)
    done: list[int] = []
    found = ask_alone(searcher, QUERIES, plans("dense", "multi", "all"), progress=done.append)
    assert list(found) == [
        "encode queries", "retrieve dense", "retrieve sparse", "retrieve multi",
        "score dense", "score sparse", "score multi",
    ]  # fmt: skip
    for times in found.values():
        assert times["queries"] == 5  # not one batch of them
        assert 0 < times["p50"] <= times["p95"] <= times["p99"]
    assert sum(done) == 5


def test_percentiles_are_those_of_numpy_in_milliseconds() -> None:
    timings, random = Timings(), np.random.default_rng(1)
    seconds = random.exponential(0.01, 50).tolist()
    timings.seconds = {"score multi": seconds, "encode": [0.002, 0.004, 0.009]}
    found = summary(timings)
    assert list(found) == ["encode queries", "score multi"]
    wanted = [1000 * np.percentile(seconds, percentile) for percentile in (50, 95, 99)]
    times = found["score multi"]
    assert [times[name] for name in ("p50", "p95", "p99")] == pytest.approx(wanted, abs=5e-4)
    assert found["encode queries"]["p50"] == 4.0
    assert (times["queries"], found["encode queries"]["queries"]) == (50, 3)


def fake_searcher(log: Log) -> Any:
    return FakeSearcher(FakeIndex([], FakeManifest(0)), log)


def test_what_a_mode_retrieves_for_itself_is_not_scored() -> None:
    searches = []
    for rows, changes in (
        (("dense", "multi", "all"), {}),
        (("multi",), {}),
        (("multi", "dense+multi"), {"candidates": "dense"}),
    ):
        log = Log()
        ask_alone(fake_searcher(log), QUERIES[:1], plans(*rows, **changes))
        assert len(log.searches) % 2 == 0  # the first query is asked twice: once to warm up
        half = log.searches[len(log.searches) // 2 :]
        searches.append([(each["stages"], each["modes"]) for each in half])
    assert searches == [
        [(("dense", "sparse"), MODES), (("multi",), ())],
        [(("multi",), ())],
        [(("dense",), ("dense", "multi"))],
    ]


class RareWordEncoder(WordEncoder):
    """One whose terms are weighed by their rarity."""

    @property
    def identity(self) -> ModelIdentity:
        return replace(super().identity, idf=True)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    place = tmp_path_factory.mktemp("timed")
    documents = read_corpus(make_set(place / "set") / "corpus.jsonl.gz")
    encoder: Any = RareWordEncoder(["red", "fox"])
    return Searcher(Index.build(place / "index", documents, encoder), encoder)


def test_the_terms_of_a_query_are_weighed_once(searcher: Searcher) -> None:
    """Also where it is asked twice, for what re-ranks and for what a mode retrieves alone."""
    by_dense = {"all": RowSettings(candidates="dense")}
    for rows, own in (
        (("multi", "all"), {}),
        (("all",), {}),
        (("sparse",), {}),
        (("sparse", "dense+multi"), {}),
        (("sparse", "all"), by_dense),
    ):
        found = ask_alone(searcher, QUERIES, plans(*rows, row_settings=own))
        assert found[WEIGH]["queries"] == len(QUERIES), rows


def test_rows_of_other_depths_are_timed(searcher: Searcher) -> None:
    for row in ("dense", "multi", "all"):
        own = {row: RowSettings(depth=1000)}
        found = ask_alone(searcher, QUERIES, plans("dense", "multi", "all", row_settings=own))
        assert found["score multi"]["queries"] == found["retrieve multi"]["queries"] == 5


def test_the_sample_is_small_and_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Query(f"q{number}", "x") for number in range(1000)]
    sample = sample_queries(many)
    assert len(set(sample)) == 100 and sample == sample_queries(many) and sample != many[:100]
    assert sorted(sample_queries(QUERIES)) == QUERIES
    monkeypatch.setattr("m3search.evaluation.latency.MOST_SECONDS", 0.0)
    found = ask_alone(fake_searcher(Log()), sample, plans("dense"))
    assert [each["queries"] for each in found.values()] == [1, 1]


def test_a_query_that_was_encoded_is_not_encoded_to_time_its_search() -> None:
    log = Log()
    searcher = fake_searcher(log)
    queries = searcher.encode(QUERIES)
    found = measure_stages(searcher, queries, ["q3", "q1"], [0.25, 0.75], plans("dense"))
    assert log.encoded == [5]
    assert (found["encode queries"]["p50"], found["encode queries"]["queries"]) == (500.0, 2)
    assert found["retrieve dense"]["queries"] == 2


def test_stages_are_in_the_details_where_they_are_asked_for(tmp_path: Path) -> None:
    wanted = EvaluationSet(make_set(tmp_path / "s"), rows=("dense", "bm25"))
    log = Log()
    [timed] = evaluate_sets([wanted], log.encoders, engine=log.engine(), latencies=True).sets
    assert list(timed.details["stages_ms"]) == ["encode queries", "retrieve dense", "bm25"]
    assert {each["queries"] for each in timed.details["stages_ms"].values()} == {2}
    [plain] = evaluate_sets([wanted], log.encoders, engine=log.engine()).sets
    assert list(plain.details["stages_ms"]) == ["bm25"]
    assert plain.report == timed.report


def test_the_time_of_a_row_is_the_sum_of_the_stages_that_it_uses() -> None:
    found = row_milliseconds(result("one"))
    assert found == pytest.approx({"dense": 8.5, "all": 12.9375, "bm25": 0.0313})
    untimed = {name: times for name, times in STAGES.items() if name != "score multi"}
    assert set(row_milliseconds(result("one", stages_ms=untimed))) == {"dense", "bm25"}
    assert row_milliseconds(result("one", stages_ms=None)) == {}
    assert set(row_milliseconds(result("one", ("dense", "other")))) == {"dense"}


def test_the_tables_of_time_and_space() -> None:
    none = result("none", stages_ms=None, bytes=None)
    some = result("some", stages_ms={"bm25": STAGES["bm25"]}, bytes={"dense": 151})
    experiment = Experiment((result("one"), some, none), {})
    [latency], [size] = latency_table(experiment), size_table(experiment)
    assert [line[0] for line in latency.lines] == ["set", "one", "some"]
    assert [line[1] for line in latency.lines] == ["encode queries", "8.0 / 16.0", ""]
    assert "Timed from" not in latency.note
    timed = [result("one", timed={"search": f"2026-0{n}-01", "bm25": "2026-05-01"}) for n in (7, 3)]
    [latency] = latency_table(Experiment(tuple(timed), {}))
    assert latency.note.endswith(" Timed from 2026-03-01 to 2026-07-01.")
    assert size.lines == [["set", "dense", "multi"], ["one", "128", "512"], ["some", "2", ""]]
    assert "\n| one | 128 | 512 |\n" in markdown(size) and markdown(size) in to_markdown(experiment)
    assert latency_table(Experiment((none,), {})) == size_table(Experiment((none,), {})) == []
