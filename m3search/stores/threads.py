"""Threads for compiled loops, which run without the GIL: as many as FAISS takes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import faiss


def thread_count() -> int:
    """Threads that one search may use, as OMP_NUM_THREADS or `faiss.omp_set_num_threads` say."""
    return int(faiss.omp_get_max_threads())


@cache
def workers() -> ThreadPoolExecutor:
    """One thread for each processor, shared by all stores of the process."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="m3search")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=workers.cache_clear)
