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
from m3search.stores.files import ArrayWriter, damaged, forget, map_array
from m3search.stores.impacts import FP32, Impacts
from m3search.stores.max_score import best_rows
from m3search.stores.postings import Lists, count_kept, score_rows
from m3search.stores.term_table import FILE as TERMS
from m3search.stores.term_table import TermTable
from m3search.stores.threads import in_threads, thread_count

ROWS, WEIGHTS, LENGTHS = "sparse.rows.npy", "sparse.weights.npy", "sparse.lengths.npy"
FILES = (TERMS, ROWS, WEIGHTS, LENGTHS)
POSTINGS_AT_ONCE = 1 << 22
WINDOWS = (1 << 11, 1 << 15)
"""rows of the first and of the largest window: float64 sums of 256 kB stay in a core's own cache"""
LARGE = 1 << 15
"""rows of a segment from which queries take longer than a thread takes to begin with one"""
SEARCHED = 16
"""postings that are read in the time in which one row is searched for in a list"""
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
        terms, numbers = np.unique(vectors.indices, return_inverse=True)
        shape = (vectors.shape[0], len(terms))
        columns = sp.csr_array((vectors.data, numbers, vectors.indptr), shape=shape).tocsc()
        codes = self._impacts.encode(columns.data)
        peaks = highest(columns.indptr, self._impacts.decode(codes))
        counts = np.diff(columns.indptr).astype(np.int64)
        table = TermTable.of(terms.astype(np.int64), counts, peaks).write(self._folder)
        arrays = (columns.indices, codes, np.diff(vectors.indptr))
        dtypes = ("<i4", self._impacts.dtype, "<i4")
        for name, array, dtype in zip(FILES[1:], arrays, dtypes, strict=True):
            with ArrayWriter(self._folder / name, dtype) as writer:
                writer.append(array)
        return [table, *(self._folder / name for name in FILES[1:])]

    def close(self) -> None:
        """Lets go of what will not be finished."""
        self._parts.clear()


