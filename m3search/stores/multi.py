"""The multi-vector store: one LMDB file per segment, row -> token vectors, scanned by MaxSim."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import lmdb
import numpy as np

from m3search.errors import ArtifactError
from m3search.fusion import top_k
from m3search.records import BoolArray, FloatArray, Hits, IntArray
from m3search.stores.centroids import Tokens
from m3search.stores.codecs import Codec, decode_together, decode_vectors, read_blob
from m3search.stores.files import FORGOTTEN, check_readable, damaged, forget_around
from m3search.stores.late_interaction import Arranged, score_texts
from m3search.stores.threads import thread_count, workers
from m3search.stores.token_lists import TokenLists

FILE = "multi.lmdb"
KEY = struct.Struct(">Q")
"""the row; big-endian, so that LMDB's byte order is the order of rows"""
VECTORS_AT_ONCE = 1 << 14
QUERY_VECTORS_AT_ONCE = 512
SCORES_AT_ONCE = 1 << 26
BYTES_AT_ONCE = 1 << 24
"""of stored texts that are scored together"""
BYTES_OF_A_THREAD = 1 << 20
"""times queries: with less to do a thread takes longer to begin than to work"""
SCORED, SCORED_OF_EACH = 512, 4
"""rows that are scored of what the token lists find: so many, or so many times k"""
SCANNED = 4
"""times as many allowed rows are scored sooner than the lists are gone through for them"""


class _Environment:
    """An open LMDB file; a process may open a file only once, so all its readers share it."""

    def __init__(self, path: Path) -> None:
        self.lmdb = lmdb.open(str(path), subdir=False, readonly=True, lock=False, create=False)


_opening = threading.Lock()
_environments: WeakValueDictionary[tuple[int, int], _Environment] = WeakValueDictionary()


def _open_environment(path: Path) -> _Environment:
    with _opening:
        status = path.stat()
        key = (status.st_dev, status.st_ino)
        environment = _environments.get(key)
        if environment is None:
            environment = _Environment(path)
            _environments[key] = environment
        return environment


class _Block(NamedTuple):
    """Neighbouring rows and their vectors, one after the other."""

    rows: IntArray
    vectors: FloatArray
    offsets: IntArray


