"""The multi-vector store: one LMDB file per segment, row -> token vectors, scanned by MaxSim."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import lmdb
import numpy as np

from m3search.fusion import top_k
from m3search.records import BoolArray, FloatArray, Hits, IntArray
from m3search.stores.codecs import (
    Codec,
    decode_together,
    decode_vectors,
    read_blob,
    score_blob,
)
from m3search.stores.files import check_readable, damaged, forget
from m3search.stores.token_lists import TokenLists, Tokens

FILE = "multi.lmdb"
KEY = struct.Struct(">Q")
"""the row; big-endian, so that LMDB's byte order is the order of rows"""
SIMILARITIES_AT_ONCE = 1 << 23
VECTORS_AT_ONCE = 1 << 14
QUERY_VECTORS_AT_ONCE = 512
APPROXIMATE_AT_ONCE = 1 << 26
SCORED, SCORED_OF_EACH = 512, 4
"""rows that are scored of what the token lists find: so many, or so many times k"""
MARGIN = 1e-4
"""what lies this near to the k-th score of a scan is scored again, one document at a time"""


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
                    raise damaged(self._path, f"vectors of row {row}", str(error)) from error
                yield blob

    def vectors(self, row: int) -> FloatArray:
        """The stored vectors (n, dim) float32 of one row."""
        return decode_vectors(next(self.blobs([row])))

    def scores(self, query: FloatArray, rows: IntArray) -> FloatArray:
        """The exact score (n,) of the given rows for one query (m, dim).

        Each document is scored alone, so a score has the same bits whatever is scored beside it.
        """
        vectors = self._codec.prepare(query)
        scores = [score_blob(vectors, blob) for blob in self.blobs(rows.tolist())]
        return np.array(scores, dtype=np.float32)

    def count(self) -> int:
        """Vectors of all rows."""
        total = 0
        for start in range(0, self._rows, VECTORS_AT_ONCE):
            rows = range(start, min(start + VECTORS_AT_ONCE, self._rows))
            total += sum(read_blob(blob).vectors for blob in self.blobs(rows))
            forget(self._path)
        return total

    def tokens(self) -> Iterator[Tokens]:
        """All vectors as they are stored, in the order of rows, some rows in memory at a time."""
        for block in self._blocks(np.arange(self._rows), VECTORS_AT_ONCE):
            yield Tokens(np.repeat(block.rows, np.diff(block.offsets)), block.vectors)
            forget(self._path)

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
        few may be missed, unless `exact`, or few rows are allowed. Else every row is scored: a scan
        in float32 finds what can reach the k best, and that is scored again, exactly.
        """
        rows = np.arange(self._rows) if allowed is None else np.flatnonzero(allowed)
        wanted = max(SCORED, SCORED_OF_EACH * k)
        if self._lists is not None and not exact and len(rows) > wanted:
            lines = []
            for query in queries:
                near = self._lists.find(self._codec.prepare(query), wanted, allowed)
                if len(near) < k:  # rows without a token have a score, too
                    scanned = self._scan_all([query], k, rows)
                    lines.append((scanned.rows[0], scanned.scores[0]))
                else:
                    lines.append(top_k(near, self.scores(query, near), k))
            return Hits.stack(lines, k)
        return self._scan_all(queries, k, rows)

    def _scan_all(self, queries: Sequence[FloatArray], k: int, rows: IntArray) -> Hits:
        lines = []
        for group in self._groups(queries):
            approximate = self._scan(group, rows)
            for query, scores in zip(group, approximate, strict=True):
                near = rows[_reaches(scores, k, self._margin(query))]
                lines.append(top_k(near, self.scores(query, near), k))
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
        most = max(1, APPROXIMATE_AT_ONCE // max(1, self._rows))
        for query in queries:
            if group and (total + len(query) > QUERY_VECTORS_AT_ONCE or len(group) == most):
                yield group
                group, total = [], 0
            group.append(query)
            total += len(query)
        if group:
            yield group

    def _scan(self, queries: Sequence[FloatArray], rows: IntArray) -> FloatArray:
        """MaxSim (queries, rows) in float32; 0 where a side has no vectors."""
        scores = np.zeros((len(queries), len(rows)), dtype=np.float32)
        lengths = np.array([len(query) for query in queries])
        filled = np.flatnonzero(lengths)
        if not len(filled):
            return scores
        together = self._codec.prepare(np.concatenate([query for query in queries if len(query)]))
        lengths = lengths[filled]
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        at_once = max(1, min(VECTORS_AT_ONCE, SIMILARITIES_AT_ONCE // len(together)))
        done = 0
        for block in self._blocks(rows, at_once):
            span = np.arange(done, done + len(block.rows))
            done += len(block.rows)
            held = block.offsets[1:] > block.offsets[:-1]
            if held.any():
                similarity = together @ block.vectors.T
                best = np.maximum.reduceat(similarity, block.offsets[:-1][held], axis=1)
                means = np.add.reduceat(best, starts, axis=0) / lengths[:, np.newaxis]
                scores[np.ix_(filled, span[held])] = means
        return scores

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

    def _margin(self, query: FloatArray) -> float:
        """More than float32 can miss by, of stored vectors that are no longer than 1.3."""
        norms = np.linalg.norm(query, axis=1) if len(query) else np.ones(1)
        return max(MARGIN, 4 * self._dim * 2.0**-24) * max(1.0, float(norms.max()))


def _reaches(scores: FloatArray, k: int, margin: float) -> BoolArray:
    """Which of the scores lie above the k-th less the margin."""
    if k < 1 or k >= len(scores):
        return np.full(len(scores), k >= 1)
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.asarray(scores >= kth - margin)
