"""The index: one directory that keeps four stores row-aligned, and changes by atomic commits.

Knows an encoder only as something that turns texts into `Encoded`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from m3search.corpus import TITLE_TEMPLATE
from m3search.errors import ConfigError, M3Error
from m3search.plan import GivenWeights, Plan
from m3search.records import MODES, BoolArray, Document, Encoded, FloatArray, Hits, IntArray, Mode
from m3search.stores.commit import check_complete, check_layout, check_model, check_unfinished
from m3search.stores.filter import Filter
from m3search.stores.intake import BuildReport, DocumentEncoder, Intake, Progress
from m3search.stores.manifest import Layout, Manifest
from m3search.stores.segment import as_stored
from m3search.stores.snapshot import Snapshot, find_damages, open_snapshot
from m3search.stores.writer import IndexWriter, create

__all__ = ["BuildReport", "DocumentEncoder", "Filter", "Index"]

SEGMENT_DOCUMENTS = 5_000


class Index:
    """One commit of an index, until a change is made through this object.

    `add`, `delete` and `compact` change the object: afterwards it is at the commit that they made,
    and rows may have other numbers. A change by another process or another `Index` is not seen:
    `refresh` returns the newest commit as another object. Any number of threads may read; one that
    must not meet a change in the middle of its work reads from `pinned`.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        encoder: DocumentEncoder | None = None,
        report: BuildReport | None = None,
        *,
        exact: bool = False,
    ) -> None:
        self._snapshot = snapshot
        self._encoder = encoder
        self.exact = exact
        """whether `retrieve` looks at every row, also of large segments, which have shortcuts"""
        self.report = BuildReport() if report is None else report
        """of the last build or add through this object"""

    @classmethod
    def build(
        cls,
        path: str | Path,
        documents: Iterable[Document],
        encoder: DocumentEncoder,
        *,
        title_template: str = TITLE_TEMPLATE,
        dense_codec: str = "fp32",
        sparse_codec: str = "fp32",
        multi_codec: str = "int4",
        multi_pooling: int = 1,
        chunk: int = 0,
        chunk_overlap: int = 0,
        segment_documents: int = SEGMENT_DOCUMENTS,
        source: str = "",
        progress: Progress | None = None,
    ) -> Index:
        """A new index of the documents; one whose build was interrupted is gone on with.

        Documents are encoded in chunks of up to 512. A commit follows the chunk with which
        `segment_documents` (of passages as many) are together, so up to 511 more, or fewer where
        they are large. Where reading or encoding raises, the chunks before are committed. A build
        that goes on takes documents committed with the same content as they are.

        `dense_codec` (fp32, fp16), `sparse_codec` (fp32, fp16, log8) and `multi_codec` (fp16, int8,
        int4, binary) say how dense vectors, lexical weights and token vectors are stored; of a
        document, `multi_pooling` token vectors that are alike become one, on the mean. With
        `chunk`, documents are cut into passages of at most so many tokens, of which neighbours
        share `chunk_overlap`: each is a row, with the title of its document, which is found by the
        best of them. `source` says what is read, and a build of another source does not go on.
        `progress` is called with the number of documents done since its last call.
        """
        path = Path(path)
        stored = (multi_codec, multi_pooling, sparse_codec, chunk, chunk_overlap, dense_codec)
        layout = Layout(title_template, *stored)
        create(path, encoder.identity, layout, source)
        started = time.monotonic()
        with IndexWriter(path) as writer:
            check_unfinished(path, writer.manifest, layout, source)
            check_layout(path, writer.manifest, layout)  # another build may have begun here
            check_model(path, writer.manifest.model, encoder.identity)
            intake = Intake(writer, encoder, segment_documents, building=True, source=source)
            intake.take(documents, progress)
            intake.drop_unseen()
            writer.finish(source)
            snapshot = open_snapshot(path, writer.base)
        return cls(snapshot, encoder, intake.finished(snapshot, started))

    @classmethod
    def open(cls, path: str | Path, *, exact: bool = False) -> Index:
        """The index at the path, at its newest commit. Sizes are checked; see `verify`."""
        return cls(open_snapshot(Path(path)), exact=exact)

    def refresh(self) -> Index:
        """The newest commit as another index, or this one if there is none newer: who reads from
        this one keeps the rows that they have."""
        snapshot = open_snapshot(self.path, self._snapshot)
        if snapshot.manifest == self._snapshot.manifest:
            return self
        return Index(snapshot, self._encoder, self.report, exact=self.exact)

    def pinned(self) -> Index:
        """This commit as another index, that stays as it is when this one is changed."""
        return Index(self._snapshot, self._encoder, self.report, exact=self.exact)

    def add(
        self,
        documents: Iterable[Document],
        encoder: DocumentEncoder | None = None,
        *,
        segment_documents: int = SEGMENT_DOCUMENTS,
        progress: Progress | None = None,
    ) -> BuildReport:
        """Adds documents in one commit; one whose id the index holds takes the old one's place.

        Without an encoder, the one of the build or of the last add is used. Where reading or
        encoding raises, what was encoded until then is committed and kept, up to the last whole
        chunk of 512: a wrong line loses no work, and adding the same again replaces the same ids.
        Either way this object is at the new commit afterwards.
        """
        encoder = encoder or self._encoder
        if encoder is None:
            raise _no_encoder(self.manifest.model.name)
        started = time.monotonic()
        with _writing(self) as writer:
            check_complete(self.path, writer.manifest)
            check_model(self.path, writer.manifest.model, encoder.identity)
            intake = Intake(writer, encoder, segment_documents, building=False)
            intake.take(documents, progress)
            writer.commit(complete=True)
            writer.tidy()
        self._encoder = encoder
        self.report = intake.finished(self._snapshot, started)
        return self.report

    def delete(self, ids: Iterable[str]) -> int:
        """Deletes documents in one commit; how many were there to be deleted. A segment that is
        mostly deleted is then written anew. This object is at the new commit afterwards."""
        names = [ids] if isinstance(ids, str) else list(ids)
        with _writing(self) as writer:
            rows = np.unique(writer.base.rows_of(names))
            rows = rows[rows >= 0]
            writer.remove(rows)
            writer.commit(writer.manifest.complete)
            writer.tidy()
        return len(rows)

    def set_weights(self, weights: GivenWeights) -> None:
        """Makes the weights of dense, sparse and multi those of a search that names none.

        This object is at the new commit afterwards. ConfigError where one is below 0, or all are 0.
        """
        plan = Plan.check(1, 1, MODES, weights, "exact", "union")
        with _writing(self) as writer:
            check_complete(self.path, writer.manifest)
            writer.weigh((plan.weights["dense"], plan.weights["sparse"], plan.weights["multi"]))
            writer.commit(complete=True)

    def compact(self, progress: Progress | None = None) -> None:
        """Rewrites all documents into one segment without the deleted ones, or into several of up
        to 1,048,576 rows; scores stay.

        Memory is bounded but for the codes of a segment's clusters, a byte for each dimension of
        each of its dense vectors. This object is at the new commit afterwards.
        """
        with _writing(self) as writer:
            if writer.merge(progress):
                writer.commit(writer.manifest.complete)

    def verify(self) -> list[str]:
        """Every damage found by reading all files of the newest commit, as 'file: what'; empty if
        it is sound."""
        return find_damages(self.path, read=True)[1]

    @property
    def path(self) -> Path:
        """The folder."""
        return self._snapshot.path

    @property
    def manifest(self) -> Manifest:
        """What the commit holds."""
        return self._snapshot.manifest

    @property
    def rows(self) -> int:
        """Rows, deleted ones included: the length of an `allowed` mask."""
        return self._snapshot.rows

    def __len__(self) -> int:
        """Documents that can be found."""
        return self.manifest.documents

    def info(self) -> dict[str, Any]:
        """The manifest and the bytes of each store, as plain JSON."""
        return self.manifest.describe()

    def bytes_by_store(self) -> dict[str, int]:
        """Bytes on disk by store."""
        return self.manifest.bytes_by_store()

    def retrieve(
        self, mode: Mode, queries: Encoded, k: int, allowed: BoolArray | None = None
    ) -> Hits:
        """The k best rows of each query in one mode; `allowed` (rows,) may narrow it.

        Every score is exact. In dense and multi a few of the best may be missed where a segment is
        so large that it has shortcuts (see FORMAT.md), unless `exact`.
        """
        return self._snapshot.retrieve(mode, queries, k, allowed, exact=self.exact)

    def with_rarity(self, queries: Encoded, allowed: BoolArray | None = None) -> Encoded:
        """What to ask `retrieve` and `scores` with for encoded queries: `Snapshot.with_rarity`."""
        return self._snapshot.with_rarity(queries, allowed)

    def scores(self, mode: Mode, query: Encoded, rows: npt.ArrayLike) -> FloatArray:
        """The exact score (n,) float32 of given rows for one query (n = 1)."""
        return self._snapshot.scores(mode, query, rows)

    def vectors(self, row: int) -> FloatArray:
        """The stored token vectors (n, multi_dim) float32 of one row."""
        return self._snapshot.vectors(row)

    def as_stored(self, encoded: Encoded) -> Encoded:
        """Encoded documents as the index would keep them: what is rounded, and pooled, is so."""
        return as_stored(encoded, self.manifest.layout)

    def documents(self, rows: npt.ArrayLike) -> list[Document]:
        """The documents of the rows, in the order asked."""
        return self._snapshot.documents(rows)

    def ids(self, rows: npt.ArrayLike) -> list[str]:
        """The ids of the rows, in the order asked; cheaper than the documents."""
        return self._snapshot.ids(rows)

    def rows_of(self, ids: Sequence[str]) -> IntArray:
        """The row (n,) int64 of each id, or its first passage; -1 where unknown or deleted."""
        return self._snapshot.rows_of(ids)

    @property
    def has_passages(self) -> bool:
        """Whether rows are passages, so that several may be of one document."""
        return self.manifest.layout.chunk > 0

    def heads(self, rows: npt.ArrayLike) -> IntArray:
        """(n,) the row that stands for the document of each row: equal for those of one."""
        return self._snapshot.heads(rows)

    def spans(self, rows: npt.ArrayLike) -> IntArray:
        """(n, 2) characters [start, end) of its document's text that each row is of."""
        return self._snapshot.spans(rows)

    def select(self, conditions: str | Filter | None) -> BoolArray | None:
        """Which rows (rows,) bool match the filter; None for no filter."""
        if isinstance(conditions, str):
            conditions = Filter.parse(conditions)
        return None if conditions is None else self._snapshot.select(conditions)


@contextmanager
def _writing(index: Index) -> Iterator[IndexWriter]:
    """The writer of a change. Afterwards the index is at what it committed, whatever failed."""
    writer = IndexWriter(index.path, index._snapshot)
    try:
        with writer:
            yield writer
            index._snapshot = open_snapshot(index.path, writer.base)
    except BaseException:
        with suppress(M3Error):  # what went wrong first is the error to tell
            index._snapshot = open_snapshot(index.path, index._snapshot)
        raise


def _no_encoder(name: str) -> ConfigError:
    return ConfigError(
        "add",
        expected="an encoder",
        found="none, as the index was opened from disk",
        remedy=f"Give one: Encoder.load({name!r}).",
    )