class VectorStore:
    """The token vectors of one segment. Any number of threads may read."""

    def __init__(
        self, folder: Path, rows: int, dim: int, codec: Codec, lists: TokenLists | None = None
    ) -> None:
        """With lists, `retrieve` is approximate where it would read many rows."""
        self._path = folder / FILE
        self._rows = rows
        self._dim = dim
        self._codec = codec
        self._lists = lists
        check_readable(self._path)
        self._large = self._path.stat().st_size >= FORGOTTEN
        try:
            self._environment = _open_environment(self._path)
            entries = int(self._environment.lmdb.stat()["entries"])
        except lmdb.Error as error:
            raise damaged(self._path, "an LMDB file", str(error)) from error
        if entries != rows:
            raise damaged(self._path, f"{rows} entries", str(entries))

    def __len__(self) -> int:
        return self._rows

    def blobs(self, rows: Iterable[int]) -> Iterator[bytes]:
        """The stored bytes of each row, in the order asked."""
        with self._environment.lmdb.begin(buffers=False) as transaction:
            for row in rows:
                try:
                    blob = self._check(transaction.get(KEY.pack(row)))
                except (lmdb.Error, ValueError) as error:
                    raise self._damaged(row, error) from error
                yield blob

    def _damaged(self, row: int, error: Exception) -> ArtifactError:
        return damaged(self._path, f"vectors of row {row}", str(error))

    def vectors(self, row: int) -> FloatArray:
        """The stored vectors (n, dim) float32 of one row."""
        return decode_vectors(next(self.blobs([row])))

    def scores(self, query: FloatArray, rows: IntArray) -> FloatArray:
        """The exact score (n,) of the given rows for one query (m, dim).

        A score has the same bits whatever is scored beside it.
        """
        scores: FloatArray = self._score([query], rows)[0]
        return scores

    def count(self) -> int:
        """Vectors of all rows."""
        total = 0
        for start in range(0, self._rows, VECTORS_AT_ONCE):
            rows = range(start, min(start + VECTORS_AT_ONCE, self._rows))
            total += sum(read_blob(blob).vectors for blob in self.blobs(rows))
            self.forget()
        return total

    def tokens(self) -> Iterator[Tokens]:
        """All vectors as they are stored, in the order of rows, some rows in memory at a time."""
        for block in self._blocks(np.arange(self._rows), VECTORS_AT_ONCE):
            yield Tokens(np.repeat(block.rows, np.diff(block.offsets)), block.vectors)
            self.forget()

    def forget(self) -> None:
        """Lets go of what this process holds in memory of the file."""
        if not self._large:
            return
        with self._environment.lmdb.begin(buffers=True) as transaction:
            blob = transaction.get(KEY.pack(0))
            if blob is not None:
                forget_around(blob)

    def retrieve(
        self,
        queries: Sequence[FloatArray],
        k: int,
        allowed: BoolArray | None = None,
        *,
        exact: bool = False,
    ) -> Hits:
        """The k best allowed rows of each query (m_i, dim), each with its exact score.

        Where the segment has token lists, those that its lists take for the best are scored, and a
        few may be missed, unless `exact`, or few rows are allowed. Else all of them are scored.
        """
        count = self._rows if allowed is None else int(np.count_nonzero(allowed))
        wanted = max(SCORED, SCORED_OF_EACH * k)
        few = wanted if 2 * count > self._rows else SCANNED * wanted
        if self._lists is not None and not exact and count > few:
            lines = []
            for query in queries:
                near = self._lists.find(self._codec.prepare(query), wanted, allowed)
                if len(near) < k:  # rows without a token have a score, too
                    scanned = self._scan_all([query], k, allowed)
                    lines.append((scanned.rows[0], scanned.scores[0]))
                else:
                    lines.append(top_k(near, self.scores(query, near), k))
            return Hits.stack(lines, k)
        return self._scan_all(queries, k, allowed)

    def _scan_all(self, queries: Sequence[FloatArray], k: int, allowed: BoolArray | None) -> Hits:
        rows = np.arange(self._rows) if allowed is None else np.flatnonzero(allowed)
        lines = []
        for group in self._groups(queries):
            lines += [top_k(rows, scores, k) for scores in self._score(group, rows)]
        return Hits.stack(lines, k)

    def verify(self) -> list[str]:
        """What contradicts itself in the store; empty if nothing does."""
        damages: list[str] = []
        try:
            with self._environment.lmdb.begin(buffers=True) as transaction:
                for row, (key, blob) in enumerate(transaction.cursor()):
                    if bytes(key) != KEY.pack(row):
                        return [*damages, f"row {row} missing"]
                    try:
                        self._check(bytes(blob))
                    except ValueError as error:
                        damages.append(f"row {row}: {error}")
        except lmdb.Error as error:
            damages.append(str(error))
        return damages

    def _check(self, blob: bytes | None) -> bytes:
        """The blob; ValueError unless it is a whole one of vectors of the store's dimensions."""
        if blob is None:
            raise ValueError("none")
        held = read_blob(blob)
        if (held.codec, held.dim) != (self._codec, self._dim):
            found = f"{held.codec.name} vectors of {held.dim} dimensions"
            raise ValueError(f"{found} instead of {self._codec.name} of {self._dim}")
        return blob

    def _groups(self, queries: Sequence[FloatArray]) -> Iterator[list[FloatArray]]:
        """Queries that are scanned for together: bounded by their vectors and by their scores."""
        group: list[FloatArray] = []
        total = 0
        most = max(1, SCORES_AT_ONCE // max(1, self._rows))
        for query in queries:
            if group and (total + len(query) > QUERY_VECTORS_AT_ONCE or len(group) == most):
                yield group
                group, total = [], 0
            group.append(query)
            total += len(query)
        if group:
            yield group

    def _score(self, queries: Sequence[FloatArray], rows: IntArray) -> FloatArray:
        """MaxSim (queries, rows) in float32; 0 where a side has no vectors."""
        prepared = [self._codec.prepare(query) for query in queries]
        arranged = Arranged.of(prepared, self._codec.stored(self._dim))
        scores = np.empty((len(queries), len(rows)), dtype=np.float32)
        done = 0
        for blobs in self._portions(rows):
            part = np.empty((len(queries), len(blobs)), dtype=np.float32)
            wrong = self._score_blobs(arranged, blobs, part)
            if wrong >= 0:
                row = int(rows[done + wrong])
                list(self.blobs([row]))  # says what is wrong with it
                raise self._damaged(row, ValueError("something else"))
            scores[:, done : done + len(blobs)] = part
            done += len(blobs)
        return scores

    def _score_blobs(self, queries: Arranged, blobs: Sequence[bytes], scores: FloatArray) -> int:
        """Writes the scores (queries, blobs); the first blob that contradicts itself, else -1."""
        content = np.frombuffer(b"".join(blobs), dtype=np.uint8)
        ends = np.concatenate([[0], np.cumsum([len(blob) for blob in blobs])]).astype(np.int64)
        stored = self._codec.stored(self._dim)
        work = len(content) * (len(queries.starts) - 1)
        threads = min(thread_count(), 1 + work // BYTES_OF_A_THREAD)
        cuts = np.searchsorted(ends, np.linspace(0, len(content), threads + 1)).tolist()
        spans = [*pairwise([0, *cuts[1:-1], len(blobs)])]

        def score(span: tuple[int, int]) -> int:
            found: int = score_texts(content, ends, *span, stored, queries, scores)
            return found

        found = [*map(score, spans)] if threads == 1 else [*workers().map(score, spans)]
        return next((number for number in found if number >= 0), -1)

    def _portions(self, rows: IntArray) -> Iterator[list[bytes]]:
        """What is stored of the rows, unchecked: about BYTES_AT_ONCE at a time."""
        pending: list[bytes] = []
        size = 0
        with self._environment.lmdb.begin(buffers=False) as transaction:
            for row in rows.tolist():
                try:
                    blob = transaction.get(KEY.pack(row))
                except lmdb.Error as error:
                    raise self._damaged(row, error) from error
                pending.append(blob or b"")
                size += len(pending[-1])
                if size >= BYTES_AT_ONCE:
                    yield pending
                    pending, size = [], 0
        if pending:
            yield pending

    def _blocks(self, rows: IntArray, at_once: int) -> Iterator[_Block]:
        """The vectors of the rows, about `at_once` of them at a time, and at least one row."""
        pending: list[bytes] = []
        total = first = 0
        for place, blob in enumerate(self.blobs(rows.tolist())):
            count = read_blob(blob).vectors
            if pending and total + count > at_once:
                yield _Block(rows[first:place], *decode_together(pending))
                pending, total, first = [], 0, place
            pending.append(blob)
            total += count
        if pending:
            yield _Block(rows[first:], *decode_together(pending))
