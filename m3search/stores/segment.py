"""One segment: four stores that hold the same document in the same row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from m3search.errors import ArtifactError
from m3search.records import BoolArray, Encoded, FloatArray, Hits, IntArray, Mode, ModelIdentity
from m3search.stores import documents
from m3search.stores.codecs import CODECS, decode_vectors, encode_vectors, find_codec
from m3search.stores.dense import FlatStore, FlatWriter
from m3search.stores.document_writer import DocumentWriter
from m3search.stores.documents import DocumentStore, Record
from m3search.stores.files import checksum, damaged, forget, naming
from m3search.stores.floats import BY_KIND as FLOATS
from m3search.stores.floats import find_floats
from m3search.stores.impacts import BY_KIND, OLDER, find_impacts
from m3search.stores.manifest import FileEntry, Layout, SegmentEntry
from m3search.stores.multi import VectorStore
from m3search.stores.multi_writer import VectorWriter
from m3search.stores.passages import Spans
from m3search.stores.pooling import pool_vectors
from m3search.stores.sealing import (
    Written,
    add_shortcuts,
    dense_written,
    open_dense,
    open_multi,
    seal,
)
from m3search.stores.sparse import CscStore, CscWriter, merge_postings

KINDS: dict[str, tuple[str, ...]] = {
    "dense": tuple(FLOATS),
    "sparse": tuple(BY_KIND),
    "multi": tuple(CODECS),
    "documents": documents.KINDS,
}
"""the kinds of each store that this version reads"""
ROWS_AT_ONCE = 256
BYTES_AT_ONCE = 1 << 26
"""of token vectors that a merge holds at a time; a long document may have 16 MB"""


def as_stored(encoded: Encoded, layout: Layout) -> Encoded:
    """Encoded texts, rounded and pooled as a segment keeps them."""
    codec, impacts = find_codec(layout.multi_codec), find_impacts(layout.sparse_codec)
    sparse = encoded.sparse.copy()
    sparse.data = impacts.decode(impacts.encode(sparse.data))
    dense = encoded.dense.astype(find_floats(layout.dense_codec).dtype).astype(np.float32)
    multi = [
        decode_vectors(encode_vectors(pool_vectors(vectors, layout.multi_pooling), codec))
        for vectors in encoded.multi
    ]
    return replace(encoded, dense=dense, sparse=sparse, multi=multi)


class SegmentWriter:
    """Writes one segment; it counts only once a manifest names it."""

    def __init__(self, folder: Path, model: ModelIdentity, layout: Layout) -> None:
        self.folder = folder
        self.rows = 0
        self.truncated = 0
        self.bytes = 0
        """of the vectors and texts so far"""
        self._model = model
        self._codec = find_codec(layout.multi_codec)
        self._impacts = find_impacts(layout.sparse_codec)
        self._pooling = layout.multi_pooling
        with naming(folder):
            folder.mkdir(parents=True)
        self._dense = FlatWriter(folder, model.dim, find_floats(layout.dense_codec))
        self._sparse = CscWriter(folder, model.vocabulary, self._impacts)
        self._multi = VectorWriter(folder, self._codec)
        self._documents = DocumentWriter(folder, passages=layout.chunk > 0)

    def append(
        self, records: Sequence[Record], encoded: Encoded, passages: Sequence[Spans] | None = None
    ) -> None:
        """Adds documents and their vectors, checked before, in the same order.

        passages: of each document, where the index has some; the rows are theirs.
        """
        self._documents.append(records, passages)
        self._dense.append(encoded.dense)
        self._sparse.append(encoded.sparse)
        pooled = (pool_vectors(vectors, self._pooling) for vectors in encoded.multi)
        self.bytes += self._multi.append(pooled)
        self.bytes += encoded.dense.nbytes + 8 * encoded.sparse.nnz
        self.bytes += sum(len(record.text) + len(record.metadata) for record in records)
        self.rows += len(encoded)
        self.truncated += int(encoded.truncated.sum())

    def finish(self) -> SegmentEntry:
        """The segment, complete and on disk."""
        stores = {
            "dense": dense_written(self._dense),
            "sparse": Written(self._impacts.kind, self._sparse.finish()),
            "multi": Written(self._codec.name, self._multi.finish()),
            "documents": self._documents.finish(),
        }
        add_shortcuts(self.folder, self.rows, self._model, stores)
        return seal(self.folder, self.rows, self.truncated, stores)

    def close(self) -> None:
        """Lets go of a segment that will not be finished."""
        for writer in (self._dense, self._sparse, self._multi, self._documents):
            writer.close()


@dataclass(frozen=True)
class Segment:
    """The open stores of one segment. Any number of threads may read."""

    folder: Path
    entry: SegmentEntry
    dense: FlatStore
    sparse: CscStore
    multi: VectorStore
    documents: DocumentStore

    @classmethod
    def open(cls, folder: Path, entry: SegmentEntry, model: ModelIdentity) -> Segment:
        """All stores opened at once, so that they stay readable when the files are unlinked."""
        _check_kinds(folder, entry)
        _check_sizes(folder, entry.files)
        rows, stores = entry.rows, entry.stores
        sparse = stores["sparse"].kind
        return cls(
            folder,
            entry,
            open_dense(folder, rows, model, stores["dense"]),
            CscStore(folder, rows, model.vocabulary, BY_KIND[sparse], older=sparse in OLDER),
            open_multi(folder, rows, model, stores["multi"]),
            DocumentStore(folder, rows, stores["documents"].kind),
        )

    def retrieve(
        self,
        mode: Mode,
        queries: Encoded,
        k: int,
        allowed: BoolArray | None,
        *,
        exact: bool = False,
    ) -> Hits:
        """The k best allowed rows of each query in one mode; exact: without shortcuts."""
        if mode == "dense":
            return self.dense.retrieve(queries.dense, k, allowed, exact=exact)
        if mode == "sparse":
            return self.sparse.retrieve(queries.sparse, k, allowed)
        return self.multi.retrieve(queries.multi, k, allowed, exact=exact)

    def scores(self, mode: Mode, query: Encoded, rows: IntArray) -> FloatArray:
        """The exact score of the given rows for one query."""
        if mode == "dense":
            return self.dense.scores(query.dense[0], rows)
        if mode == "sparse":
            return self.sparse.scores(query.sparse, rows)
        return self.multi.scores(query.multi[0], rows)

    def verify(self) -> list[str]:
        """What contradicts itself in the stores, as 'file: what'; empty if nothing does."""
        damages = []
        stores = {
            "dense": len(self.dense),
            "sparse": len(self.sparse),
            "multi": len(self.multi),
            "documents": len(self.documents),
        }
        for name, rows in stores.items():
            if rows != self.entry.rows:
                damages.append(f"{self.folder}: {rows} rows in {name}, not {self.entry.rows}")
        for store in (self.sparse, self.multi, self.documents):
            damages += [f"{self.folder}: {damage}" for damage in store.verify()]
        return damages


def _check_kinds(folder: Path, entry: SegmentEntry) -> None:
    for name, kinds in KINDS.items():
        store = entry.stores.get(name)
        if store is None or store.kind not in kinds:
            raise ArtifactError(
                str(folder),
                expected=f"a {name} store of kind {' or '.join(kinds)}",
                found="none" if store is None else f"kind {store.kind!r}",
                remedy="Update m3search to read it, or build the index anew.",
            )


def _check_sizes(folder: Path, files: Iterable[FileEntry]) -> None:
    for file in files:
        size = (folder / file.name).stat().st_size
        if size != file.size:
            raise damaged(folder / file.name, f"{file.size} bytes", f"{size} bytes")


def file_damages(folder: Path, files: Iterable[FileEntry], *, read: bool = True) -> Iterator[str]:
    """What of the files is missing or of another size or, if they are read, of another content."""
    for file in files:
        damage = _file_damage(folder / file.name, file, read)
        if damage is not None:
            yield f"{folder / file.name}: {damage}"


def _file_damage(path: Path, file: FileEntry, read: bool) -> str | None:
    try:  # a writer may remove the file at any moment
        size = path.stat().st_size
        if size != file.size:
            return f"{size} bytes instead of {file.size}"
        if read and checksum(path) != file.sha256:
            return "the content differs from its checksum"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return error.strerror or str(error)
    return None


def merge_segments(
    folder: Path,
    parts: Sequence[tuple[Segment, BoolArray]],
    model: ModelIdentity,
    layout: Layout,
    progress: Callable[[int], None] | None = None,
) -> SegmentEntry:
    """Writes the live rows of all parts, in their order, as one segment.

    Bytes are copied, never decoded, so every score stays what it was. Memory is bounded but for the
    codes of a large segment's clusters, a byte for each dimension of each row. Which
    rows were cut is not kept, so `truncated` is an upper bound where deleted rows are left out.
    ArtifactError where a file of a part is not as it was written: its damage would be sealed anew,
    and found by nobody.
    """
    for segment, _ in parts:
        for damage in file_damages(segment.folder, segment.entry.files):
            place, _, found = damage.partition(": ")
            raise damaged(Path(place), "the content that was written", found)
    with naming(folder):
        folder.mkdir(parents=True)
    vectors = FlatWriter(folder, model.dim, find_floats(layout.dense_codec))
    records = DocumentWriter(folder, passages=layout.chunk > 0)
    blobs = VectorWriter(folder, find_codec(layout.multi_codec))
    rows = sum(int(live.sum()) for _, live in parts)
    try:
        for segment, live in parts:
            for chosen, encoded in _portions(segment, live):
                vectors.append(segment.dense.vectors(chosen))
                blobs.append_blobs(encoded)
                forget(segment.dense.matrix)
                segment.multi.forget()
                if progress is not None:
                    progress(len(chosen))
            for each, passages in segment.documents.portions(live):
                records.append(each, passages)
        postings = [(segment.sparse, live) for segment, live in parts]
        impacts = find_impacts(layout.sparse_codec)
        lists = merge_postings(postings, folder, impacts)
        stores = {
            "dense": dense_written(vectors),
            "sparse": Written(impacts.kind, lists),
            "multi": Written(layout.multi_codec, blobs.finish()),
            "documents": records.finish(),
        }
        add_shortcuts(folder, rows, model, stores)
        truncated = min(rows, sum(segment.entry.truncated for segment, _ in parts))
        return seal(folder, rows, truncated, stores)
    finally:
        for writer in (vectors, blobs, records):
            writer.close()


def _portions(segment: Segment, live: BoolArray) -> Iterator[tuple[list[int], list[bytes]]]:
    """The live rows and the bytes of their token vectors, a bounded number of both at a time."""
    rows = np.flatnonzero(live).tolist()
    chosen: list[int] = []
    blobs: list[bytes] = []
    size = 0
    for row, blob in zip(rows, segment.multi.blobs(rows), strict=True):
        if chosen and (len(chosen) == ROWS_AT_ONCE or size + len(blob) > BYTES_AT_ONCE):
            yield chosen, blobs
            chosen, blobs, size = [], [], 0
        chosen.append(row)
        blobs.append(blob)
        size += len(blob)
    if chosen:
        yield chosen, blobs
