"""Documents that several sets of an evaluation have, encoded once.

A collection of many languages may hold those of others. What an index is built of is then kept,
until the evaluation ends, for the texts that another corpus has, too. They come back as they were
computed, so they differ from those of an encoding of their own by rounding at most.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from m3search.corpus import document_text
from m3search.evaluation.collection import Collection
from m3search.evaluation.encodings import pack, unpack
from m3search.evaluation.suite import EvaluationSet
from m3search.records import Encoded, IntArray, Kind

if TYPE_CHECKING:
    from m3search.encoder import Encoder

MOST_BYTES = 8_000_000_000
"""of what is kept on the disk at a time; what has no room is encoded once more"""


class SharedTexts:
    """What was encoded of the texts that are in more than one corpus."""

    def __init__(
        self,
        sets: Sequence[EvaluationSet],
        collections: Sequence[Collection],
        folder: Path,
        most: int = MOST_BYTES,
    ) -> None:
        """folder: on whose disk it is kept, in a file that no other process sees."""
        self._sets, self._collections = tuple(sets), tuple(collections)
        self._folder, self._room = folder, most
        self._places: dict[bytes, tuple[int, int]] = {}
        self._file: IO[bytes] | None = None
        self._end = 0

    @cached_property
    def numbers(self) -> IntArray:
        """Of the texts that two corpora have which are cut at the same length; ascending."""
        corpora: dict[int | None, dict[tuple[str, str], Collection]] = {}
        for each, collection in zip(self._sets, self._collections, strict=True):
            corpus = (collection.fingerprints()["corpus"], each.title_template)
            corpora.setdefault(each.max_length, {})[corpus] = collection
        found = [_repeated(group) for group in corpora.values() if len(group) > 1]
        return np.unique(np.concatenate([*found, np.zeros(0, np.int64)]))

    def take(self, key: bytes) -> Encoded | None:
        """What was put under a key; None where nothing was."""
        if self._file is None or key not in self._places:
            return None
        start, size = self._places[key]
        self._file.seek(start)
        return unpack(self._file.read(size))

    def put(self, key: bytes, encoded: Encoded) -> None:
        """Keeps the encoding of a text, where there is room for it."""
        content = pack(encoded)
        if len(content) > self._room:
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            self._file.seek(self._end)
            self._file.write(content)
            self._file.flush()
        except OSError:  # a disk that is full: the index, which matters, will say so
            self._room = 0
            return
        self._places[key] = (self._end, len(content))
        self._end += len(content)
        self._room -= len(content)

    def close(self) -> None:
        """Gives the room back."""
        self._places = {}
        if self._file is not None:
            self._file.close()
            self._file = None


class SharingEncoder:
    """An encoder of documents that leaves out those which another corpus has had encoded."""

    def __init__(self, encoder: Encoder, texts: SharedTexts) -> None:
        self._encoder, self._texts = encoder, texts
        used = [asdict(encoder.identity), encoder.precision, encoder.modes]
        self._key = blake2b(repr(used).encode(), digest_size=32).digest()
        self.taken = 0
        """how many it left out"""

    def encode(self, texts: Sequence[str], kind: Kind = "document") -> Encoded:
        """All texts, in their order."""
        shared = np.flatnonzero(np.isin(_numbers(texts), self._texts.numbers)).tolist()
        keys = {i: blake2b(_bytes(texts[i]), key=self._key).digest() for i in shared}
        held = {i: found for i, key in keys.items() if (found := self._texts.take(key))}
        new = [i for i in range(len(texts)) if i not in held]
        encoded = self._encoder.encode([texts[i] for i in new], kind)
        parts = {i: encoded[place : place + 1] for place, i in enumerate(new)}
        for i in keys.keys() - held.keys():
            self._texts.put(keys[i], parts[i])
        self.taken += len(held)
        if not held:
            return encoded
        parts |= held
        return Encoded.concatenate([parts[i] for i in range(len(texts))])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def _repeated(group: dict[tuple[str, str], Collection]) -> IntArray:
    """Numbers of the texts that more than one of these corpora have."""
    each = [
        np.unique(_numbers(document_text(document, template) for document in collection.read()))
        for (_, template), collection in group.items()
    ]
    numbers, counts = np.unique(np.concatenate(each), return_counts=True)
    return np.asarray(numbers[counts > 1])


def _numbers(texts: Iterable[str]) -> IntArray:
    """(n,) 64 bits of each text: two that differ are rarely taken for one."""
    digests = (blake2b(_bytes(text), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype=np.int64)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
