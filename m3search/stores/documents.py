"""The document store: ids, titles, texts and metadata of one segment in one SQLite file."""

from __future__ import annotations

import errno
import json
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from m3search.errors import ConfigError
from m3search.records import NO_METADATA, BoolArray, Document
from m3search.stores.files import check_readable, damaged
from m3search.stores.filter import Filter

KIND = "sqlite"
FILE = "documents.sqlite"
ASKED_AT_ONCE = 500
FILTERS_KEPT = 64

# the text comes last: what stands before a long text is read without walking through it
_SCHEMA = """
    CREATE TABLE documents (
        row INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        title TEXT NOT NULL,
        metadata TEXT NOT NULL,
        text TEXT NOT NULL
    )
"""
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


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """SQLite's errors while writing as an OSError that names the file."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error


class DocumentWriter:
    """Appends the documents of one segment."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._rows = 0
        with _naming(self.path):
            self._connection = sqlite3.connect(self.path, isolation_level=None)
            # the file counts only once it is complete, so a journal would guard nothing
            for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
                self._connection.execute(f"PRAGMA {pragma}").fetchall()
            self._connection.execute("BEGIN")
            self._connection.execute(_SCHEMA)

    def append(self, records: Sequence[Record]) -> None:
        """Adds documents whose ids are new to the segment."""
        rows = ((row, *record) for row, record in enumerate(records, start=self._rows))
        with _naming(self.path):
            self._connection.executemany("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", rows)
        self._rows += len(records)

    def finish(self) -> list[Path]:
        """The files, complete."""
        with _naming(self.path):
            self._connection.execute("COMMIT")
        self.close()
        return [self.path]

    def close(self) -> None:
        """Lets go of the file."""
        self._connection.close()


class DocumentStore:
    """The documents of one segment. Any number of threads may read."""

    def __init__(self, folder: Path, rows: int) -> None:
        self._path = folder / FILE
        self._rows = rows
        self._lock = threading.Lock()
        self._matches: dict[Filter, BoolArray] = {}
        check_readable(self._path)
        try:
            self._connection = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=ro&immutable=1",
                uri=True,
                check_same_thread=False,
            )
            weakref.finalize(self, self._connection.close)
            last = self._connection.execute("SELECT max(row) FROM documents").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise damaged(self._path, "a SQLite file of documents", str(error)) from error
        if (last is None and rows) or (last is not None and last != rows - 1):
            raise damaged(self._path, f"{rows} documents", f"{last} as the last row")

    def __len__(self) -> int:
        return self._rows

    def records(self, rows: Sequence[int]) -> list[Record]:
        """The records of the rows, in the order asked."""
        found: dict[int, Record] = {}
        for part in _parts(rows):
            lines = self._lookup("row, id, title, metadata, text", "row", part)
            found.update((line[0], Record(*line[1:])) for line in lines)
        return [found[row] for row in rows]

    def ids(self, rows: Sequence[int]) -> list[str]:
        """The ids of the rows, in the order asked."""
        found: dict[int, str] = {}
        for part in _parts(rows):
            found.update(self._lookup("row, id", "row", part))
        return [found[row] for row in rows]

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """The rows of those ids that the segment holds."""
        found: dict[str, int] = {}
        for part in _parts(ids):
            found.update(self._lookup("id, row", "id", part))
        return found

    def select(self, conditions: Filter) -> BoolArray:
        """Which rows match, (rows,); a filter asked again is answered from memory."""
        known = self._matches.get(conditions)
        if known is not None:
            return known
        sql, values = conditions.sql()
        matches = np.zeros(self._rows, dtype=bool)
        found = self._query(f"SELECT row FROM documents WHERE {sql}", values)
        matches[[row for (row,) in found]] = True
        matches.setflags(write=False)
        with self._lock:
            while len(self._matches) >= FILTERS_KEPT:
                del self._matches[next(iter(self._matches))]
            self._matches[conditions] = matches
        return matches

    def verify(self) -> list[str]:
        """What contradicts itself in the store; empty if nothing does."""
        try:
            count = self._query("SELECT count(*) FROM documents", [])[0][0]
            state = self._query("PRAGMA quick_check(1)", [])[0][0]
        except sqlite3.DatabaseError as error:
            return [str(error)]
        damages = [] if count == self._rows else [f"{count} documents instead of {self._rows}"]
        return damages if state == "ok" else [*damages, str(state)]

    def _lookup(self, columns: str, key: str, values: Sequence[Any]) -> list[Any]:
        marks = ", ".join("?" * len(values))
        return self._query(f"SELECT {columns} FROM documents WHERE {key} IN ({marks})", values)

    def _query(self, sql: str, values: Sequence[Any]) -> list[Any]:
        with self._lock:  # one connection, used by one thread at a time
            return self._connection.execute(sql, values).fetchall()


def _parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """The values, as many at a time as one statement takes."""
    return (values[i : i + ASKED_AT_ONCE] for i in range(0, len(values), ASKED_AT_ONCE))
