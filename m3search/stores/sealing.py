"""The end of a segment's writing: shortcuts for large ones, checksums, tombstones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3search.records import BoolArray, ModelIdentity
from m3search.stores import clusters, token_lists
from m3search.stores.clusters import Clusters, write_clusters
from m3search.stores.codecs import find_codec
from m3search.stores.dense import FlatStore, FlatWriter
from m3search.stores.files import checksum, damaged, naming, sync
from m3search.stores.floats import BY_KIND as FLOATS
from m3search.stores.manifest import DeletesEntry, FileEntry, SegmentEntry, StoreEntry
from m3search.stores.multi import VectorStore
from m3search.stores.token_lists import TokenLists, write_token_lists


@dataclass
class Written:
    """The files of one store, complete."""

    kind: str
    files: list[Path]
    details: Mapping[str, Any] | None = None


def add_shortcuts(
    folder: Path, rows: int, model: ModelIdentity, stores: Mapping[str, Written]
) -> None:
    """Writes what makes a large segment fast, beside the dense and multi stores that it is of."""
    if rows >= clusters.LEAST_ROWS:
        written = stores["dense"]
        floats = FLOATS[written.kind]
        flat = FlatStore(folder, rows, model.dim, floats=floats)
        path, measured = write_clusters(folder, flat.matrix)
        written.files.append(path)
        written.details = {**(written.details or {}), **measured}
    if rows >= token_lists.LEAST_ROWS:
        multi = stores["multi"]
        store = VectorStore(folder, rows, model.multi_dim, find_codec(multi.kind))
        multi.files += write_token_lists(folder, store.tokens, store.count(), rows)


def dense_written(writer: FlatWriter) -> Written:
    """The dense store, complete, and how long its longest vector is."""
    return Written(writer.floats.kind, writer.finish(), {"longest": writer.longest})


def open_dense(folder: Path, rows: int, model: ModelIdentity, entry: StoreEntry) -> FlatStore:
    """The dense store, with its clusters where it has them."""
    found, details = None, entry.details or {}
    if any(file.name == clusters.FILE for file in entry.files):
        found = Clusters(folder, rows, model.dim, details)
    floats = FLOATS[entry.kind]
    return FlatStore(folder, rows, model.dim, found, details.get("longest"), floats)


def open_multi(folder: Path, rows: int, model: ModelIdentity, entry: StoreEntry) -> VectorStore:
    """The multi store, with its token lists where it has them."""
    codec, dim = find_codec(entry.kind), model.multi_dim
    found = None
    if any(file.name == token_lists.CENTROIDS for file in entry.files):
        found = TokenLists(folder, rows, codec.width(dim))
    return VectorStore(folder, rows, dim, codec, found)


def seal(folder: Path, rows: int, truncated: int, stores: Mapping[str, Written]) -> SegmentEntry:
    """The entry of a segment whose files are written; they are on disk when it returns."""
    entries = {
        name: StoreEntry(
            written.kind, tuple(describe(path) for path in written.files), written.details
        )
        for name, written in stores.items()
    }
    for place in (folder, folder.parent, folder.parent.parent):  # the first segment makes them
        sync(place)
    return SegmentEntry(folder.name, rows, truncated, entries)


def describe(path: Path) -> FileEntry:
    """Name, size and checksum of a file that is written; it is on disk when this returns."""
    sync(path)
    with naming(path):
        return FileEntry(path.name, path.stat().st_size, checksum(path))


def write_deletes(
    folder: Path, commit: int, deleted: BoolArray, documents: int | None = None
) -> DeletesEntry:
    """Writes the tombstones (rows,) of a segment: bit i % 8 of byte i // 8, lowest bit first.

    documents: how many they are, where rows are passages.
    """
    path = folder / f"deletes-{commit:08d}.bits"
    with naming(path):
        path.write_bytes(np.packbits(deleted, bitorder="little").tobytes())
    entry = DeletesEntry(describe(path), int(deleted.sum()), documents)
    sync(folder)
    return entry


def read_deletes(folder: Path, entry: SegmentEntry) -> BoolArray:
    """The tombstones (rows,) of a segment."""
    if entry.deletes is None:
        return np.zeros(entry.rows, dtype=bool)
    path = folder / entry.deletes.file.name
    bits = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    if len(bits) != (entry.rows + 7) // 8:
        raise damaged(path, f"bits of {entry.rows} rows", f"{len(bits)} bytes")
    return np.unpackbits(bits, count=entry.rows, bitorder="little").astype(bool)
