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

TERMS = "sparse.terms.npy"
INDPTR, ROWS, WEIGHTS = "sparse.indptr.npy", "sparse.rows.npy", "sparse.weights.npy"
LENGTHS, PEAKS = "sparse.lengths.npy", "sparse.peaks.npy"
FILES = (TERMS, INDPTR, ROWS, WEIGHTS, LENGTHS, PEAKS)
DTYPES = {TERMS: "<i4", INDPTR: "<i8", ROWS: "<i4", LENGTHS: "<i4", PEAKS: "<f4"}
"""of the files; that of the weights is their codec's"""
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
        terms, numbers = np.unique(vectors.indices, return_inverse=True)
        shape = (vectors.shape[0], len(terms))
        columns = sp.csr_array((vectors.data, numbers, vectors.indptr), shape=shape).tocsc()
        codes = self._impacts.encode(columns.data)
        peaks = highest(columns.indptr, self._impacts.decode(codes))
        arrays = (terms, columns.indptr, columns.indices, codes, np.diff(vectors.indptr), peaks)
        for name, array in zip(FILES, arrays, strict=True):
            dtype = DTYPES.get(name, self._impacts.dtype)
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
        self.terms, self.indptr, self.peaks = self._read_terms(vocabulary)
        self.rows: npt.NDArray[np.int32] = map_array(folder / ROWS, "<i4")
        self.codes: npt.NDArray[Any] = map_array(folder / WEIGHTS, impacts.dtype, len(self.rows))
        """(postings,) the weights, or what stands for them"""
        self.lengths: npt.NDArray[np.int32] = map_array(folder / LENGTHS, "<i4", rows)
        ends = (int(self.indptr[0]), int(self.indptr[-1]))
        if ends != (0, len(self.rows)):
            raise damaged(folder / INDPTR, f"values from 0 to {len(self.rows)}", f"{ends}")
        if (np.diff(self.indptr) < 0).any():
            raise damaged(folder / INDPTR, "values that only rise", "one below the one before")

    def __len__(self) -> int:
        return len(self.lengths)

    def retrieve(self, queries: sp.csr_array, k: int, allowed: BoolArray | None = None) -> Hits:
        """The k best allowed rows of each query (n, vocabulary), only those that score above 0."""
        return Hits.stack((self._best(*line, k, allowed) for line in self._known(queries)), k)

    def scores(self, query: sp.csr_array, rows: IntArray) -> FloatArray:
        """The exact score (n,) of the given rows for one query (1, vocabulary); 0 without a term.

        Adds in the order of `retrieve`, so that the bits are the same. Each row is searched for
        in the posting lists, which are not read whole; a damaged row number there matches nothing.
        """
        wanted, back = np.unique(rows, return_inverse=True)
        ((numbers, weights),) = self._known(query)
        scores: FloatArray = postings.score_rows(wanted, self._lists(numbers, weights))
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
        for start, stop in _list_blocks([self.indptr]):
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
        numbers: IntArray,
        weights: npt.NDArray[np.float64],
        k: int,
        allowed: BoolArray | None,
    ) -> tuple[IntArray, FloatArray]:
        if k < 1:
            return top_k((), (), 0)
        mask = NO_MASK if allowed is None else allowed
        lists = self._lists(numbers, weights)
        rows, scores, whole = postings.best_rows(k, len(self), *WINDOWS, mask, lists)
        if not whole:
            for start, stop in zip(lists.starts.tolist(), lists.stops.tolist(), strict=True):
                self.check_rows(self.rows[start:stop])
            raise damaged(self.folder / ROWS, "rows that only rise in a posting list", "others")
        return top_k(rows, scores, k)

    def _lists(self, numbers: IntArray, weights: npt.NDArray[np.float64]) -> Lists:
        starts, stops = self.indptr[numbers], self.indptr[numbers + 1]
        peaks = self.peaks[numbers].astype(np.float64)
        return Lists(starts, stops, weights, peaks, self.rows, self.codes, self._impacts.table)

    def _known(self, queries: sp.csr_array) -> Iterator[tuple[IntArray, npt.NDArray[np.float64]]]:
        """Lists and weights of each query's terms, the heaviest first; those that no row has are
        dropped.

        In this order the products of a row are added, in every segment.
        """
        for start, stop in zip(queries.indptr[:-1], queries.indptr[1:], strict=True):
            terms = queries.indices[start:stop].astype(np.int64)
            weights = queries.data[start:stop].astype(np.float64)
            order = np.lexsort((terms, -weights))
            numbers = np.searchsorted(self.terms, terms[order])
            inside = numbers < len(self.terms)
            inside[inside] = self.terms[numbers[inside]] == terms[order][inside]
            yield numbers[inside], weights[order][inside]

    def _read_terms(self, vocabulary: int) -> tuple[npt.NDArray[np.int32], IntArray, FloatArray]:
        """Of the terms that have a list: their numbers, ascending, where the lists begin and at
        last end, and the highest weight of each.

        An older index has a list for every number of the vocabulary, most of them empty, and the
        oldest do not know the highest weights, which are infinite then.
        """
        listed = (self.folder / TERMS).exists()
        terms = np.arange(vocabulary, dtype=np.int32)
        if listed:
            terms = map_array(self.folder / TERMS, "<i4")
        within = not len(terms) or (terms[0] >= 0 and terms[-1] < vocabulary)
        if not within or (np.diff(terms) <= 0).any():
            expected = f"numbers from 0 to {vocabulary - 1} that only rise"
            raise damaged(self.folder / TERMS, expected, "others")
        indptr = map_array(self.folder / INDPTR, "<i8", len(terms) + 1)
        if (self.folder / PEAKS).exists():
            peaks = map_array(self.folder / PEAKS, "<f4", len(terms))
        else:
            peaks = np.full(len(terms), np.inf, dtype=np.float32)
        if listed:
            return terms, indptr, peaks
        filled = np.flatnonzero(np.diff(indptr))
        return filled.astype(np.int32), np.append(indptr[filled], indptr[-1]), peaks[filled]


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
    """Writes the live rows of all parts as one store, a block of lists at a time.

    All parts store their weights as `impacts` does.
    """
    renumbered, base = [], 0
    for _, live in parts:
        renumbered.append(base + np.cumsum(live) - 1)
        base += int(live.sum())
    paths = {name: folder / name for name in FILES}
    terms = np.unique(np.concatenate([store.terms for store, _ in parts]))
    indptrs = [_spread(store, terms) for store, _ in parts]
    counts = np.zeros(len(terms), dtype=np.int64)
    tops = np.zeros(len(terms), dtype=np.float32)
    with (
        ArrayWriter(paths[ROWS], "<i4") as row_file,
        ArrayWriter(paths[WEIGHTS], impacts.dtype) as weight_file,
    ):
        for start, stop in _list_blocks(indptrs):
            ends = [indptr[start : stop + 1] for indptr in indptrs]
            numbers, merged_rows, codes = _merge_block(parts, renumbered, ends)
            counts[start:stop] = np.bincount(numbers, minlength=stop - start)
            merged_ends = np.concatenate([[0], np.cumsum(counts[start:stop])])
            tops[start:stop] = highest(merged_ends, impacts.decode(codes))
            row_file.append(merged_rows)
            weight_file.append(codes)
            forget(*(store.folder / name for store, _ in parts for name in (ROWS, WEIGHTS)))
    left = counts > 0
    lengths = np.concatenate([store.lengths[live] for store, live in parts])
    indptr = np.concatenate([[0], np.cumsum(counts[left])])
    arrays = {TERMS: terms[left], INDPTR: indptr, LENGTHS: lengths, PEAKS: tops[left]}
    for name, array in arrays.items():
        with ArrayWriter(paths[name], DTYPES[name]) as file:
            file.append(array)
    return list(paths.values())


