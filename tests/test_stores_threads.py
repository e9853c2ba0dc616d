"""Work side by side: in order, each piece in one thread, and nothing left changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import faiss
import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_info

from m3search.stores.threads import in_threads, side_by_side, thread_count, workers


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = thread_count()
    faiss.omp_set_num_threads(3)
    workers.cache_clear()
    found = ThreadpoolController().select(threading_layer="pthreads")
    with found.limit(limits=2):
        yield
    faiss.omp_set_num_threads(before)


def blas_threads() -> set[int]:
    return {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"}


def own_threads() -> set[int]:
    """Of each BLAS that does not take those of OpenMP."""
    found = [each for each in threadpool_info() if each["user_api"] == "blas"]
    return {each["num_threads"] for each in found if each["threading_layer"] == "pthreads"}


@pytest.mark.usefixtures("three_threads")
def test_results_come_in_order_and_each_had_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    together, before = threading.Barrier(3, timeout=30), blas_threads()

    def square(number: int) -> tuple[int, int, set[int]]:
        together.wait()  # three at a time, or this breaks
        return number * number, thread_count(), blas_threads()

    found = list(side_by_side(square, iter(range(9))))
    assert [number for number, _, _ in found] == [number * number for number in range(9)]
    assert {threads for _, threads, _ in found} == {1}
    assert all(threads == {1} for _, _, threads in found)
    assert (thread_count(), blas_threads()) == (3, before)
    assert 2 in before
    workers.cache_clear()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.usefixtures("three_threads")
def test_blas_has_its_threads_again_where_two_overlap(order: tuple[int, int]) -> None:
    both = [side_by_side(abs, [-1, -2]), side_by_side(abs, [-3, -4])]
    assert ([next(each) for each in both], own_threads()) == ([1, 3], {1})
    for place in order:
        assert list(both[place]) == [[2], [4]][place]
    assert own_threads() == {2}


@pytest.mark.usefixtures("three_threads")
def test_loops_in_threads_leave_blas_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    together = threading.Barrier(3, timeout=30)

    def square(number: int) -> tuple[int, set[int]]:
        together.wait()
        return number * number, own_threads()

    found = list(in_threads(square, iter(range(6))))
    assert found == [(number * number, {2}) for number in range(6)]
    workers.cache_clear()


def test_no_more_is_read_than_is_at_work() -> None:
    read = []

    def items() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    found = side_by_side(np.sqrt, items())
    assert next(found) == 0 and len(read) <= thread_count()


def test_an_error_comes_out_and_threads_are_as_before() -> None:
    threads, before = thread_count(), own_threads()
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(lambda number: 1 / number, [1, 0]))
    assert (thread_count(), own_threads()) == (threads, before)
