"""What the benchmarks of search share: systems that answer the same queries in turn, timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

WARM = 10
"""queries that each system answers before the clock runs"""
Q = TypeVar("Q")


def time_answers(
    answers: Mapping[str, Callable[[Q], object]], queries: Sequence[Q]
) -> dict[str, Any]:
    """System -> median and 99th percentile of its milliseconds, and its median to the first one's.

    Every query is put to all systems, one after the other, so that what else the machine does
    meets all of them.
    """
    spent: dict[str, list[float]] = {name: [] for name in answers}
    for answer in answers.values():
        for query in queries[:WARM]:
            answer(query)
    for query in queries:
        for name, answer in answers.items():
            started = time.perf_counter()
            answer(query)
            spent[name].append(1000 * (time.perf_counter() - started))
    base = float(np.median(next(iter(spent.values()))))
    return {
        name: {
            "median_ms": round(float(np.median(times)), 3),
            "p99_ms": round(float(np.percentile(times, 99)), 3),
            "times": round(float(np.median(times)) / base, 2),
        }
        for name, times in spent.items()
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """For people: a line a system, a column for everything that is known of the first."""
    names = list(next(iter(rows.values())))
    width = max(map(len, rows)) + 1
    column = max(14, 2 + max(map(len, names)))
    lines = [" " * width + "".join(f"{name.replace('_', ' '):>{column}}" for name in names)]
    for system, row in rows.items():
        cells = "".join(f"{row.get(name, ''):>{column}}" for name in names)
        lines.append(f"{system:<{width}}{cells}")
    return "\n".join(lines)


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
