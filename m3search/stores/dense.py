"""The dense store: the vectors of a segment as a file that FAISS scans, mapped from disk."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from m3search.fusion import top_k
from m3search.records import BoolArray, FloatArray, Hits, IntArray
from m3search.stores.clusters import SOURCE, Clusters
from m3search.stores.dots import dot_rows
from m3search.stores.files import begin_file, check_readable, damaged, naming
from m3search.stores.floats import FP32, Floats
from m3search.stores.gpu import on_gpu

FILE = SOURCE
SLACK = 32
"""hits fetched beyond k, so that rounding at the cut rarely needs a second scan"""
FEW_ROWS = 1024
"""that are scored one by one rather than by FAISS"""
BLOCK_ROWS = 4096
FETCHED_AT_ONCE = 1 << 22

# FAISS before 1.11 has no mapping for flat indexes and reads them whole
_MAPPED = getattr(faiss, "IO_FLAG_MMAP_IFC", 0)


class FlatWriter:
    """Writes FAISS's file format piece by piece, with no vectors in memory."""

    def __init__(self, folder: Path, dim: int, floats: Floats = FP32) -> None:
        self.path = folder / FILE
        self.floats = floats
        self._dim = dim
        self._rows = 0
        self.longest = 0.0
        """the length of the longest vector, as stored"""
        self._file = begin_file(self.path, floats.header_of(dim, 0))

    def append(self, vectors: npt.ArrayLike) -> None:
        """Adds vectors (n, dim)."""
        array = np.ascontiguousarray(vectors, dtype=self.floats.dtype)
        if array.ndim != 2 or array.shape[1] != self._dim:
            raise ValueError(f"vectors {array.shape}, not (n, {self._dim})")
        with naming(self.path):
            self._file.write(array.tobytes())
        self.longest = max(self.longest, _longest(array))
        self._rows += len(array)

    def finish(self) -> list[Path]:
        """The files, complete."""
        with naming(self.path), self._file:
            self._file.seek(0)
            self._file.write(self.floats.header_of(self._dim, self._rows))
        return [self.path]

    def close(self) -> None:
        """Lets go of a file that will not be finished."""
        with suppress(OSError):  # what is buffered may find no room on the disk
            self._file.close()


