"""Writes the documents of one segment into a SQLite file."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from m3search.stores.documents import FILE, KINDS, Record
from m3search.stores.fields import write_fields
from m3search.stores.passages import PassageWriter, Spans
from m3search.stores.sealing import Written

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


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """SQLite's errors while writing as an OSError that names the file."""
    try:
        yield
    except sqlite3.OperationalError as error:
        full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from error


class DocumentWriter:
    """Appends the documents of one segment."""

    def __init__(self, folder: Path, *, passages: bool = False) -> None:
        self.path = folder / FILE
        self._documents = 0
        self._passages = PassageWriter(folder) if passages else None
        with _naming(self.path):
            self._connection = sqlite3.connect(self.path, isolation_level=None)
            # the file counts only once it is complete, so a journal would guard nothing
            for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):
                self._connection.execute(f"PRAGMA {pragma}").fetchall()
            self._connection.execute("BEGIN")
            self._connection.execute(_SCHEMA)

    def append(self, records: Sequence[Record], passages: Sequence[Spans] | None = None) -> None:
        """Adds documents whose ids are new to the segment, with the passages of each."""
        rows: Sequence[int] = range(self._documents, self._documents + len(records))
        if self._passages is not None:
            if passages is None:
                raise ValueError("documents without their passages")
            rows = [self._passages.append(spans) for spans in passages]
        lines = ((row, *record) for row, record in zip(rows, records, strict=True))
        with _naming(self.path):
            self._connection.executemany("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", lines)
        self._documents += len(records)

    def finish(self) -> Written:
        """The files, complete."""
        with _naming(self.path):
            write_fields(self._connection)
            self._connection.execute("COMMIT")
            self._connection.close()
        if self._passages is None:
            return Written(KINDS[0], [self.path])
        files = [self.path, self._passages.finish()]
        return Written(KINDS[1], files, {"documents": self._documents})

    def close(self) -> None:
        """Lets go of the files."""
        self._connection.close()
        if self._passages is not None:
            self._passages.close()