class CscStore:
    """The posting lists of one segment. Any number of threads may read."""

    def __init__(
        self,
        folder: Path,
        rows: int,
        vocabulary: int,
        impacts: Impacts = FP32,
        *,
        older: bool = False,
    ) -> None:
        """older: whether the segment has its lists by all terms of the vocabulary."""
        self.folder = folder
        self._impacts = impacts
        self.rows: npt.NDArray[np.int32] = map_array(folder / ROWS, "<i4")
        self.codes: npt.NDArray[Any] = map_array(folder / WEIGHTS, impacts.dtype, len(self.rows))
        """(postings,) the weights, or what stands for them"""
        self.lengths: npt.NDArray[np.int32] = map_array(folder / LENGTHS, "<i4", rows)
        read = TermTable.read_older if older else TermTable.read
        self.table = read(folder, vocabulary, len(self.rows))

    def __len__(self) -> int:
        return len(self.lengths)

    def retrieve(self, queries: sp.csr_array, k: int, allowed: BoolArray | None = None) -> Hits:
        """The k best allowed rows of each query (n, vocabulary), only those that score above 0.

        A query takes one thread; of a large segment several are answered at a time.
        """
        lines = self._terms(queries)
        if queries.shape[0] > 1 and len(self) >= LARGE and thread_count() > 1:
            return Hits.stack(in_threads(lambda line: self._best(*line, k, allowed), lines), k)
        return Hits.stack((self._best(*line, k, allowed) for line in lines), k)

    def scores(self, query: sp.csr_array, rows: IntArray) -> FloatArray:
        """The exact score (n,) of the given rows for one query (1, vocabulary); 0 without a term.

        Adds in the order of `retrieve`, so that the bits are the same. Each row is searched for
        in the posting lists, which are not read whole; a damaged row number there matches nothing.
        """
        wanted, back = np.unique(rows, return_inverse=True)
        ((terms, weights),) = self._terms(query)
        scores: FloatArray = score_rows(wanted, self._lists(terms, weights))
        return scores.astype(np.float32)[back]

    def frequencies(self, terms: IntArray, kept: BoolArray | None = None) -> IntArray:
        """(n,) how many rows have a weight for each term; of those `kept` (rows,) alone, if given.

        Posting lists are read whole only where neither few rows are kept nor few left out.
        """
        places, known = self.table.find(terms)
        starts, stops = self.table.indptr[places], self.table.indptr[places + 1]
        counts = np.zeros(len(terms), dtype=np.int64)
        counts[known] = stops - starts
        if kept is not None:
            few_kept = 2 * np.count_nonzero(kept) <= len(kept)
            few = np.flatnonzero(kept if few_kept else ~kept).astype(np.int32)
            for place, start, stop in zip(np.flatnonzero(known), starts, stops, strict=True):
                rows = self.rows[start:stop]
                if SEARCHED * len(few) > len(rows):
                    counts[place] = count_kept(rows, kept)
                    if counts[place] < 0:
                        self.check_rows(rows)
                else:
                    found = _count_common(few, rows)
                    counts[place] = found if few_kept else len(rows) - found
        return counts

    def forget(self) -> None:
        """Lets go of what this process holds in memory of the posting lists."""
        forget(self.rows, self.codes)

    def verify(self) -> list[str]:
        """What contradicts itself in the posting lists; empty if nothing does."""
        counts = np.zeros(len(self), dtype=np.int64)
        for start in range(0, len(self.rows), POSTINGS_AT_ONCE):
            block = self.rows[start : start + POSTINGS_AT_ONCE]
            if not self._within(block):
                return [f"a posting of a row outside 0 to {len(self) - 1}"]
            counts += np.bincount(block, minlength=len(self))
        damages = [] if np.array_equal(counts, self.lengths) else ["rows with missing postings"]
        for start, stop in _term_blocks(self.table.indptr):
            ends = np.asarray(self.table.indptr[start : stop + 1])
            weights = self._impacts.decode(self.codes[ends[0] : ends[-1]])
            if not (highest(ends - ends[0], weights) <= self.table.peaks[start:stop]).all():
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
        lists = self._lists(terms, weights)
        if allowed is not None and self._are_few(int(np.count_nonzero(allowed)), lists):
            rows = np.flatnonzero(allowed)
            scores = score_rows(rows, lists)
            return top_k(rows[scores > 0], scores[scores > 0], k)
        mask = NO_MASK if allowed is None else allowed
        rows, scores, whole = best_rows(k, len(self), *WINDOWS, mask, lists)
        if not whole:
            for start, stop in zip(lists.starts.tolist(), lists.stops.tolist(), strict=True):
                self.check_rows(self.rows[start:stop])
            raise damaged(self.folder / ROWS, "rows that only rise in a posting list", "others")
        return top_k(rows, scores, k)

    def _are_few(self, rows: int, lists: Lists) -> bool:
        """Whether so many rows are searched for in the lists sooner than these are read."""
        return SEARCHED * rows * len(lists.starts) <= int((lists.stops - lists.starts).sum())

    def _lists(self, terms: IntArray, weights: npt.NDArray[np.float64]) -> Lists:
        table = self.table
        places, known = table.find(terms)
        starts, stops = table.indptr[places], table.indptr[places + 1]
        peaks, codes = table.peaks[places].astype(np.float64), self._impacts.table
        return Lists(starts, stops, weights[known], peaks, self.rows, self.codes, codes)

    def _terms(self, queries: sp.csr_array) -> Iterator[tuple[IntArray, npt.NDArray[np.float64]]]:
        """Terms and weights of each query, the heaviest first.

        In this order the products of a row are added, in every segment.
        """
        for start, stop in zip(queries.indptr[:-1], queries.indptr[1:], strict=True):
            terms = queries.indices[start:stop].astype(np.int64)
            weights = queries.data[start:stop].astype(np.float64)
            order = np.lexsort((terms, -weights))
            yield terms[order], weights[order]


def _count_common(few: npt.NDArray[np.int32], rows: npt.NDArray[np.int32]) -> int:
    """How many of a few rows, ascending, are in a posting list."""
    places = np.searchsorted(rows, few)
    there = places < len(rows)
    return int(np.count_nonzero(rows[places[there]] == few[there]))


