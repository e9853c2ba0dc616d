"""Candidates of the multi mode without a scan: which documents have a token near which centroid.

The token vectors of a segment are grouped around centroids (PLAID, Santhanam et al. 2022). For
each centroid stands which rows have a token in its group. A query vector looks into the groups of
the centroids nearest to it; a row's estimated MaxSim is the sum, over query vectors, of the
highest product with a centroid in whose group it has a token, and, where it has none, of the
product with the last centroid looked at (WARP, Scheerer et al. 2025). The best by the estimate are
then scored exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from m3search.records import BoolArray, FloatArray, IntArray
from m3search.stores.centroids import Groups, Tokens
from m3search.stores.compiling import compiled
from m3search.stores.files import ArrayWriter, damaged, forget, map_array
from m3search.stores.postings import ONE, UNSIGNED
from m3search.stores.selection import below_kth, grown, keep_reaching, reaching, take
from m3search.stores.threads import side_by_side

Array = npt.NDArray[Any]
CENTROIDS, INDPTR, ROWS = "multi.centroids.npy", "multi.indptr.npy", "multi.rows.npy"
FILES = (CENTROIDS, INDPTR, ROWS)
KEYS = "multi.keys.npy"
"""while the lists are written: group * rows + row, in the order of rows"""
KEYS_AT_ONCE = 1 << 23
LEAST_ROWS = 20_000
"""a segment of fewer rows is scanned"""
PROBES, PROBES_MORE = 32, 8
"""centroids that a query vector looks at, and how many times as many where these are too few"""
WINDOW = 1 << 15


def write_token_lists(
    folder: Path, read: Callable[[], Iterator[Tokens]], vectors: int, rows: int
) -> list[Path]:
    """Writes the lists of a segment; the files, none where there are no vectors.

    read: goes through all `vectors` token vectors of the `rows` rows, in their order.
    """
    if not vectors:
        return []
    groups = Groups.train(read(), vectors)
    count = len(groups.centroids)
    sizes = np.zeros(count, dtype=np.int64)
    with ArrayWriter(folder / KEYS, "<u8") as file:

        def key(tokens: Tokens) -> npt.NDArray[np.uint64]:
            near = groups.nearest(np.ascontiguousarray(tokens.vectors, dtype=np.float32))
            return np.unique(
                near.astype(np.uint64) * np.uint64(rows) + tokens.rows.astype(np.uint64)
            )

        for keys in side_by_side(key, read()):
            sizes += np.bincount((keys // np.uint64(rows)).astype(np.int64), minlength=count)
            file.append(keys)
    with ArrayWriter(folder / ROWS, "<i4") as file:
        for first, last in _ranges(sizes):
            keys = _between(folder / KEYS, first * rows, last * rows)
            file.append((keys % np.uint64(rows)).astype(np.int32))
    (folder / KEYS).unlink()
    with ArrayWriter(folder / CENTROIDS, "<f4") as file:
        file.append(groups.centroids.reshape(-1))
    with ArrayWriter(folder / INDPTR, "<i8") as file:
        file.append(np.concatenate([[0], np.cumsum(sizes)]))
    return [folder / name for name in FILES]


def _ranges(sizes: IntArray) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of groups with about KEYS_AT_ONCE rows each, and at least one group."""
    ends = np.concatenate([[0], np.cumsum(sizes)])
    first = 0
    while first < len(sizes):
        reach = int(np.searchsorted(ends, ends[first] + KEYS_AT_ONCE, side="right")) - 1
        last = min(max(reach, first + 1), len(sizes))
        yield first, last
        first = last


def _between(path: Path, least: int, end: int) -> npt.NDArray[np.uint64]:
    """The keys of a file from `least` to below `end`, ascending; few others are in memory."""
    keys = map_array(path, "<u8")
    parts = [np.zeros(0, dtype=np.uint64)]
    for start in range(0, len(keys), KEYS_AT_ONCE):
        block = np.asarray(keys[start : start + KEYS_AT_ONCE])
        parts.append(block[(block >= np.uint64(least)) & (block < np.uint64(end))])
        forget(keys)
    return np.sort(np.concatenate(parts))


