"""The document store: ids, titles, texts and metadata of one segment in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from m3search.errors import ArtifactError, ConfigError
from m3search.records import NO_METADATA, BoolArray, Document, IntArray
from m3search.stores.fields import matching_rows, unsorted_fields
from m3search.stores.files import check_readable, damaged
from m3search.stores.filter import Condition, Filter, check_text
from m3search.stores.passages import Passages, Spans

KINDS = ("sqlite", "sqlite-passages")
"""a row is a document, or a passage of one"""
FILE = "documents.sqlite"
ASKED_AT_ONCE = 500
READ_AT_ONCE = 4096
FILTERS_KEPT = 64
FILTER_BYTES = 1 << 22
"""of the answers to filters that a store keeps: three for ten million rows"""

T = TypeVar("T")


class Record(NamedTuple):
    """A document as it is stored, its metadata as JSON."""

    id: str
    title: str
    metadata: str
    text: str

    @classmethod
    def of(cls, document: Document) -> Record:
        """The record of a document; ConfigError where it cannot be stored as JSON and UTF-8."""
        try:
            metadata = json.dumps(dict(document.metadata), ensure_ascii=False, allow_nan=False)
            record = cls(document.id, document.title, metadata, document.text)
            for value in record:
                value.encode("utf-8")
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"document {document.id!r}",
                expected="an id, a title and a text, and metadata that JSON can hold",
                found=str(error),
                remedy="Convert the document before it is indexed.",
            ) from error
        return record

    def to_document(self) -> Document:
        """The document, as it was given."""
        metadata = NO_METADATA if self.metadata == "{}" else json.loads(self.metadata)
        return Document(self.id, self.text, self.title, metadata)


class DocumentStore:
    """The documents of one segment. Any number of threads may read."""

    def __init__(self, folder: Path, rows: int, kind: str = KINDS[0]) -> None:
        self._path = folder / FILE
        self._rows = rows
        self._passages = Passages(folder, rows) if kind == KINDS[1] else None
        self._lock = threading.Lock()
        self._matches: dict[Filter, npt.NDArray[np.uint8]] = {}
        check_readable(self._path)
        with self._reading():
            self._connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=ro&immutable=1",
                uri=True,
                check_same_thread=False,
            )
            weakref.finalize(self, self._connection.close)
            last = self._connection.execute("SELECT max(row) FROM documents").fetchone()[0]
            self._scanned = unsorted_fields(self._connection)
        end = int(self.heads(np.array([rows - 1]))[0]) if rows else None
        if last != end:
            raise damaged(self._path, f"{rows} documents or passages", f"{last} as the last row")

    def __len__(self) -> int:
        return self._rows

    @property
    def is_head(self) -> BoolArray:
        """(rows,) which rows stand for a document."""
        if self._passages is None:
            return np.ones(self._rows, dtype=bool)
        return self._passages.is_head

    def heads(self, rows: IntArray) -> IntArray:
        """The row (n,) that stands for the document of each."""
        return rows if self._passages is None else self._passages.heads[rows]

    def spans(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Characters [start, end) of the document's text, of each row that is a passage."""
        if self._passages is None:
            return [(0, len(record.text)) for record in self.records(rows)]
        return [(int(start), int(end)) for start, end in self._passages.spans[rows]]

    def rows_beside(self, rows: IntArray) -> IntArray:
        """All rows of the documents that the rows (n,) belong to."""
        return rows if self._passages is None else self._passages.of(rows)

    def count(self, rows: BoolArray) -> int | None:
        """Of how many documents the rows (rows,) are, where a row is a passage."""
        return None if self._passages is None else int((rows & self._passages.is_head).sum())

    def portions(self, live: BoolArray) -> Iterator[tuple[list[Record], list[Spans] | None]]:
        """The documents of the live rows (rows,) and their passages, few at a time."""
        heads = np.flatnonzero(live & self.is_head)
        for start in range(0, len(heads), ASKED_AT_ONCE):
            part = heads[start : start + ASKED_AT_ONCE]
            passages: list[Spans] | None = None
            if self._passages is not None:
                passages = [self._passages.of_document(head) for head in part.tolist()]
            yield self.records(part.tolist()), passages

    def records(self, rows: Sequence[int]) -> list[Record]:
        """The records of the rows' documents, in the order asked."""
        rows = self._heads(rows)
        found: dict[int, Record] = {}
        for part in _parts(rows):
            lines = self._lookup("row, id, title, metadata, text", "row", part)
            found.update((line[0], Record(*self._strings(line[1:]))) for line in lines)
        return self._ordered(rows, found)

    def documents(self, rows: Sequence[int]) -> list[Document]:
        """The documents of the rows, in the order asked."""
        documents: list[Document] = []
        for row, record in zip(rows, self.records(rows), strict=True):
            try:
                documents.append(record.to_document())
            except ValueError as error:
                raise damaged(self._path, f"metadata of row {row} in JSON", str(error)) from error
        return documents

    def ids(self, rows: Sequence[int]) -> list[str]:
        """The ids of the rows' documents, in the order asked."""
        rows = self._heads(rows)
        found: dict[int, str] = {}
        for part in _parts(rows):
            lines = self._lookup("row, id", "row", part)
            found.update((line[0], *self._strings(line[1:])) for line in lines)
        return self._ordered(rows, found)

    def each_id(self, rows: IntArray) -> Iterator[str]:
        """The ids of the rows (n,), one after the other, few of them in memory."""
        for start in range(0, len(rows), READ_AT_ONCE):
            yield from self.ids(rows[start : start + READ_AT_ONCE].tolist())

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """The rows of those ids that the segment holds; ConfigError for an id that none can be."""
        found: dict[str, int] = {}
        for part in _parts(ids):
            for name in part:
                check_text(name, f"id {name!r}")
            found.update(self._lookup("id, row", "id", part))
        self._check_rows(list(found.values()))
        return found

    def select(self, conditions: Filter) -> BoolArray:
        """Which rows match, (rows,); a filter asked again is answered from memory."""
        bits = self._matches.get(conditions)
        if bits is None:
            bits = np.packbits(self._select(conditions), bitorder="little")
            self._keep(conditions, bits)
        return np.unpackbits(bits, count=self._rows, bitorder="little").astype(bool)

    def verify(self) -> list[str]:
        """What contradicts itself in the store; empty if nothing does."""
        try:
            ((count,),) = self._query("SELECT count(*) FROM documents")
            ((state,),) = self._query("PRAGMA quick_check(1)")
        except ArtifactError as error:
            return [error.found]
        wanted = int(self.is_head.sum())
        damages = [] if count == wanted else [f"{count} documents instead of {wanted}"]
        return damages if state == "ok" else [*damages, str(state)]

    def _select(self, conditions: Filter) -> BoolArray:
        matches = np.ones(self._rows, dtype=bool)
        for condition in conditions.conditions:
            if (opposite := condition.opposite) is not None:
                matches &= ~self._meeting(opposite)
            else:
                matches &= self._meeting(condition)
        return matches if self._passages is None else matches[self._passages.heads]

    def _meeting(self, condition: Condition) -> BoolArray:
        """Which rows meet one condition: by the table of fields, where it has the field."""
        if self._scanned is None or condition.field in self._scanned:
            where, values = condition.sql()
            sql = f"SELECT row FROM documents WHERE {where}"
        else:
            sql, values = matching_rows(condition)
        matches = np.zeros(self._rows, dtype=bool)
        for block in self._blocks(sql, values):
            try:
                rows = np.fromiter((row for (row,) in block), dtype=np.int64, count=len(block))
            except (TypeError, ValueError) as error:
                raise damaged(self._path, "the numbers of rows", str(error)) from error
            self._check_rows(rows)
            matches[rows] = True
        return matches

    def _keep(self, conditions: Filter, bits: npt.NDArray[np.uint8]) -> None:
        """Keeps an answer, and lets go of the oldest that are too many or too large."""
        with self._lock:
            self._matches[conditions] = bits
            size = sum(kept.nbytes + asked.size for asked, kept in self._matches.items())
            while size > FILTER_BYTES or len(self._matches) > FILTERS_KEPT:
                oldest = next(iter(self._matches))
                size -= self._matches.pop(oldest).nbytes + oldest.size

    def _heads(self, rows: Sequence[int]) -> Sequence[int]:
        if self._passages is None:
            return rows
        found: list[int] = self._passages.heads[list(rows)].tolist()
        return found

    def _lookup(self, columns: str, key: str, values: Sequence[Any]) -> list[Any]:
        marks = ", ".join("?" * len(values))
        return self._query(f"SELECT {columns} FROM documents WHERE {key} IN ({marks})", values)

    def _query(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        return [line for block in self._blocks(sql, values) for line in block]

    def _blocks(self, sql: str, values: Sequence[Any]) -> Iterator[list[Any]]:
        """The lines of an answer, some at a time; in between, other threads can ask."""
        with self._lock, self._reading():  # one connection, used by one thread at a time
            cursor = self._connection.execute(sql, values)
        while True:
            with self._lock, self._reading():
                block = cursor.fetchmany(READ_AT_ONCE)
            if not block:
                return
            yield block

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What SQLite cannot read is damage."""
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise damaged(self._path, "a SQLite file of documents", str(error)) from error

    def _ordered(self, rows: Sequence[int], found: dict[int, T]) -> list[T]:
        for row in rows:
            if row not in found:
                raise damaged(self._path, f"row {row}", "none")
        return [found[row] for row in rows]

    def _strings(self, values: Sequence[Any]) -> Sequence[str]:
        for value in values:
            if type(value) is not str:
                raise damaged(self._path, "text in every column", type(value).__name__)
        return values

    def _check_rows(self, rows: npt.ArrayLike) -> None:
        numbers = np.asarray(rows, dtype=np.int64)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < self._rows):
            found = f"{numbers.min()} to {numbers.max()}"
            raise damaged(self._path, f"rows from 0 to {self._rows - 1}", found)


def _parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """The values, as many at a time as one statement takes."""
    return (values[i : i + ASKED_AT_ONCE] for i in range(0, len(values), ASKED_AT_ONCE))