def _spread(store: CscStore, terms: npt.NDArray[np.int32]) -> IntArray:
    """(terms + 1,) where the store's lists of these terms begin, empty ones where it has none."""
    counts = np.zeros(len(terms), dtype=np.int64)
    counts[np.searchsorted(terms, store.terms)] = np.diff(store.indptr)
    return np.concatenate([[0], np.cumsum(counts)])


def _list_blocks(indptrs: Sequence[IntArray]) -> Iterator[tuple[int, int]]:
    """Ranges of lists with about POSTINGS_AT_ONCE postings each, and at least one list.

    indptrs: of each store where the postings of its lists begin, and the last end.
    """
    total = np.sum(indptrs, axis=0)
    start, lists = 0, len(total) - 1
    while start < lists:
        reach = int(np.searchsorted(total, total[start] + POSTINGS_AT_ONCE, side="right")) - 1
        stop = min(max(reach, start + 1), lists)
        yield start, stop
        start = stop


def _merge_block(
    parts: Sequence[tuple[CscStore, BoolArray]],
    renumbered: Sequence[IntArray],
    ends: Sequence[IntArray],
) -> tuple[IntArray, IntArray, npt.NDArray[Any]]:
    """(lists, new rows, codes) of the live postings of some lists, numbered from 0, ascending.

    ends: of each part, where the postings of these lists begin and at last end.
    """
    lists, rows, codes = [], [], []
    for (store, live), numbers, indptr in zip(parts, renumbered, ends, strict=True):
        span = slice(int(indptr[0]), int(indptr[-1]))
        old = store.rows[span]
        store.check_rows(old)
        kept = live[old]
        lists.append(np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))[kept])
        rows.append(numbers[old[kept]])
        codes.append(store.codes[span][kept])
    columns = np.concatenate(lists)
    order = np.argsort(columns, kind="stable")  # parts come in row order, so rows stay ascending
    return columns[order], np.concatenate(rows)[order], np.concatenate(codes)[order]
