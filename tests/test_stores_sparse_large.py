"""Segments of so many rows that the k-th highest score is guessed before they are gone through."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from scipy import sparse as sp
from test_stores_sparse import write

from m3search.stores.max_score import SAMPLE, SAMPLE_SHARE, SAMPLES, add_passive, guess_kth
from m3search.stores.postings import Lists
from m3search.stores.selection import reaching
from m3search.stores.threads import thread_count, workers

ROWS = SAMPLES * SAMPLE_SHARE * SAMPLE + 1000
TERMS = 24
QUERY = np.geomspace(2, 0.1, TERMS)
APART = ROWS // SAMPLES
SAMPLED = (np.arange(ROWS) % APART < SAMPLE) & (np.arange(ROWS) < SAMPLES * APART)


def draw(random: np.random.Generator, strength: Any = 1.0) -> sp.csr_array:
    """Rows of about six terms; the common ones weigh little in `QUERY`."""
    frequencies = np.geomspace(0.02, 0.7, TERMS)
    columns = []
    for share in frequencies:
        held = random.random(ROWS) < share
        columns.append(np.where(held, random.gamma(2, 0.3, ROWS) * strength, 0))
    return sp.csr_array(np.stack(columns, axis=1).astype(np.float32))


def expected(vectors: sp.csr_array, k: int, allowed: np.ndarray | None = None) -> list[int]:
    scores = np.zeros(ROWS)
    for term, weight in enumerate(QUERY.astype(np.float32)):
        scores += float(weight) * vectors[:, [term]].toarray()[:, 0].astype(np.float64)
    single = scores.astype(np.float32)
    if allowed is not None:
        single[~allowed] = 0
    best = np.lexsort((np.arange(ROWS), -single))[:k]
    return best[single[best] > 0].tolist()


def found(folder: Path, vectors: sp.csr_array, k: int, allowed: Any = None) -> list[int]:
    query = sp.csr_array(QUERY[np.newaxis].astype(np.float32))
    rows = write(folder, vectors).retrieve(query, k, allowed).rows[0]
    return rows[rows >= 0].tolist()


def guess(folder: Path, vectors: sp.csr_array, k: int, allowed: Any = None) -> float:
    store = write(folder, vectors)
    ((terms, weights),) = store._terms(sp.csr_array(QUERY[np.newaxis].astype(np.float32)))
    mask = np.zeros(0, dtype=bool) if allowed is None else allowed
    return float(guess_kth(k, ROWS, mask, store._lists(terms, weights)))


@pytest.mark.parametrize("k", [1, 10, 1000, 20_000])
def test_the_best_are_those_of_all_scores(tmp_path: Path, k: int) -> None:
    random = np.random.default_rng(k)
    vectors = draw(random)
    assert found(tmp_path / "all", vectors, k) == expected(vectors, k)
    allowed = random.random(ROWS) < 0.3
    assert found(tmp_path / "some", vectors, k, allowed) == expected(vectors, k, allowed)
    few = np.zeros(ROWS, dtype=bool)
    few[random.integers(0, ROWS, 50)] = True
    assert found(tmp_path / "few", vectors, k, few) == expected(vectors, k, few)


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = thread_count()
    faiss.omp_set_num_threads(3)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    workers.cache_clear()
    yield
    faiss.omp_set_num_threads(before)
    workers.cache_clear()


@pytest.mark.usefixtures("three_threads")
def test_queries_that_are_answered_side_by_side_are_answered_as_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(3)
    vectors = draw(random)
    store = write(tmp_path, vectors)
    queries = sp.csr_array(random.random((6, TERMS)).astype(np.float32) * (QUERY > 0.3))
    allowed = random.random(ROWS) < 0.5
    best, together = store._best, threading.Barrier(3, timeout=30)

    def three_at_once(*given: Any) -> Any:
        together.wait()
        return best(*given)

    for mask in (None, allowed):
        with monkeypatch.context() as patch:
            patch.setattr(store, "_best", three_at_once)
            found = store.retrieve(queries, 100, mask)
        for line in range(6):
            alone = store.retrieve(queries[[line]], 100, mask)
            np.testing.assert_array_equal(found.rows[line], alone.rows[0])
            np.testing.assert_array_equal(found.scores[line], alone.scores[0])


@pytest.mark.usefixtures("three_threads")
def test_with_one_thread_queries_are_answered_where_they_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faiss.omp_set_num_threads(1)
    store = write(tmp_path, draw(np.random.default_rng(3)))
    threads, best = set[int](), store._best
    monkeypatch.setattr(
        store, "_best", lambda *given: threads.add(threading.get_ident()) or best(*given)
    )
    queries = sp.csr_array(np.stack([QUERY, QUERY]).astype(np.float32))
    hits = store.retrieve(queries, 5)
    assert hits.rows[0].tolist() == hits.rows[1].tolist()
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("order", [np.sort, lambda scores: -np.sort(-scores)])
def test_rows_in_the_order_of_their_scores(
    tmp_path: Path, order: Callable[[np.ndarray], np.ndarray]
) -> None:
    random = np.random.default_rng(7)
    vectors = draw(random, order(random.gamma(1, 1, ROWS)))
    assert found(tmp_path, vectors, 500) == expected(vectors, 500)


def test_a_guess_is_near_and_below_what_it_stands_for(tmp_path: Path) -> None:
    vectors = draw(np.random.default_rng(8))
    scores = np.sort(vectors.toarray().astype(np.float64) @ QUERY)[::-1]
    for k in (100, 1000):
        assert scores[2 * k] < guess(tmp_path / str(k), vectors, k) < scores[k - 1]
    allowed = np.random.default_rng(3).random(ROWS) < 0.2
    some = np.sort(vectors.toarray().astype(np.float64)[allowed] @ QUERY)[::-1]
    assert some[2000] < guess(tmp_path / "some", vectors, 1000, allowed) < some[999]


def test_a_guess_that_is_too_high_costs_no_row(tmp_path: Path) -> None:
    """The sample is of better rows than the rest, and has fewer of them than are asked for."""
    k = 1000
    best = np.zeros(ROWS, dtype=bool)
    best[np.random.default_rng(1).choice(np.flatnonzero(SAMPLED), k // 2, replace=False)] = True
    vectors = draw(np.random.default_rng(9), np.where(best, 10, 1))
    scores = np.sort(vectors.toarray().astype(np.float64) @ QUERY)[::-1]
    assert guess(tmp_path / "guess", vectors, k) > scores[k - 1]
    assert found(tmp_path / "found", vectors, k) == expected(vectors, k)


def test_a_guess_loses_no_row_that_is_equal_in_float32(tmp_path: Path) -> None:
    """The k-th is one of two rows that differ in float64 alone, and both lie below the guess by
    less than float32 can tell; the one of the lower number is the lower one."""
    k, rest = 1000, np.flatnonzero(~SAMPLED)
    first, second = np.zeros(ROWS, np.float32), np.zeros(ROWS, np.float32)
    sampled = np.flatnonzero(SAMPLED)[:320]
    first[sampled], first[rest[100 : 100 + k - 321]] = 1, 2
    pair = [rest[50], rest[2000]]
    first[pair] = 1 - 2.0**-22 - 2.0**-24
    second[pair] = 2.0**-24 - 2.0**-40, 2.0**-24 + 2.0**-40
    store = write(tmp_path, sp.csr_array(np.stack([first, second], axis=1)))
    query = sp.csr_array(np.ones((1, 2), np.float32))
    scores = store.scores(query, np.arange(ROWS))
    assert scores[pair[0]] == scores[pair[1]]
    best = np.lexsort((np.arange(ROWS), -scores))[:k]
    assert pair[0] in best and pair[1] not in best
    assert store.retrieve(query, k).rows[0].tolist() == best.tolist()


@pytest.mark.parametrize(("hopeful", "looked_up"), [(1, True), (4096, False)])
def test_passive_terms_are_looked_up_only_for_few_rows(hopeful: int, looked_up: bool) -> None:
    rows = np.arange(4096, dtype=np.int32)
    lists = Lists(
        np.zeros(2, np.int64), np.array([0, 4096]), np.ones(2), np.array([10.0, 1.0]), rows,
        np.ones(4096, np.float32), np.zeros(0, np.float32),
    )  # fmt: skip
    sums = np.where(rows < hopeful, 10.0, 0.0)
    reach, places, near = (
        np.array([11.0, 1.0, 0.0]),
        np.zeros(2, np.int64),
        np.empty(4096, np.int64),
    )
    found = add_passive(sums, 0, 1, reach, 10.5, places, 4096, near, lists)
    assert found == (hopeful, 1 if looked_up else 2)
    assert near[:hopeful].tolist() == list(range(hopeful))
    assert sums[0] == 11 and sums[-1] == (0 if looked_up else 11)


def test_sums_at_the_bound_reach_it() -> None:
    for length in (3, 64, 130):
        sums, found = np.full(length, 0.5), np.empty(length, np.int64)
        sums[-1], sums[0] = np.nextafter(0.5, 0), np.nan
        assert reaching(sums, 0.5, found) == length - 2
        assert found[: length - 2].tolist() == list(range(1, length - 1))
        sums[:] = 0
        assert reaching(sums, -1.0, found) == 0


def test_fewer_rows_have_a_term_than_are_asked_for(tmp_path: Path) -> None:
    vectors = sp.csr_array((ROWS, TERMS), dtype=np.float32).tolil()
    places = [5, SAMPLE - 1, SAMPLE, ROWS // 2, ROWS - 1]
    for number, row in enumerate(places):
        vectors[row, number] = 1.0
    held = sp.csr_array(vectors)
    assert found(tmp_path, held, 10) == expected(held, 10) == places
