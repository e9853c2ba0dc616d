"""Changes to an index: new segments and tombstones, put in force by one commit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from m3search.errors import ArtifactError
from m3search.records import BoolArray, Encoded, FloatArray, ModelIdentity
from m3search.stores import tiers
from m3search.stores.checks import check_encoded
from m3search.stores.codec_check import SAMPLE_TEXTS, SAMPLE_VECTORS, check_codec
from m3search.stores.codecs import find_codec
from m3search.stores.commit import (
    WriteLock,
    check_folder,
    collect,
    read_manifest,
    write_manifest,
)
from m3search.stores.documents import Record
from m3search.stores.files import NO_ROOM, make_folder, sync
from m3search.stores.floats import find_floats
from m3search.stores.impacts import find_impacts
from m3search.stores.manifest import MANIFEST, SEGMENTS, Layout, Manifest, SegmentEntry
from m3search.stores.passages import Spans, check_chunk
from m3search.stores.pooling import check_pooling, pool_vectors
from m3search.stores.sealing import write_deletes
from m3search.stores.segment import SegmentWriter, merge_segments
from m3search.stores.snapshot import Snapshot, open_snapshot
from m3search.timings import stage


def create(path: Path, model: ModelIdentity, layout: Layout, source: str) -> None:
    """Makes an empty index at the path, commit 0, unless one is there.

    What an earlier build has left without a document is nothing to go on with; but numbers of
    commits and segments go on.
    """
    find_codec(layout.multi_codec)
    find_impacts(layout.sparse_codec)
    find_floats(layout.dense_codec)
    check_pooling(layout.multi_pooling)
    check_chunk(layout.chunk, layout.chunk_overlap, model.max_length)
    check_folder(path)
    first = Manifest(0, False, source, model, layout)
    with reporting(path, 0):
        make_folder(path)
        lock = WriteLock(path)
        try:
            if not (path / MANIFEST).exists():
                with suppress(PermissionError):  # where the folder above may not be read
                    sync(path.absolute().parent)
                write_manifest(path, first)
            elif (old := read_manifest(path)).is_blank:
                write_manifest(
                    path, replace(first, commit=old.commit + 1, next_segment=old.next_segment)
                )
        finally:
            lock.release()


@contextmanager
def reporting(path: Path, documents: int) -> Iterator[None]:
    """An OSError while writing as an ArtifactError that says what is safe and what to do."""
    try:
        yield
    except OSError as error:
        committed = f"{documents} {'document is' if documents == 1 else 'documents are'} committed"
        raise ArtifactError(
            str(error.filename or path),
            expected="to write the file",
            found=f"{error.strerror or error}; {committed} and safe",
            remedy="Make room or check the permissions, then run the same command again.",
        ) from error


class IndexWriter:
    """The one writer of an index, from the taking of the lock to its release.

    What is appended and deleted is seen by nobody before `commit`. Where the block under `with`
    raises, what was appended and deleted until then is committed, unless writing itself failed.
    """

    def __init__(self, path: Path, known: Snapshot | None = None) -> None:
        """known: a commit of the same index, of which what is open already is not opened again."""
        manifest = read_manifest(path)  # says it best where there is no index
        with reporting(path, manifest.documents):
            self._lock = WriteLock(path)
        try:
            self._path = path
            self.manifest = read_manifest(path)
            with reporting(path, self.manifest.documents):
                sync(path)  # its writer may have been killed before: what it replaced goes now
            collect(path, self.manifest)
            self.base: Snapshot = open_snapshot(path, known)
        except BaseException:
            self._lock.release()
            raise
        self._segment: SegmentWriter | None = None
        self._flushed: list[SegmentEntry] = []
        self._dead: dict[str, BoolArray] = {}
        self._removed = False  # whether rows were deleted since the last commit
        self._sample: list[FloatArray] = []
        self._weights = self.manifest.weights
        self._whole = True  # False after an error in the middle of a write

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is not None and self._whole:  # what was encoded so far is not lost
                self._commit(self.manifest.complete)
        finally:
            self._close()

    def _close(self) -> None:
        """Removes what is not committed, and lets the next writer in."""
        try:
            if self._segment is not None:
                self._segment.close()
                shutil.rmtree(self._segment.folder, ignore_errors=True)
            if not self._whole:  # segments that were done, but not committed, may fill a disk
                with suppress(ArtifactError, OSError):
                    collect(self._path, read_manifest(self._path))
        finally:
            self._lock.release()

    @property
    def pending_rows(self) -> int:
        """Rows of the segment that is being written."""
        return self._segment.rows if self._segment else 0

    @property
    def pending_bytes(self) -> int:
        """Bytes of the segment that is being written."""
        return self._segment.bytes if self._segment else 0

    def append(
        self,
        records: Sequence[Record],
        encoded: Encoded,
        replaced: npt.ArrayLike,
        passages: Sequence[Spans] | None = None,
    ) -> None:
        """Adds documents, and deletes the rows of `base` that they replace.

        passages: of each document, where the index has some; then `encoded` has one text for each.
        """
        each = records
        if passages is not None:
            each = [rec for rec, spans in zip(records, passages, strict=True) for _ in spans]
        check_encoded(each, encoded, self.manifest.model)  # before anything is half written
        with self._writing():
            if self._segment is None:
                self._segment = SegmentWriter(
                    self._next_folder(), self.manifest.model, self.manifest.layout
                )
            self._segment.append(records, encoded, passages)
            self.remove(replaced)
        if self.manifest.codec_check is None:
            room = SAMPLE_TEXTS - len(self._sample)
            pooling = self.manifest.layout.multi_pooling
            # copies, as the arrays can be views that keep all that was encoded with them
            self._sample += [
                pool_vectors(vectors, pooling)[:SAMPLE_VECTORS].copy()
                for vectors in encoded.multi[:room]
            ]

    def remove(self, rows: npt.ArrayLike) -> None:
        """Deletes rows of `base`, and with a passage all of its document."""
        wanted = self.base.rows_beside(np.asarray(rows, dtype=np.int64))
        numbers = np.searchsorted(self.base.bases, wanted, side="right") - 1
        for number in np.unique(numbers).tolist():
            segment = self.base.segments[number]
            dead = self._dead.setdefault(segment.entry.name, ~self.base.live[number])
            dead[wanted[numbers == number] - self.base.bases[number]] = True
            self._removed = True

    def weigh(self, weights: tuple[float, float, float]) -> None:
        """Makes these the weights of a search that names none; the next commit has them."""
        self._weights = weights

    def flush(self) -> None:
        """Ends the segment that is being written; the next documents begin another."""
        if self._segment is None:
            return
        with self._writing():
            self._flushed.append(self._segment.finish())
            self._segment = None

    def merge(self, progress: Callable[[int], None] | None = None) -> bool:
        """Replaces all segments by as few as can be that hold the live rows, in their order;
        whether there was anything to gain."""
        segments = self.base.manifest.segments
        runs = tiers.fewest_runs(segments)
        if len(runs) == len(segments) and not any(segment.deletes for segment in segments):
            return False
        parts = list(zip(self.base.segments, self.base.live, strict=True))
        layout, model = self.manifest.layout, self.manifest.model
        with self._writing():
            for run in runs:
                folder = self._next_folder()
                try:
                    merged = merge_segments(folder, parts[run], model, layout, progress)
                except BaseException:  # a disk that is full has no room for half a segment
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
                self._flushed.append(merged)
            for segment in self.base.segments:
                self._dead[segment.entry.name] = np.ones(segment.entry.rows, dtype=bool)
                self._removed = True
        return True

    def commit(self, complete: bool, source: str | None = None) -> None:
        """Puts everything since the last commit in force, in one step; then merges what is new."""
        if self._commit(complete, source):
            known = {segment.entry.name for segment in self.base.segments}
            first = sum(entry.name in known for entry in self.manifest.segments)
            self._merge_runs(first, tiers.MOST_WHILE_BUILDING)

    def finish(self, source: str) -> None:
        """Ends a build: its last commit says that it is complete, so that one which is killed while
        it merges goes on with that."""
        self.flush()
        segments = (*self.manifest.segments, *self._flushed)
        many = tiers.choose_run(segments, tiers.MOST_SEGMENTS) is not None
        self.commit(complete=not many, source=source)
        if many:
            self.tidy()
            self.commit(complete=True)

    def tidy(self) -> None:
        """Merges small segments where there are many, and writes anew those that are mostly
        deleted, in commits of their own.

        The last thing that a writer does: after it the rows of `base` may be others.
        """
        self._merge_runs(0, tiers.MOST_SEGMENTS)

    def _commit(self, complete: bool, source: str | None = None) -> bool:
        """Whether there was anything to put in force."""
        self.flush()
        manifest = self.manifest
        same = (complete, self._weights) == (manifest.complete, manifest.weights)
        if same and not self._flushed and not self._removed:
            return False
        with self._writing():
            manifest = self._next_manifest(complete, source)
            write_manifest(self._path, manifest)
            self.manifest = manifest
            self._flushed, self._removed = [], False
        if manifest.codec_check is not None:
            self._sample = []
        collect(self._path, manifest)
        return True

    def _merge_runs(self, first: int, most: int) -> None:
        """Merges runs of segments, from segment `first` on, until `most` are left."""
        while run := tiers.choose_run(self.manifest.segments[first:], most):
            with stage("merge"):
                manifest = self._merge_run(slice(first + run.start, first + run.stop))
                if manifest is None:
                    return
                with self._writing():
                    write_manifest(self._path, manifest)
                    self.manifest = manifest
                collect(self._path, manifest)

    def _merge_run(self, run: slice) -> Manifest | None:
        """The next manifest; None where there is no room to merge: the next writer will try."""
        try:
            with reporting(self._path, self.manifest.documents):
                return tiers.merge_run(self._path, self.manifest, run)
        except BaseException as error:  # everything was committed before
            shutil.rmtree(self._next_folder(), ignore_errors=True)
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in NO_ROOM:
                return None
            raise

    def _next_manifest(self, complete: bool, source: str | None) -> Manifest:
        number = self.manifest.commit + 1
        segments = []
        for entry in self.manifest.segments:
            dead = self._dead.get(entry.name)
            if dead is None or (entry.deletes and entry.deletes.count == int(dead.sum())):
                segments.append(entry)
            elif not dead.all():
                gone = self.base.find(entry.name).documents.count(dead)
                deletes = write_deletes(self._path / SEGMENTS / entry.name, number, dead, gone)
                segments.append(replace(entry, deletes=deletes))
        check = self.manifest.codec_check
        if check is None and self._sample:
            check = check_codec(self._sample, find_codec(self.manifest.layout.multi_codec))
        return replace(
            self.manifest,
            commit=number,
            complete=complete,
            source=self.manifest.source if source is None else source,
            segments=(*segments, *self._flushed),
            next_segment=self.manifest.next_segment + len(self._flushed),
            codec_check=check,
            weights=self._weights,
        )

    def _next_folder(self) -> Path:
        number = self.manifest.next_segment + len(self._flushed)
        return self._path / SEGMENTS / f"{number:08d}"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        was_whole, self._whole = self._whole, False
        with reporting(self._path, self.manifest.documents):
            yield
        self._whole = was_whole
