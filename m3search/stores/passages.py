"""Where the passages of documents are, in a segment whose rows are passages.

The rows of a document follow each other; the first of them is its head, and stands for it. An
array of three integers a row says which the head is and from where to where the passage goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from m3search.errors import ConfigError
from m3search.records import BoolArray, IntArray
from m3search.stores.files import ArrayWriter, damaged, map_array

FILE = "documents.passages.npy"
Spans = Sequence[tuple[int, int]]
"""characters [start, end) of a document's text, for each of its passages"""


def check_chunk(chunk: int, chunk_overlap: int, max_length: int) -> None:
    """ConfigError where documents cannot be cut so; 0 tokens cut none.

    max_length: tokens that the model reads, of which two are special.
    """
    for name, value, most, why in (
        ("chunk", chunk, max_length - 2, "which the model reads"),
        ("chunk overlap", chunk_overlap, max(0, (chunk - 1) // 2), "less than half of a passage"),
    ):
        if not isinstance(value, int) or not 0 <= value <= most:
            raise ConfigError(
                name,
                expected=f"a whole number of tokens from 0 to {most}, {why}",
                found=repr(value),
                remedy="For example --chunk 256:32, or --chunk 0 for whole documents.",
            )


class PassageWriter:
    """Writes the array, a document at a time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.rows = 0
        self._file = ArrayWriter(self.path, "<i8")

    def append(self, spans: Spans) -> int:
        """Adds the passages of the next document; the row of its head."""
        head = self.rows
        lines = np.full((len(spans), 3), head, dtype=np.int64)
        lines[:, 1:] = spans
        self._file.append(lines.reshape(-1))
        self.rows += len(spans)
        return head

    def finish(self) -> Path:
        """The file, complete."""
        with self._file:
            return self.path

    def close(self) -> None:
        """Lets go of a file that will not be finished."""
        self._file.close()


class Passages:
    """The passages of one segment."""

    def __init__(self, folder: Path, rows: int) -> None:
        flat = map_array(folder / FILE, "<i8", 3 * rows)
        table = flat.reshape(rows, 3)
        self.heads: IntArray = np.array(table[:, 0])
        """(rows,) the head of each row's document"""
        self.spans: IntArray = table[:, 1:]
        """(rows, 2) characters [start, end) of the document's text"""
        every = np.arange(rows)
        sound = (self.heads <= every) & (np.diff(self.heads, prepend=0) >= 0)
        if not (sound.all() and (self.heads[self.heads.clip(0)] == self.heads).all()):
            raise damaged(folder / FILE, "heads before their passages", "others")

    @property
    def is_head(self) -> BoolArray:
        """(rows,) which rows are the first of a document."""
        found: BoolArray = self.heads == np.arange(len(self.heads))
        return found

    def of_document(self, head: int) -> Spans:
        """The passages of the document at a head."""
        end = int(np.searchsorted(self.heads, head, side="right"))
        return [(int(start), int(stop)) for start, stop in self.spans[head:end]]

    def of(self, rows: IntArray) -> IntArray:
        """All rows of the documents that the rows belong to, ascending."""
        wanted = np.zeros(len(self.heads), dtype=bool)
        wanted[self.heads[rows]] = True
        return np.flatnonzero(wanted[self.heads])
