"""Approximate search for dense vectors: a FAISS inverted file beside the exact ones of a segment.

Vectors are grouped around centroids; a query looks into the groups nearest to it, compares its
vector with codes of 8 bits a dimension, and what it finds is scored again exactly. How many groups
it looks into is measured when the file is written, and stands in the manifest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np
import numpy.typing as npt

from m3search.records import FloatArray, IntArray
from m3search.stores.files import check_readable, damaged, forget, naming

FILE, SOURCE = "dense.ivf.faiss", "dense.faiss"
"""the inverted file, and the one with the exact vectors that it is made of"""
LEAST_ROWS = 50_000
"""a segment of fewer rows is searched as fast by reading them all"""
TRAINED_ON = 40
"""vectors for each centroid, where memory suffices"""
SAMPLE_BYTES = 1 << 28
ROUNDS = 10
ROWS_AT_ONCE = 1 << 15
MEASURED_QUERIES = 200
MIXED = 3
MEASURED_AT = 100
WANTED = 0.99
"""share of the 100 best that the measured queries must find"""
FETCHED = 2
"""times as many as are asked for are scored exactly, as the codes put some in another order"""
MOST_PROBED = 0.25
"""of the groups; beyond that a scan is as fast, and misses nothing"""
SEED = 1


def write_clusters(folder: Path, vectors: FloatArray) -> tuple[Path, Mapping[str, Any]]:
    """Writes the inverted file of vectors (n, dim); the file, and what it was measured to find."""
    path = folder / FILE
    blocks = _Blocks(vectors)
    index = _fill(blocks)
    details = _measure(index, blocks)
    with naming(path), path.open("wb") as file:
        _write(index, file)
    return path, details


def _write(index: Any, file: BinaryIO) -> None:
    """Writes an index of FAISS to an open file, whose errors are told to the last byte: FAISS's own
    files say nothing of what they could not write at their end."""
    failures: list[OSError] = []

    def write(block: bytes) -> None:
        try:
            file.write(block)
        except OSError as error:
            failures.append(error)
            raise

    wrapped: Any = faiss
    try:
        wrapped.write_index(index, wrapped.PyCallbackIOWriter(write))
    except RuntimeError:
        if failures:
            raise failures[0] from None
        raise


class _Blocks:
    """Vectors in a mapped file, a block of them in memory at a time."""

    def __init__(self, vectors: FloatArray) -> None:
        self.shape = vectors.shape
        self._vectors = vectors

    def take(self, rows: IntArray) -> FloatArray:
        """The vectors of the rows."""
        taken = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            chosen = slice(start, start + ROWS_AT_ONCE)
            taken[chosen] = self._vectors[rows[chosen]]
            forget(self._vectors)
        return taken

    def __iter__(self) -> Iterator[tuple[int, FloatArray]]:
        for start in range(0, self.shape[0], ROWS_AT_ONCE):
            yield start, np.array(self._vectors[start : start + ROWS_AT_ONCE], dtype=np.float32)
            forget(self._vectors)


def _fill(vectors: _Blocks) -> Any:
    """The inverted file in memory: codes of one byte a dimension."""
    count, dim = vectors.shape
    lists = 1 << max(4, round(np.log2(4 * count**0.5)))
    wrapped: Any = faiss  # its type stubs know only the C++ signatures
    coarse = wrapped.IndexFlatIP(dim)
    kinds = wrapped.ScalarQuantizer
    index = wrapped.IndexIVFScalarQuantizer(
        coarse, dim, lists, kinds.QT_8bit, wrapped.METRIC_INNER_PRODUCT
    )
    index.by_residual = False
    index.cp.spherical = True
    index.cp.niter = ROUNDS
    index.cp.seed = SEED
    most = min(TRAINED_ON * lists, SAMPLE_BYTES // (4 * dim))
    sample = np.random.default_rng(SEED).permutation(count)[:most]
    index.train(vectors.take(np.sort(sample)))
    for _, block in vectors:
        index.add(block)
    return index


def _measure(index: Any, vectors: _Blocks) -> dict[str, Any]:
    """The fewest groups, doubled from 1, in which the sample finds its neighbours.

    The queries are the sums of MIXED documents each. As questions do, they lie between documents;
    of one or two they would find more of their neighbours than questions do of theirs.
    """
    rng = np.random.default_rng(SEED)
    mixed = rng.integers(vectors.shape[0], size=(MIXED, MEASURED_QUERIES))
    queries = sum(vectors.take(rows) for rows in mixed)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    exact = _exact_best(queries, vectors)
    probes, recall = 1, 0.0
    while True:
        index.nprobe = probes
        _, found = index.search(queries, FETCHED * MEASURED_AT)
        hits = [len(set(a) & set(b)) for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
        recall = sum(hits) / exact.size
        if recall >= WANTED or probes >= index.nlist:
            break
        probes = min(2 * probes, index.nlist)
    return {
        "lists": int(index.nlist),
        "probes": int(probes),
        "recall": round(float(recall), 4),
        "recall_at": MEASURED_AT,
        "queries": MEASURED_QUERIES,
    }


def _exact_best(queries: FloatArray, vectors: _Blocks) -> IntArray:
    """(queries, 100) the rows of the highest products, a block of rows at a time."""
    best = np.zeros((len(queries), 0), dtype=np.int64)
    scores = np.zeros((len(queries), 0), dtype=np.float32)
    for start, block in vectors:
        products = queries @ block.T
        rows = np.broadcast_to(np.arange(start, start + len(block)), products.shape)
        best, scores = np.hstack([best, rows]), np.hstack([scores, products])
        kept = np.argpartition(-scores, min(MEASURED_AT, scores.shape[1]) - 1, axis=1)
        kept = kept[:, :MEASURED_AT]
        best, scores = np.take_along_axis(best, kept, 1), np.take_along_axis(scores, kept, 1)
    return best


class Clusters:
    """The inverted file of one segment. Any number of threads may read."""

    def __init__(self, folder: Path, rows: int, dim: int, details: Mapping[str, Any]) -> None:
        path = folder / FILE
        check_readable(path)
        try:
            index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        except (RuntimeError, MemoryError) as error:
            raise damaged(path, "a FAISS index", str(error).splitlines()[0]) from error
        if (index.ntotal, index.d) != (rows, dim):
            raise damaged(path, f"{rows} vectors of {dim}", f"{index.ntotal} of {index.d}")
        wrapped: Any = faiss
        lists = wrapped.downcast_InvertedLists(index.invlists)
        if isinstance(lists, wrapped.OnDiskInvertedLists):
            lists.prefetch_nthread = 0  # 32 threads for each search take longer than the search
        self._path = path
        self._index = index
        self._lists = max(1, int(index.nlist))
        self._probes = int(details["probes"])

    def probes(self, k: int, share: float) -> int | None:
        """The groups to look into for k rows where that share of all is allowed.

        As many times those of the measurement as k is times its 100, and as allowed rows are rare;
        None where that is so much that all rows are read as fast.
        """
        probes = math.ceil(self._probes * max(1.0, k / MEASURED_AT) / share)
        return probes if probes <= MOST_PROBED * self._lists else None

    def find(
        self, query: FloatArray, k: int, probes: int, allowed: npt.NDArray[np.uint8] | None = None
    ) -> IntArray:
        """Rows that are likely the k best of a query (dim,), about FETCHED times as many, by the
        groups of so many centroids.

        allowed: (rows / 8,) a bit for each row, the lowest of a byte first; None for all.
        """
        wrapped: Any = faiss
        settings: dict[str, Any] = {"nprobe": probes}
        if allowed is not None:
            settings["sel"] = wrapped.IDSelectorBitmap(allowed)
        options = wrapped.SearchParametersIVF(**settings)
        _, found = self._index.search(query[np.newaxis], FETCHED * k, params=options)
        rows: IntArray = np.unique(np.asarray(found[found >= 0], dtype=np.int64))
        if len(rows) and rows[-1] >= self._index.ntotal:
            wanted = f"rows from 0 to {self._index.ntotal - 1}"
            raise damaged(self._path, wanted, str(rows[-1]))
        return rows
