"""The sparse store: posting lists of one segment as memory-mapped compressed columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse as sp

from m3search.fusion import top_k
from m3search.records import BoolArray, FloatArray, Hits, IntArray
from m3search.stores import postings
from m3search.stores.files import ArrayWriter, damaged, forget, map_array
from m3search.stores.impacts import FP32, Impacts
from m3search.stores.postings import Lists

INDPTR, ROWS, WEIGHTS = "sparse.indptr.npy", "sparse.rows.npy", "sparse.weights.npy"
LENGTHS, PEAKS = "sparse.lengths.npy", "sparse.peaks.npy"
FILES = (INDPTR, ROWS, WEIGHTS, LENGTHS, PEAKS)
POSTINGS_AT_ONCE = 1 << 22
WINDOWS = (1 << 11, 1 << 15)
"""rows of the first and of the largest window: float64 sums of 256 kB stay in a core's own cache"""
NO_MASK: BoolArray = np.zeros(0, dtype=bool)


class CscWriter:
    """Gathers the sparse vectors of one segment and writes them transposed."""

    def __init__(self, folder: Path, vocabulary: int, impacts: Impacts = FP32) -> None:
        self._folder = folder
        self._impacts = impacts
        self._parts = [sp.csr_array((0, vocabulary), dtype=np.float32)]

    def append(self, vectors: sp.csr_array) -> None:
        """Adds vectors (n, vocabulary)."""
        self._parts.append(vectors.astype(np.float32))

    def finish(self) -> list[Path]:
        """The files, complete."""
        vectors = sp.csr_array(sp.vstack(self._parts, format="csr"))
        columns = vectors.tocsc()
        codes = self._impacts.encode(columns.data)
        peaks = highest(columns.indptr, self._impacts.decode(codes))
        arrays = (columns.indptr, columns.indices, codes, np.diff(vectors.indptr), peaks)
        dtypes = ("<i8", "<i4", self._impacts.dtype, "<i4", "<f4")
        for name, array, dtype in zip(FILES, arrays, dtypes, strict=True):
            with ArrayWriter(self._folder / name, dtype) as writer:
                writer.append(array)
        return [self._folder / name for name in FILES]

    def close(self) -> None:
        """Lets go of what will not be finished."""
        self._parts.clear()


class CscStore:
    """The posting lists of one segment. Any number of threads may read."""

    def __init__(self, folder: Path, rows: int, vocabulary: int, impacts: Impacts = FP32) -> None:
        self.folder = folder
        self._impacts = impacts
        self._shape = (rows, vocabulary)
        self.indptr: IntArray = map_array(folder / INDPTR, "<i8", vocabulary + 1)
        self.rows: npt.NDArray[np.int32] = map_array(folder / ROWS, "<i4")
        self.codes: npt.NDArray[Any] = map_array(folder / WEIGHTS, impacts.dtype, len(self.rows))
        """(postings,) the weights, or what stands for them"""
        self.lengths: npt.NDArray[np.int32] = map_array(folder / LENGTHS, "<i4", rows)
        self.peaks = self._read_peaks()
        ends = (int(self.indptr[0]), int(self.indptr[-1]))
        if ends != (0, len(self.rows)):
            raise damaged(folder / INDPTR, f"values from 0 to {len(self.rows)}", f"{ends}")
        if (np.diff(self.indptr) < 0).any():
            raise damaged(folder / INDPTR, "values that only rise", "one below the one before")

    def __len__(self) -> int:
        return len(self.lengths)

    def retrieve(self, queries: sp.csr_array, k: int, allowed: BoolArray | None = None) -> Hits:
        """The k best allowed rows of each query (n, vocabulary), only those that score above 0."""
        return Hits.stack((self._best(*line, k, allowed) for line in self._terms(queries)), k)

    def scores(self, query: sp.csr_array, rows: IntArray) -> FloatArray:
        """The exact score (n,) of the given rows for one query (1, vocabulary); 0 without a term.

        Adds in the order of `retrieve`, so that the bits are the same. Each row is searched for
        in the posting lists, which are not read whole; a damaged row number there matches nothing.
        """
        wanted, back = np.unique(rows, return_inverse=True)
        ((terms, weights),) = self._terms(query)
        scores: FloatArray = postings.score_rows(wanted, self._lists(terms, weights))
        return scores.astype(np.float32)[back]

    def verify(self) -> list[str]:
        """What contradicts itself in the posting lists; empty if nothing does."""
        counts = np.zeros(len(self), dtype=np.int64)
        for start in range(0, len(self.rows), POSTINGS_AT_ONCE):
            block = self.rows[start : start + POSTINGS_AT_ONCE]
            if not self._within(block):
                return [f"a posting of a row outside 0 to {len(self) - 1}"]
            counts += np.bincount(block, minlength=len(self))
        damages = [] if np.array_equal(counts, self.lengths) else ["rows with missing postings"]
        for start, stop in _term_blocks([self.indptr], len(self.peaks)):
            ends = np.asarray(self.indptr[start : stop + 1])
            weights = self._impacts.decode(self.codes[ends[0] : ends[-1]])
            if not (highest(ends - ends[0], weights) <= self.peaks[start:stop]).all():
                return [*damages, "a weight above the highest of its posting list"]
        return damages

    def check_rows(self, rows: npt.NDArray[np.int32]) -> None:
        """ArtifactError unless all are rows of the segment: one that is none can crash scipy."""
        if not self._within(rows):
            found = f"{rows.min()} to {rows.max()}"
            raise damaged(self.folder / ROWS, f"rows from 0 to {len(self) - 1}", found)

    def _within(self, rows: npt.NDArray[np.int32]) -> bool:
        return not len(rows) or bool(rows.min() >= 0 and rows.max() < len(self))

    def _best(
        self,
        terms: IntArray,
        weights: npt.NDArray[np.float64],
        k: int,
        allowed: BoolArray | None,
    ) -> tuple[IntArray, FloatArray]:
        if k < 1:
            return top_k((), (), 0)
        mask = NO_MASK if allowed is None else allowed
        lists = self._lists(terms, weights)
        rows, scores, whole = postings.best_rows(k, len(self), *WINDOWS, mask, lists)
        if not whole:
            for start, stop in zip(lists.starts.tolist(), lists.stops.tolist(), strict=True):
                self.check_rows(self.rows[start:stop])
            raise damaged(self.folder / ROWS, "rows that only rise in a posting list", "others")
        return top_k(rows, scores, k)

    def _lists(self, terms: IntArray, weights: npt.NDArray[np.float64]) -> Lists:
        starts, stops = self.indptr[terms], self.indptr[terms + 1]
        peaks = self.peaks[terms].astype(np.float64)
        return Lists(starts, stops, weights, peaks, self.rows, self.codes, self._impacts.table)

    def _terms(self, queries: sp.csr_array) -> Iterator[tuple[IntArray, npt.NDArray[np.float64]]]:
        """Terms and weights of each query, the heaviest first; unknown terms are dropped.

        In this order the products of a row are added, in every segment.
        """
        for start, stop in zip(queries.indptr[:-1], queries.indptr[1:], strict=True):
            terms = queries.indices[start:stop].astype(np.int64)
            weights = queries.data[start:stop].astype(np.float64)
            order = np.lexsort((terms, -weights))
            known = order[terms[order] < self._shape[1]]
            yield terms[known], weights[known]

    def _read_peaks(self) -> FloatArray:
        """The highest weight of each term; infinite where an older index does not have them."""
        if not (self.folder / PEAKS).exists():
            return np.full(self._shape[1], np.inf, dtype=np.float32)
        peaks: FloatArray = map_array(self.folder / PEAKS, "<f4", self._shape[1])
        return peaks


