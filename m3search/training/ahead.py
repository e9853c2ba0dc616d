"""What the next steps need, made while this one trains."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")


def ahead(make: Callable[[int], T], numbers: range, processes: int = 0) -> Generator[T, None, None]:
    """`make` of each number in order, of one of them while that of the one before is used.

    `make` runs in one thread, or by turns in processes that are copies of this one, each of which
    works on two numbers in advance and keeps what it changes to itself. They end when the iterator
    ends or is closed. An error of `make` is raised where its value would have come.
    """
    if processes and numbers:
        yield from DataLoader(
            _Made(make),
            sampler=numbers,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=processes,
            worker_init_fn=_begin,
            multiprocessing_context="fork",
        )
        return
    pool = ThreadPoolExecutor(1)
    try:
        waiting = [pool.submit(make, number) for number in numbers[:1]]
        for number in numbers[1:]:
            waiting.append(pool.submit(make, number))
            yield waiting.pop(0).result()
        for last in waiting:
            yield last.result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Made(Dataset[T], Generic[T]):
    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> T:
        return self._make(number)


def _as_it_is(made: T) -> T:
    return made


def _begin(_: int) -> None:
    # the threads of a tokenizer are not copied with the process, and it would wait for them
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
