"""What the next step needs, made while this one trains."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(make: Callable[[int], T], numbers: range) -> Generator[T, None, None]:
    """`make` of each number in order, of one of them while that of the one before is used.

    `make` runs in one thread, which ends when the iterator ends or is closed. Its error is raised
    where its value would have come.
    """
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
