"""Threads for what runs without the GIL, as compiled loops do: as many as FAISS takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from typing import TypeVar

import faiss
from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


def thread_count() -> int:
    """Threads that one search may use, as OMP_NUM_THREADS or `faiss.omp_set_num_threads` say."""
    return int(faiss.omp_get_max_threads())


@cache
def workers() -> ThreadPoolExecutor:
    """One thread for each processor, shared by all stores of the process."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="m3search")


def side_by_side(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The function of each item, in their order, of several at a time; each in one thread.

    For products and searches so small that the threads of BLAS or OpenMP would wait for each other
    longer than they work, above all on a machine that has other work.
    """

    def alone(item: T) -> R:
        threads = thread_count()
        faiss.omp_set_num_threads(1)  # of the thread that calls it
        try:
            return function(item)
        finally:
            faiss.omp_set_num_threads(threads)

    threads, left = thread_count(), iter(items)
    with threadpool_limits(1):
        while some := list(islice(left, threads)):
            yield from workers().map(alone, some)


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=workers.cache_clear)
