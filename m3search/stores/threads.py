"""Threads for what runs without the GIL, as compiled loops do: as many as FAISS takes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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


def in_threads(
    function: Callable[[T], R], items: Iterable[T], threads: int | None = None
) -> Iterator[R]:
    """The function of each item, in their order, of several at a time, by default `thread_count`.

    For compiled loops: what starts threads of BLAS or OpenMP belongs in `side_by_side`.
    """
    at_once, left = threads or thread_count(), iter(items)
    while some := list(islice(left, at_once)):
        yield from workers().map(function, some)


def side_by_side(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The function of each item, in their order, of several at a time; each in one thread.

    For products and searches so small that the threads of BLAS or OpenMP would wait for each other
    longer than they work, above all on a machine that has other work. Where two overlap, BLAS has
    its threads again as soon as the first ends.
    """
    threads = thread_count()

    def alone(item: T) -> R:
        before = thread_count()
        faiss.omp_set_num_threads(1)  # of the thread that calls it
        try:
            return function(item)
        finally:
            faiss.omp_set_num_threads(before)

    with _one_blas_thread():
        yield from in_threads(alone, items, threads)


@cache
def _limiting() -> threading.Lock:
    """Held while BLAS is limited."""
    return threading.Lock()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """BLAS at one thread, in the whole process.

    Who comes while another has set it sets nothing: to restore it at the end would keep that one.
    """
    lock = _limiting()
    if not lock.acquire(blocking=False):
        yield
        return
    try:
        with threadpool_limits(1):
            yield
    finally:
        lock.release()


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=workers.cache_clear)
    os.register_at_fork(after_in_child=_limiting.cache_clear)
