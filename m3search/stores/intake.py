"""Documents on their way into an index: chunks, ids met twice, what is there already, a report.

Knows an encoder only as a `DocumentEncoder`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from m3search.corpus import document_text
from m3search.corpus.seen_ids import SeenIds
from m3search.errors import ConfigError
from m3search.records import Document, Encoded, Kind, ModelIdentity
from m3search.stores.documents import Record
from m3search.stores.passages import Spans
from m3search.stores.snapshot import Snapshot
from m3search.stores.writer import IndexWriter

SEGMENT_BYTES = 1 << 29
CHUNK_DOCUMENTS = 512
CHUNK_BYTES = 1 << 30
"""of float32 token vectors that the encoder returns at a time, as estimated from the characters"""
TOKEN_CHARACTERS = 4
"""characters of a token in most scripts; where tokens are shorter, a chunk is that much larger"""

Progress = Callable[[int], None]


class DocumentEncoder(Protocol):
    """What an index asks of an encoder."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model, and how it is used."""

    def encode(self, texts: Sequence[str], kind: Kind = "document") -> Encoded:
        """All texts, in their order."""

    def passages(self, text: str, tokens: int, overlap: int = 0) -> Spans:
        """Characters [start, end) of passages of at most so many tokens; asked by an index that
        cuts its documents."""


@dataclass
class BuildReport:
    """What a build or an add did."""

    documents: int = 0
    """encoded and written"""
    replaced: int = 0
    """of them, those whose id the index held already"""
    unchanged: int = 0
    """found in the index as they are, by a build that goes on; not encoded"""
    deleted: int = 0
    """held by the index of an interrupted build, but no longer by the corpus"""
    truncated: int = 0
    """longer than the encoder's maximum length, and cut; of a build that went on, all of them"""
    segments: int = 0
    """of the index"""
    seconds: float = 0.0


@dataclass
class Intake:
    """Documents on their way from a corpus into a writer, a chunk at a time."""

    writer: IndexWriter
    encoder: DocumentEncoder
    segment_documents: int
    building: bool
    source: str = ""
    report: BuildReport = field(default_factory=BuildReport)
    seen: SeenIds = field(default_factory=SeenIds)

    def __post_init__(self) -> None:
        if self.segment_documents < 1:
            raise ConfigError(
                "segment_documents",
                expected="a whole number from 1 up",
                found=str(self.segment_documents),
                remedy="Raise it.",
            )
        self.kept = np.zeros(self.writer.base.rows, dtype=bool)

    def take(self, documents: Iterable[Document], progress: Progress | None) -> None:
        """Writes all documents; a build commits at the end of every segment."""
        most = min(CHUNK_DOCUMENTS, self.segment_documents)
        model = self.writer.manifest.model
        characters = TOKEN_CHARACTERS * (CHUNK_BYTES // (4 * model.multi_dim))
        layout = self.writer.manifest.layout
        longest = sys.maxsize if layout.chunk else TOKEN_CHARACTERS * model.max_length
        for chunk in _chunks(self._checked(documents), most, characters, longest):
            self._take_chunk(chunk)
            full = self.writer.pending_rows >= self.segment_documents
            if full or self.writer.pending_bytes >= SEGMENT_BYTES:
                if self.building:
                    self.writer.commit(complete=False, source=self.source)
                else:
                    self.writer.flush()
            if progress is not None:
                progress(len(chunk))

    def drop_unseen(self) -> None:
        """Deletes what an interrupted build committed and this one did not meet."""
        live = np.concatenate([np.zeros(0, dtype=bool), *self.writer.base.live])
        rows = np.flatnonzero(live & self.writer.base.is_head & ~self.kept)
        self.report.deleted = len(rows)
        self.writer.remove(rows)

    def finished(self, snapshot: Snapshot, started: float) -> BuildReport:
        """The report, with what is known at the end."""
        seconds = time.monotonic() - started
        truncated = snapshot.manifest.truncated if self.building else self.report.truncated
        segments = len(snapshot.segments)
        return replace(self.report, truncated=truncated, segments=segments, seconds=seconds)

    def _checked(self, documents: Iterable[Document]) -> Iterator[tuple[Document, Record]]:
        """The documents and their records; ConfigError where one cannot be stored."""
        for document in documents:
            record = Record.of(document)
            if self.seen.add(record.id, 1):
                raise _repeated(record.id)
            yield document, record

    def _take_chunk(self, chunk: Sequence[tuple[Document, Record]]) -> None:
        records = [record for _, record in chunk]
        rows = self.writer.base.rows_of([record.id for record in records])
        self.kept[rows[rows >= 0]] = True
        new = np.ones(len(chunk), dtype=bool)
        if self.building:
            held = np.flatnonzero(rows >= 0)
            stored = self.writer.base.records(rows[held])
            new[held] = [records[i] != old for i, old in zip(held, stored, strict=True)]
        chosen = np.flatnonzero(new).tolist()
        self.report.unchanged += len(chunk) - len(chosen)
        if not chosen:
            return
        documents = [chunk[i][0] for i in chosen]
        passages = self._cut(documents)
        encoded = self.encoder.encode(self._texts(documents, passages))
        replaced = rows[chosen][rows[chosen] >= 0]
        self.writer.append([records[i] for i in chosen], encoded, replaced, passages)
        self.report.documents += len(chosen)
        self.report.replaced += len(replaced)
        self.report.truncated += int(encoded.truncated.sum())

    def _cut(self, documents: Sequence[Document]) -> list[Spans] | None:
        """The passages of each document, where the index has some."""
        layout = self.writer.manifest.layout
        if not layout.chunk:
            return None
        return [
            self.encoder.passages(document.text, layout.chunk, layout.chunk_overlap)
            for document in documents
        ]

    def _texts(self, documents: Sequence[Document], passages: list[Spans] | None) -> list[str]:
        """What is encoded: each document, or each of its passages with the title of all."""
        template = self.writer.manifest.title_template
        if passages is None:
            return [document_text(document, template) for document in documents]
        return [
            document_text(document._replace(text=document.text[start:end]), template)
            for document, spans in zip(documents, passages, strict=True)
            for start, end in spans
        ]


def _chunks(
    documents: Iterable[tuple[Document, Record]], most: int, characters: int, longest: int
) -> Iterator[list[tuple[Document, Record]]]:
    """Up to `most` documents at a time, and up to about so many characters.

    A document counts for `longest` characters at most, as the encoder cuts it.
    """
    chunk: list[tuple[Document, Record]] = []
    size = 0
    for document, record in documents:
        chunk.append((document, record))
        size += min(len(record.text) + len(record.title), longest)
        if len(chunk) == most or size >= characters:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _repeated(name: str) -> ConfigError:
    return ConfigError(
        f"document {name!r}",
        expected="an id of its own for every document",
        found="the id a second time in one call",
        remedy="Leave one of them out, or give it another id.",
    )