class FlatStore:
    """The dense vectors of one segment. Any number of threads may read."""

    def __init__(
        self,
        folder: Path,
        rows: int,
        dim: int,
        clusters: Clusters | None = None,
        longest: float | None = None,
        floats: Floats = FP32,
    ) -> None:
        """With clusters, `retrieve` is approximate where it would read many vectors.

        longest: the length of the longest vector; without it all are read for it, once.
        """
        path = folder / FILE
        self._clusters = clusters
        check_readable(path)
        try:
            index = faiss.read_index(str(path), _MAPPED)
        except RuntimeError as error:
            raise damaged(path, "a FAISS index", str(error).splitlines()[0]) from error
        size = np.dtype(floats.dtype).itemsize * dim
        whole = (index.ntotal, index.d, index.sa_code_size()) == (rows, dim, size)
        if not isinstance(index, getattr(faiss, floats.index)) or not whole:
            found = f"{index.ntotal} of {index.d} in {type(index).__name__}"
            raise damaged(path, f"{rows} vectors of {dim} dimensions in {floats.index}", found)
        self._index = index
        self._vectors = _map(path, floats, rows, dim)
        self._gpu = on_gpu(self._vectors)
        self._longest = longest

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def vectors(self, rows: npt.ArrayLike) -> FloatArray:
        """The stored vectors (n, dim) of the given rows."""
        return np.array(self._vectors[np.asarray(rows)], dtype=np.float32)

    def scores(self, query: FloatArray, rows: IntArray) -> FloatArray:
        """The exact score (n,) of the given rows for one query (dim,)."""
        factors, wanted = np.asarray(query, dtype=np.float64), np.asarray(rows, dtype=np.int64)
        if self._vectors.dtype == np.float32:
            return dot_rows(factors, self._vectors, wanted).astype(np.float32)
        scores = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            vectors = self.vectors(wanted[block])
            scores[block] = dot_rows(factors, vectors, np.arange(len(vectors)))
        return scores

    @property
    def matrix(self) -> npt.NDArray[Any]:
        """All vectors (rows, dim) in the numbers that are stored, mapped."""
        return self._vectors

    def retrieve(
        self,
        queries: FloatArray,
        k: int,
        allowed: BoolArray | None = None,
        *,
        exact: bool = False,
    ) -> Hits:
        """The k best allowed rows of each query (n, dim), in the total order of hits.

        All that are returned have their exact score. Where the segment has clusters, a few of the
        best may be missed, unless `exact`, or so few rows are allowed that all are looked at, or
        a GPU looks at all: it does where it can and all rows are allowed.
        """
        if k < 1:
            return Hits.stack((((), ()) for _ in queries), 0)
        count = len(self) if allowed is None else int(np.count_nonzero(allowed))
        if count <= max(k + SLACK, FEW_ROWS):
            every = np.arange(len(self)) if allowed is None else np.flatnonzero(allowed)
            return Hits.stack((self._rank(query, every, k) for query in queries), k)
        if allowed is None and self._gpu is not None and self._gpu.ready(k + SLACK):
            return self._exact(queries, k, None)
        probes = self._clusters.probes(k, count / len(self)) if self._clusters else None
        if self._clusters is not None and probes is not None and not exact:
            return self._approximate(self._clusters, probes, queries, k, allowed)
        return self._exact(queries, k, allowed)

    def _approximate(
        self,
        clusters: Clusters,
        probes: int,
        queries: FloatArray,
        k: int,
        allowed: BoolArray | None,
    ) -> Hits:
        """What the clusters find; all rows for a query for which they find too little."""
        lines = []
        bits = None if allowed is None else np.packbits(allowed, bitorder="little")
        for query in np.ascontiguousarray(queries, dtype=np.float32):
            found = clusters.find(query, k, probes, bits)
            if len(found) < k:
                hits = self._exact(query[np.newaxis], k, allowed)
                lines.append((hits.rows[0], hits.scores[0]))
            else:
                lines.append(self._rank(query, found, k))
        return Hits.stack(lines, k)

    def _exact(self, queries: FloatArray, k: int, allowed: BoolArray | None) -> Hits:
        options = None if allowed is None and len(queries) > 1 else _options(allowed)
        step = max(1, FETCHED_AT_ONCE // (k + SLACK))
        lines = []
        for start in range(0, len(queries), step):
            block = np.ascontiguousarray(queries[start : start + step], dtype=np.float32)
            near, found = self._nearest(block, k + SLACK, options, allowed is None)
            for query, score, line in zip(block, near, found, strict=True):
                lines.append(self._settle(query, score, line, k, options))
        return Hits.stack(lines, k)

    def _nearest(
        self, queries: FloatArray, count: int, options: Any, every: bool
    ) -> tuple[FloatArray, IntArray]:
        """Scores and rows (n, count) of each query by sums in float32, by the GPU if it can.

        every: whether all rows are allowed; on a GPU FAISS knows no filters.
        """
        if every and self._gpu is not None:
            found = self._gpu.search(queries, count)
            if found is not None:
                return found
        scores, rows = self._index.search(queries, count, params=options)
        return scores, rows

    def _rank(self, query: FloatArray, rows: IntArray, k: int) -> tuple[IntArray, FloatArray]:
        return top_k(rows, self.scores(query, rows), k)

    def _settle(
        self, query: FloatArray, near: FloatArray, found: IntArray, k: int, options: Any
    ) -> tuple[IntArray, FloatArray]:
        """The k best, exactly, from what FAISS found in float32, widened where that is unsure."""
        best = self._rank(query, found[found >= 0], k)
        if len(best[1]) < k:  # only where scores are no numbers
            return best
        margin = self._margin(query)
        kth = float(best[1][-1])
        if kth > float(near[-1]) + margin:
            return best  # nothing that was not fetched can reach the k-th
        radius = kth - 2 * margin
        _, _, wider = self._index.range_search(query[np.newaxis], radius, params=options)
        return self._rank(query, np.asarray(wider, dtype=np.int64), k)

    def _margin(self, query: FloatArray) -> float:
        """How far a float32 sum of dim products can lie from the exact one, either way.

        The bound is dim * u * |q| * |p| with u = 2**-24 (Higham, Accuracy and Stability of
        Numerical Algorithms, section 3.1), doubled for the rounding of the scores themselves.
        It is never 0, as a range search leaves out what lies on its edge.
        """
        if self._longest is None:
            self._longest = _longest(self._vectors)
        norm = float(np.linalg.norm(query.astype(np.float64)))
        return 2 * (len(query) + 2) * 2.0**-24 * norm * self._longest + 1e-30


def _longest(vectors: npt.NDArray[Any]) -> float:
    """The length of the longest of the vectors (n, dim), a block of them at a time."""
    squares = 0.0
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = np.asarray(vectors[start : start + BLOCK_ROWS], dtype=np.float64)
        squares = max(squares, float((block * block).sum(axis=1).max()))
    return float(np.sqrt(squares))


def _map(path: Path, floats: Floats, rows: int, dim: int) -> npt.NDArray[Any]:
    """The vectors (rows, dim) inside the file, mapped."""
    if not rows:
        return np.zeros((0, dim), dtype=floats.dtype)
    return np.asarray(np.memmap(path, floats.dtype, "r", floats.header, (rows, dim)))


def _options(allowed: BoolArray | None) -> Any:
    """Settings of a search in the allowed rows. One that says "all" keeps FAISS from starting
    threads for a single query, which gain it nothing and, beside other work, wait for each other
    ten times as long as the scan takes."""
    wrapped: Any = faiss  # its type stubs know only the C++ signatures
    if allowed is None:
        return wrapped.SearchParameters(sel=wrapped.IDSelectorAll())
    bits = np.packbits(allowed, bitorder="little")
    return wrapped.SearchParameters(sel=wrapped.IDSelectorBitmap(bits))
