"""One commit of an index, open for reading: every question that an index answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from m3search.corpus.seen_ids import SeenIds
from m3search.errors import ArtifactError
from m3search.fusion import top_k
from m3search.records import (
    BoolArray,
    Document,
    Encoded,
    FloatArray,
    Hits,
    IntArray,
    Mode,
)
from m3search.stores.commit import read_manifest
from m3search.stores.documents import Record
from m3search.stores.files import allow_segments, damaged
from m3search.stores.filter import Filter
from m3search.stores.manifest import MANIFEST, SEGMENTS, Manifest, is_as_written
from m3search.stores.rarity import rarity
from m3search.stores.sealing import read_deletes
from m3search.stores.segment import Segment, file_damages

T = TypeVar("T")


@dataclass(frozen=True)
class Snapshot:
    """The segments of one commit. It never changes, and any number of threads may read it."""

    path: Path
    manifest: Manifest
    segments: tuple[Segment, ...]
    live: tuple[BoolArray, ...]
    """per segment (rows,), which are not deleted"""
    bases: IntArray
    """(segments + 1,) the first global row of each segment, and the number of all rows"""
    counted: dict[int, int] = field(default_factory=dict, repr=False, compare=False)
    """term -> live rows that have it, of the terms that queries have had"""

    @property
    def rows(self) -> int:
        """Rows of all segments, deleted ones included."""
        return int(self.bases[-1])

    def retrieve(
        self,
        mode: Mode,
        queries: Encoded,
        k: int,
        allowed: BoolArray | None = None,
        *,
        exact: bool = False,
    ) -> Hits:
        """The k best live rows of each query in one mode; `allowed` is (rows,).

        exact: large segments do without their shortcuts.
        """
        if allowed is not None and len(allowed) != self.rows:
            raise ValueError(f"a mask of {len(allowed)} rows for an index of {self.rows}")
        k = max(k, 0)
        found = [
            (base, segment.retrieve(mode, queries, min(k, len(live)), mask, exact=exact))
            for base, segment, live, mask in self._masked(allowed)
        ]
        lines = []
        for query in range(len(queries)):
            rows = [base + hits.rows[query][hits.rows[query] >= 0] for base, hits in found]
            scores = [hits.scores[query][hits.rows[query] >= 0] for _, hits in found]
            lines.append(top_k(_join(rows, np.int64), _join(scores, np.float32), k))
        return Hits.stack(lines, k)

    def scores(self, mode: Mode, query: Encoded, rows: npt.ArrayLike) -> FloatArray:
        """The exact score (n,) of global rows for one query; -inf for row -1."""
        wanted = np.asarray(rows, dtype=np.int64)
        scores = np.full(len(wanted), -np.inf, dtype=np.float32)
        for segment, places, inside in self._located(wanted):
            scores[places] = segment.scores(mode, query, inside)
        return scores

    def with_rarity(self, queries: Encoded, allowed: BoolArray | None = None) -> Encoded:
        """What to ask `retrieve` and `scores` with: encoded queries, where the model says `idf`
        each lexical weight times the rarity of its term among the live rows, or those of them that
        are `allowed` (rows,)."""
        if not self.manifest.model.idf:
            return queries
        masked = self._masked(allowed)
        kept = [
            len(live) if mask is None else np.count_nonzero(mask) for _, _, live, mask in masked
        ]
        terms, places = np.unique(queries.sparse.indices, return_inverse=True)
        counted = self.counted if allowed is None else {}
        if new := [term for term in terms.tolist() if term not in counted]:
            counts = np.zeros(len(new), dtype=np.int64)
            for _, segment, _, mask in masked:
                counts += segment.sparse.frequencies(np.array(new, dtype=np.int64), mask)
            found = zip(new, counts.tolist(), strict=True)
            counted.update((term, count) for term, count in found if count)
        counts = np.array([counted.get(term, 0) for term in terms.tolist()], dtype=np.int64)
        sparse = queries.sparse.copy()
        sparse.data = (sparse.data * rarity(counts, int(sum(kept)))[places]).astype(np.float32)
        return replace(queries, sparse=sparse)

    def documents(self, rows: npt.ArrayLike) -> list[Document]:
        """The documents of global rows, in the order asked."""
        return self._gather(rows, lambda segment, inside: segment.documents.documents(inside))

    def records(self, rows: npt.ArrayLike) -> list[Record]:
        """The stored records of global rows, in the order asked."""
        return self._gather(rows, lambda segment, inside: segment.documents.records(inside))

    def ids(self, rows: npt.ArrayLike) -> list[str]:
        """The ids of global rows, in the order asked."""
        return self._gather(rows, lambda segment, inside: segment.documents.ids(inside))

    def vectors(self, row: int) -> FloatArray:
        """The stored token vectors (n, multi_dim) of one global row."""
        return self._gather([row], lambda segment, inside: [segment.multi.vectors(inside[0])])[0]

    def heads(self, rows: npt.ArrayLike) -> IntArray:
        """The row (n,) that stands for the document of each global row: itself, or its first
        passage."""
        wanted = np.asarray(rows, dtype=np.int64)
        heads = wanted.copy()
        for segment, places, inside in self._located(wanted):
            base = wanted[places] - inside
            heads[places] = base + segment.documents.heads(inside)
        return heads

    def spans(self, rows: npt.ArrayLike) -> IntArray:
        """(n, 2) characters [start, end) of the passage at each global row."""
        found = self._gather(rows, lambda segment, inside: segment.documents.spans(inside))
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    def rows_beside(self, rows: IntArray) -> IntArray:
        """The global rows of all passages of the documents that the rows (n,) belong to."""
        found = [
            segment.documents.rows_beside(inside) + (rows[places[0]] - inside[0])
            for segment, places, inside in self._located(rows)
        ]
        return _join(found, np.int64)

    @property
    def is_head(self) -> BoolArray:
        """(rows,) which rows stand for a document."""
        return _join([segment.documents.is_head for segment in self.segments], np.bool_)

    def find(self, name: str) -> Segment:
        """The segment of that name."""
        return next(segment for segment in self.segments if segment.entry.name == name)

    def rows_of(self, ids: Sequence[str]) -> IntArray:
        """The global row (n,) of each id; -1 where it is unknown or deleted."""
        found: dict[str, int] = {}
        for base, segment, live in zip(self.bases, self.segments, self.live, strict=False):
            for name, row in segment.documents.rows_of(ids).items():
                if live[row]:
                    found[name] = int(base) + row
        return np.array([found.get(name, -1) for name in ids], dtype=np.int64)

    def select(self, conditions: Filter) -> BoolArray:
        """Which rows (rows,) are live and match the filter."""
        parts = [
            segment.documents.select(conditions) & live
            for segment, live in zip(self.segments, self.live, strict=True)
        ]
        return _join(parts, np.bool_)

    def contradictions(self) -> list[str]:
        """What contradicts itself in files that are as they were written, as 'file: what'."""
        damages = [damage for segment in self.segments for damage in segment.verify()]
        seen = SeenIds()
        for segment, live in zip(self.segments, self.live, strict=True):
            entry = segment.entry
            found = live & segment.documents.is_head
            if (int(live.sum()), int(found.sum())) != (entry.live_rows, entry.documents):
                damages.append(
                    f"{segment.folder}: {entry.documents} documents, {found.sum()} found"
                )
            if not damages:
                names = segment.documents.each_id(np.flatnonzero(found))
                twice = [name for name in names if seen.add(name, 1)]
                damages += [f"{segment.folder}: the id {name!r} a second time" for name in twice]
        return damages

    def _masked(
        self, allowed: BoolArray | None
    ) -> list[tuple[int, Segment, BoolArray, BoolArray | None]]:
        """(base, segment, live, which rows may be found or None for all) of each segment."""
        masked = []
        for number, (segment, live) in enumerate(zip(self.segments, self.live, strict=True)):
            start, stop = int(self.bases[number]), int(self.bases[number + 1])
            mask = live if allowed is None else live & allowed[start:stop]
            masked.append((start, segment, live, None if mask.all() else mask))
        return masked

    def _located(self, rows: IntArray) -> list[tuple[Segment, IntArray, IntArray]]:
        """(segment, places in `rows`, rows in the segment) for every segment that is asked."""
        if len(rows) and rows.max() >= self.rows:
            raise IndexError(f"row {rows.max()} of an index of {self.rows} rows")
        numbers = np.searchsorted(self.bases, rows, side="right") - 1
        located = []
        for number in np.unique(numbers[rows >= 0]).tolist():
            places = np.flatnonzero(numbers == number)
            located.append((self.segments[number], places, rows[places] - self.bases[number]))
        return located

    def _gather(
        self, rows: npt.ArrayLike, read: Callable[[Segment, list[int]], Sequence[T]]
    ) -> list[T]:
        wanted = np.asarray(rows, dtype=np.int64)
        if len(wanted) and wanted.min() < 0:
            raise IndexError(f"row {wanted.min()}")
        found: dict[int, T] = {}
        for segment, places, inside in self._located(wanted):
            found.update(zip(places.tolist(), read(segment, inside.tolist()), strict=True))
        return [found[place] for place in range(len(wanted))]


def _join(parts: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=dtype), *parts]).astype(dtype)


def find_damages(path: Path, *, read: bool) -> tuple[Manifest, list[str]]:
    """The manifest in force, and every damage of what it names, as 'file: what'.

    Needs nothing but the manifest, so that one damaged file hides no other. Sizes are always
    looked at, contents where they are read.
    """
    manifest = read_manifest(path)
    while True:
        damages = _file_damages(path, manifest, read=read)
        if not damages:
            try:
                snapshot = open_snapshot(path)
                return snapshot.manifest, snapshot.contradictions() if read else []
            except ArtifactError as error:
                damages = [str(error)]
        newer = read_manifest(path)  # a writer may have removed what an older commit names
        if newer == manifest:
            return manifest, damages
        manifest = newer


def _file_damages(path: Path, manifest: Manifest, *, read: bool) -> list[str]:
    damages = []
    if read and not is_as_written((path / MANIFEST).read_bytes()):
        damages.append(f"{path / MANIFEST}: other bytes than were written")
    for entry in manifest.segments:
        damages += file_damages(path / SEGMENTS / entry.name, entry.files, read=read)
    return damages


def open_snapshot(path: Path, known: Snapshot | None = None) -> Snapshot:
    """The commit in force; segments that `known` has open already are shared with it.

    A writer may commit and collect between the reading of the manifest and the opening of the
    files. Then a file is gone, and the newer manifest is read; what was opened until then stays so.
    """
    manifest = read_manifest(path)
    opened = {segment.entry.name: segment for segment in known.segments} if known else {}
    while True:
        try:
            return _open_commit(path, manifest, opened)
        except (FileNotFoundError, ArtifactError) as error:
            newer = read_manifest(path)
            if newer == manifest:
                if isinstance(error, FileNotFoundError):
                    raise damaged(Path(error.filename), "a file of the index", "none") from error
                raise
            manifest = newer
        except OSError as error:
            raise ArtifactError(
                str(error.filename or path),
                expected="a readable file",
                found=error.strerror or str(error),
                remedy="Check its permissions and the limit on open files (ulimit -n).",
            ) from error


def _open_commit(path: Path, manifest: Manifest, opened: dict[str, Segment]) -> Snapshot:
    """A commit; opened: by name, to which those that it opens are added."""
    allow_segments(len(manifest.segments))
    segments, live = [], []
    for entry in manifest.segments:
        folder = path / SEGMENTS / entry.name
        segment = opened.get(entry.name)
        if segment is None or segment.entry.stores != entry.stores:
            segment = opened[entry.name] = Segment.open(folder, entry, manifest.model)
        else:
            segment = Segment(
                folder, entry, segment.dense, segment.sparse, segment.multi, segment.documents
            )
        segments.append(segment)
        live.append(~read_deletes(folder, entry))
    rows = [entry.rows for entry in manifest.segments]
    bases = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    return Snapshot(path, manifest, tuple(segments), tuple(live), bases)