def highest(indptr: IntArray, weights: FloatArray) -> FloatArray:
    """The highest weight (terms,) of each posting list; 0 for an empty one."""
    peaks = np.zeros(len(indptr) - 1, dtype=np.float32)
    filled = np.flatnonzero(np.diff(indptr))
    if len(filled):
        peaks[filled] = np.maximum.reduceat(weights, indptr[filled])
    return peaks


def merge_postings(
    parts: Sequence[tuple[CscStore, BoolArray]], folder: Path, impacts: Impacts = FP32
) -> list[Path]:
    """Writes the live rows of all parts as one store, a block of terms at a time.

    All parts store their weights as `impacts` does.
    """
    renumbered, base = [], 0
    for _, live in parts:
        renumbered.append(base + np.cumsum(live) - 1)
        base += int(live.sum())
    tables = [store.table for store, _ in parts]
    terms, indptr = _unite(tables)
    counts, peaks = np.zeros(len(terms), np.int64), np.zeros(len(terms), np.float32)
    rows, weights, lengths = (folder / name for name in FILES[1:])
    with ArrayWriter(rows, "<i4") as row_file, ArrayWriter(weights, impacts.dtype) as weight_file:
        for start, stop in _term_blocks(indptr):
            columns, merged_rows, codes = _merge_block(parts, renumbered, terms[start:stop])
            counts[start:stop] = np.bincount(columns, minlength=stop - start)
            ends = np.concatenate([[0], np.cumsum(counts[start:stop])])
            peaks[start:stop] = highest(ends, impacts.decode(codes))
            row_file.append(merged_rows)
            weight_file.append(codes)
            for store, _ in parts:
                store.forget()
    with ArrayWriter(lengths, "<i4") as file:
        for store, live in parts:
            file.append(store.lengths[live])
    return [TermTable.of(terms, counts, peaks).write(folder), rows, weights, lengths]


def _unite(tables: Sequence[TermTable]) -> tuple[IntArray, IntArray]:
    """The terms (n,) of all tables, ascending, and (n + 1,) where their lists end together."""
    terms = np.unique(np.concatenate([table.terms for table in tables]))
    counts = np.zeros(len(terms), dtype=np.int64)
    for table in tables:
        counts[np.searchsorted(terms, table.terms)] += np.diff(table.indptr)
    return terms, np.concatenate([[0], np.cumsum(counts)])


def _term_blocks(indptr: IntArray) -> Iterator[tuple[int, int]]:
    """Ranges of places with about POSTINGS_AT_ONCE postings each, and at least one term.

    indptr: (terms + 1,) where the lists of the terms begin and end.
    """
    start, count = 0, len(indptr) - 1
    while start < count:
        reach = int(np.searchsorted(indptr, indptr[start] + POSTINGS_AT_ONCE, side="right")) - 1
        stop = min(max(reach, start + 1), count)
        yield start, stop
        start = stop


def _merge_block(
    parts: Sequence[tuple[CscStore, BoolArray]],
    renumbered: Sequence[IntArray],
    block: IntArray,
) -> tuple[IntArray, IntArray, npt.NDArray[Any]]:
    """(places in the block, new rows, codes) of the live postings of a block of terms, ascending.

    block: (n,) terms, ascending, with all that a part has between the first and the last.
    """
    columns, rows, codes = [], [], []
    for (store, live), numbers in zip(parts, renumbered, strict=True):
        first, stop = np.searchsorted(store.table.terms, [block[0], block[-1] + 1])
        indptr = np.asarray(store.table.indptr[first : stop + 1])
        span = slice(int(indptr[0]), int(indptr[-1]))
        old = store.rows[span]
        store.check_rows(old)
        kept = live[old]
        places = np.searchsorted(block, store.table.terms[first:stop])
        columns.append(np.repeat(places, np.diff(indptr))[kept])
        rows.append(numbers[old[kept]])
        codes.append(store.codes[span][kept])
    merged = np.concatenate(columns)
    order = np.argsort(merged, kind="stable")  # parts come in row order, so rows stay ascending
    return merged[order], np.concatenate(rows)[order], np.concatenate(codes)[order]