def highest(indptr: IntArray, weights: FloatArray) -> FloatArray:
    """The highest weight (terms,) of each posting list; 0 for an empty one."""
    peaks = np.zeros(len(indptr) - 1, dtype=np.float32)
    filled = np.flatnonzero(np.diff(indptr))
    if len(filled):
        peaks[filled] = np.maximum.reduceat(weights, indptr[filled])
    return peaks


def merge_postings(
    parts: Sequence[tuple[CscStore, BoolArray]],
    folder: Path,
    vocabulary: int,
    impacts: Impacts = FP32,
) -> list[Path]:
    """Writes the live rows of all parts as one store, a block of terms at a time.

    All parts store their weights as `impacts` does.
    """
    renumbered, base = [], 0
    for _, live in parts:
        renumbered.append(base + np.cumsum(live) - 1)
        base += int(live.sum())
    indptr, rows, weights, lengths, peaks = (folder / name for name in FILES)
    counts = np.zeros(vocabulary, dtype=np.int64)
    tops = np.zeros(vocabulary, dtype=np.float32)
    with ArrayWriter(rows, "<i4") as row_file, ArrayWriter(weights, impacts.dtype) as weight_file:
        for start, stop in _term_blocks([store.indptr for store, _ in parts], vocabulary):
            columns, merged_rows, codes = _merge_block(parts, renumbered, start, stop)
            counts[start:stop] = np.bincount(columns - start, minlength=stop - start)
            ends = np.concatenate([[0], np.cumsum(counts[start:stop])])
            tops[start:stop] = highest(ends, impacts.decode(codes))
            row_file.append(merged_rows)
            weight_file.append(codes)
            forget(*(store.folder / name for store, _ in parts for name in (ROWS, WEIGHTS)))
    with ArrayWriter(indptr, "<i8") as file:
        file.append(np.concatenate([[0], np.cumsum(counts)]))
    with ArrayWriter(lengths, "<i4") as file:
        for store, live in parts:
            file.append(store.lengths[live])
    with ArrayWriter(peaks, "<f4") as file:
        file.append(tops)
    return [indptr, rows, weights, lengths, peaks]


def _term_blocks(ends: Sequence[IntArray], vocabulary: int) -> Iterator[tuple[int, int]]:
    """Ranges of terms with about POSTINGS_AT_ONCE postings each, and at least one term.

    ends: of each store where the postings of its terms end, as `indptr` has it.
    """
    total = np.sum(ends, axis=0)
    start = 0
    while start < vocabulary:
        reach = int(np.searchsorted(total, total[start] + POSTINGS_AT_ONCE, side="right")) - 1
        stop = min(max(reach, start + 1), vocabulary)
        yield start, stop
        start = stop


def _merge_block(
    parts: Sequence[tuple[CscStore, BoolArray]],
    renumbered: Sequence[IntArray],
    start: int,
    stop: int,
) -> tuple[IntArray, IntArray, npt.NDArray[Any]]:
    """(terms, new rows, codes) of the live postings of terms [start, stop), terms ascending."""
    terms, rows, codes = [], [], []
    for (store, live), numbers in zip(parts, renumbered, strict=True):
        indptr = np.asarray(store.indptr[start : stop + 1])
        span = slice(int(indptr[0]), int(indptr[-1]))
        old = store.rows[span]
        store.check_rows(old)
        kept = live[old]
        terms.append(np.repeat(np.arange(start, stop), np.diff(indptr))[kept])
        rows.append(numbers[old[kept]])
        codes.append(store.codes[span][kept])
    columns = np.concatenate(terms)
    order = np.argsort(columns, kind="stable")  # parts come in row order, so rows stay ascending
    return columns[order], np.concatenate(rows)[order], np.concatenate(codes)[order]
