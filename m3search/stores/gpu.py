"""Dense vectors of large segments on a GPU, where FAISS has one (the extra `m3search[gpu]`).

A GPU compares a query with all vectors sooner than a CPU does with few. What it finds is scored
again exactly by the store, so that the answers are those of the CPU.
"""

from __future__ import annotations

import threading
import warnings
from functools import cache
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from m3search.records import FloatArray, IntArray

LEAST_ROWS = 50_000
"""a segment of fewer rows is searched on the CPU"""
MOST_FOUND = 2048
"""rows that FAISS finds for a query on a GPU, at most"""
ROWS_AT_ONCE = 1 << 16

_wrapped: Any = faiss  # its type stubs know only the C++ signatures, and not those of a GPU
_using = threading.Lock()
"""FAISS allows one thread at a time on the memory that all copies share"""


def on_gpu(vectors: npt.NDArray[Any]) -> GpuCopy | None:
    """A copy of the vectors (n, dim) for the GPU; None where there is none, or they are few."""
    return GpuCopy(vectors) if len(vectors) >= LEAST_ROWS and has_gpu() else None


def has_gpu() -> bool:
    """Whether FAISS is of a build for GPUs, and there is one."""
    return hasattr(faiss, "GpuIndexFlatIP") and faiss.get_num_gpus() > 0


class GpuCopy:
    """Vectors in float32 on the first GPU, from the first search until nothing refers to them.

    Any number of threads may search; one at a time does.
    """

    def __init__(self, vectors: npt.NDArray[Any]) -> None:
        self._vectors = vectors
        self._index: Any = None
        self._failed = False

    def ready(self, count: int) -> bool:
        """Whether it can find so many rows: the vectors are there now, or were no room for them."""
        with _using:
            return self._ready(count)

    def search(self, queries: FloatArray, count: int) -> tuple[FloatArray, IntArray] | None:
        """Scores, falling, and rows (n, count) of each query (n, dim), as FAISS finds them.

        In float32, and -1 for a row that is not there. None where the GPU cannot do it.
        """
        with _using:
            if not self._ready(count):
                return None
            try:
                scores, rows = self._index.search(queries, count)
            except RuntimeError as error:
                self._give_up(error)
                return None
        return scores, rows

    def _ready(self, count: int) -> bool:
        if self._failed or count > MOST_FOUND:
            return False
        if self._index is None:
            try:
                self._index = _fill(self._vectors)
            except RuntimeError as error:
                self._give_up(error)
        return not self._failed

    def _give_up(self, error: RuntimeError) -> None:
        """Frees the memory; from here on the segment is searched on the CPU."""
        self._index, self._failed = None, True
        warnings.warn(
            f"{len(self._vectors):,} dense vectors are searched on the CPU: the GPU failed, "
            f"{str(error).splitlines()[0]}",
            RuntimeWarning,
            stacklevel=2,
        )


@cache
def _resources() -> Any:
    """What all copies of the process share: streams, and memory for what is computed."""
    return _wrapped.StandardGpuResources()


def _fill(vectors: npt.NDArray[Any]) -> Any:
    """FAISS's flat index of the vectors on the first GPU."""
    index = _wrapped.GpuIndexFlatIP(_resources(), vectors.shape[1])
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        block = vectors[start : start + ROWS_AT_ONCE]
        index.add(np.ascontiguousarray(block, dtype=np.float32))
    return index
