"""Texts that several corpora have, such as those of a corpus made of others: encoded once.

What a text was encoded to stays in a temporary file until the evaluation ends, if another corpus
that is read with the same maximum length has the same text.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from scipy import sparse as sp

from m3search.corpus import document_text, read_corpus
from m3search.evaluation.layouts import find_set_files
from m3search.evaluation.suite import EvaluationSet
from m3search.records import Encoded, Kind
from m3search.stores.files import checksum

if TYPE_CHECKING:
    from m3search.encoder import Encoder

LARGE = 256 * 2**20
"""bytes of a corpus file from which its texts are not looked for in others"""
MOST = 4 * 2**30
"""bytes of the temporary file; what comes then is not kept"""


class _Sharing:
    """An encoder that encodes a document once which several corpora have."""

    def __init__(self, encoder: Encoder, sets: Sequence[EvaluationSet], folder: Path) -> None:
        self.taken = 0
        self._encoder, self._sets, self._folder = encoder, sets, folder
        self._kept: dict[bytes, int] = {}
        """digest of a text -> where the file has its arrays"""

    def encode(self, texts: Sequence[str], kind: Kind = "document", **options: Any) -> Encoded:
        """All texts, in their order, as the encoder gives them or gave them before."""
        if kind != "document" or options or not self._shared:
            return self._encoder.encode(texts, kind, **options)
        names = [_digest(text) for text in texts]
        new = [row for row, name in enumerate(names) if name not in self._kept]
        held = [row for row, name in enumerate(names) if name in self._kept]
        parts = [self._read(self._kept[names[row]]) for row in held]
        if new or not held:
            fresh = self._encoder.encode([texts[row] for row in new])
            for place, row in enumerate(new):
                if _number(names[row]) in self._shared:
                    self._keep(names[row], fresh[place : place + 1])
            parts.append(fresh)
        self.taken += len(held)
        return _ordered(Encoded.concatenate(parts), [*held, *new])

    @cached_property
    def _shared(self) -> frozenset[int]:
        """The numbers of texts that more than one corpus has; read at the first document."""
        corpora: dict[tuple[str, str], Path] = {}
        for each in self._sets:
            path = find_set_files(each).corpus
            if path.stat().st_size < LARGE:
                corpora[checksum(path), each.title_template] = path
        numbers = [_numbers(path, template) for (_, template), path in corpora.items()]
        if len(numbers) < 2:
            return frozenset()
        found, corpora_with_it = np.unique(np.concatenate(numbers), return_counts=True)
        return frozenset(found[corpora_with_it > 1].tolist())

    @cached_property
    def _file(self) -> IO[bytes]:
        """Gone with the encoder."""
        file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        weakref.finalize(self, file.close)
        return file

    def _keep(self, name: bytes, one: Encoded) -> None:
        end = self._file.seek(0, 2)
        if end >= MOST or name in self._kept:
            return
        sparse = one.sparse
        for array in (one.dense, sparse.data, sparse.indices, sparse.indptr,
                      np.array(sparse.shape), one.multi[0], one.truncated):  # fmt: skip
            np.save(self._file, array, allow_pickle=False)
        self._kept[name] = end

    def _read(self, place: int) -> Encoded:
        self._file.seek(place)
        arrays = (np.load(self._file, allow_pickle=False) for _ in range(7))
        dense, weights, terms, starts, shape, vectors, truncated = arrays
        sparse = sp.csr_array((weights, terms, starts), shape=tuple(shape))
        return Encoded(dense, sparse, [vectors], truncated)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def sharing_texts(encoder: Encoder, sets: Sequence[EvaluationSet], folder: Path) -> Encoder:
    """The encoder, which encodes once what the corpora of several of the sets have.

    sets: those that it encodes. folder: where the temporary file lies, of up to 4 GB.
    """
    return cast("Encoder", _Sharing(encoder, sets, folder))


def texts_taken(encoder: Encoder) -> int:
    """How many documents it did not have to encode, as it had done so for another corpus."""
    return int(getattr(encoder, "taken", 0))


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")


def _numbers(path: Path, template: str) -> npt.NDArray[np.uint64]:
    """Of the different texts of a corpus, in 8 bytes each: one in 10^19 is another's by chance."""
    texts = (document_text(document, template) for document in read_corpus(path))
    return np.unique(np.fromiter((_number(_digest(text)) for text in texts), np.uint64))


def _ordered(encoded: Encoded, rows: Sequence[int]) -> Encoded:
    """The texts, of which the i-th belongs in row `rows[i]`."""
    order = np.argsort(rows)
    vectors = [encoded.multi[place] for place in order.tolist()]
    return Encoded(encoded.dense[order], encoded.sparse[order], vectors, encoded.truncated[order])