class TokenLists:
    """The lists of one segment. Any number of threads may read."""

    def __init__(self, folder: Path, rows: int, dim: int) -> None:
        self._length = rows
        flat = map_array(folder / CENTROIDS, "<f4")
        if len(flat) % dim:
            raise damaged(folder / CENTROIDS, f"vectors of {dim} dimensions", f"{len(flat)} values")
        self._centroids: FloatArray = flat.reshape(-1, dim)
        self._indptr: IntArray = map_array(folder / INDPTR, "<i8", len(self._centroids) + 1)
        self._rows: npt.NDArray[np.int32] = map_array(folder / ROWS, "<i4", int(self._indptr[-1]))
        if int(self._indptr[0]) != 0:
            raise damaged(folder / INDPTR, "values from 0", f"{self._indptr[0]} as the first")
        if (np.diff(self._indptr) < 0).any():
            raise damaged(folder / INDPTR, "values that only rise", "one below the one before")

    def find(self, query: FloatArray, count: int, allowed: BoolArray | None = None) -> IntArray:
        """About `count` rows of the highest estimated MaxSim with a query (m, dim), ascending.

        Where the groups near the query hold fewer allowed rows, more groups are looked into; in
        the end there are fewer only where no others have a token.
        """
        if not len(query) or not len(self._centroids):
            return np.zeros(0, dtype=np.int64)
        products = np.asarray(query, dtype=np.float32) @ self._centroids.T
        wanted = count if allowed is None else min(count, int(np.count_nonzero(allowed)))
        probes = PROBES
        while True:
            found = self._find(products, min(probes, products.shape[1]), count, allowed)
            if len(found) >= wanted or probes >= products.shape[1]:
                return found
            probes *= PROBES_MORE

    def _find(
        self, products: FloatArray, probes: int, count: int, allowed: BoolArray | None
    ) -> IntArray:
        """The rows by the groups of so many centroids a query vector; products (m, centroids)."""
        near = np.argpartition(-products, probes - 1, axis=1)[:, :probes]
        scores = np.take_along_axis(products, near, axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")
        near = np.take_along_axis(near, order, axis=1)
        gains = np.take_along_axis(scores, order, axis=1)
        gains = gains - gains[:, -1:]
        mask = np.zeros(0, dtype=bool) if allowed is None else allowed
        found: IntArray = estimate_rows(
            count, self._length, mask, near, gains.astype(np.float64), self._indptr, self._rows
        )
        return found


@compiled
def add_gains(
    sums: Array, first: int, stamps: Array, places: Array, groups: Array, gains: Array,
    indptr: Array, rows: Array,
) -> None:  # fmt: skip
    """Adds the gains of rows [first, first + len(sums)) to their sums, and moves `places` on."""
    vectors, probes = groups.shape
    length = UNSIGNED(len(sums))
    for i in range(vectors):
        for j in range(probes):
            place, stop = UNSIGNED(places[i, j]), UNSIGNED(indptr[groups[i, j] + 1])
            gain = gains[i, j]
            while place < stop:
                row = UNSIGNED(np.int64(rows[place]) - first)
                if row >= length:  # it is very large where the list is damaged
                    break
                if stamps[row] != i:
                    stamps[row] = i
                    sums[row] += gain
                place += ONE
            places[i, j] = place


@compiled
def estimate_rows(
    count: int, length: int, allowed: Array, groups: Array, gains: Array, indptr: Array,
    rows: Array,
) -> Array:  # fmt: skip
    """Rows, ascending, of the `count` highest sums of gains above 0, and a few little below.

    groups, gains: (query vectors, probes), gains falling; of a query vector a row gets the gain of
    the first group that holds it.
    """
    places = indptr[groups.reshape(-1)].reshape(groups.shape)
    sums = np.zeros(min(WINDOW, length), np.float64)
    stamps = np.empty(len(sums), np.int64)
    near = np.empty(len(sums), np.int64)
    room = 2 * count + len(sums)
    found, scores = np.empty(room, np.int64), np.empty(room, np.float64)
    held, least = 0, 0.0
    for first in range(0, length, WINDOW):
        window = sums[: min(WINDOW, length - first)]
        window[:] = 0.0
        stamps[:] = -1
        add_gains(window, first, stamps, places, groups, gains, indptr, rows)
        hopeful = reaching(window, least, near)
        while held + hopeful > len(found):  # only where very many are equal
            found, scores = grown(found), grown(scores)
        held = take(window, first, near[:hopeful], allowed, found, scores, held)
        if held >= 2 * count:
            least = max(least, below_kth(scores[:held], count))
            held = keep_reaching(found, scores, held, least)
    least = max(least, below_kth(scores[:held], count))
    return found[: keep_reaching(found, scores, held, least)].copy()
