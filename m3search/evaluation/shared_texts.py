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
from shutil import disk_usage
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from m3search.corpus import document_text
from m3search.evaluation.collection import Collection
from m3search.evaluation.encodings import pack, unpack
from m3search.evaluation.suite import EvaluationSet
from m3search.records import Encoded, IntArray

if TYPE_CHECKING:
    from m3search.encoder import Encoder

MOST_TEXTS = 10_000_000
"""of corpora that are looked through for what they have in common, together; it takes 30 bytes of
memory for each"""
MOST_BYTES = 8_000_000_000
"""of what is kept on the disk at a time; what has no room is encoded once more"""


class SharedTexts:
    """What was encoded of the texts that are in more than one corpus."""

    def __init__(
        self,
        sets: Iterable[tuple[EvaluationSet, Collection]],
        folder: Path,
        most: int = MOST_BYTES,
    ) -> None:
        """sets: those that are encoded. folder: on whose disk it is kept, in a file that no other
        process sees."""
        self._sets = tuple(sets)
        self._folder, self._room = folder, most
        self._places: dict[bytes, tuple[int, int]] = {}
        self._file: IO[bytes] | None = None
        self._end = 0

    @cached_property
    def left(self) -> tuple[IntArray, IntArray]:
        """Of the texts that two corpora have which are cut at the same length: their numbers,
        ascending, and how many of the corpora with each are still to come."""
        corpora: dict[int | None, dict[tuple[str, str], Collection]] = {}
        for each, collection in self._sets:
            corpus = (collection.fingerprints()["corpus"], each.title_template)
            corpora.setdefault(each.max_length, {})[corpus] = collection
        found = [
            _repeated(group)
            for group in corpora.values()
            if len(group) > 1 and sum(each.documents for each in group.values()) <= MOST_TEXTS
        ]
        numbers, counts = np.unique(
            np.concatenate([*found, np.zeros(0, np.int64)]), return_counts=True
        )
        return numbers, counts

    def pass_by(self, texts: Sequence[str]) -> IntArray:
        """(n,) how many more corpora will have each of a corpus's texts; -1 for those of its own.

        To be asked once for every text of it.
        """
        numbers, left = self.left
        asked = _numbers(texts)
        shared = np.isin(asked, numbers)
        places = np.searchsorted(numbers, asked[shared])
        np.subtract.at(left, places, 1)
        found = np.full(len(texts), -1)
        found[shared] = left[places].clip(min=0)
        return found

    def take(self, key: bytes) -> Encoded | None:
        """What was put under a key; None where nothing was."""
        if self._file is None or key not in self._places:
            return None
        start, size = self._places[key]
        self._file.seek(start)
        return unpack(self._file.read(size))

    def put(self, key: bytes, encoded: Encoded) -> None:
        """Keeps the encoding of a text, where there is room for it."""
        if self._room <= 0:
            return
        content = pack(encoded)
        self._room -= len(content)
        try:
            if self._file is None:
                self._room = min(self._room, disk_usage(self._folder).free // 2)
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
            self._file.seek(self._end)
            if self._room < 0 or self._file.write(content) < len(content):
                return
        except OSError:  # a disk that is full: what is written there needs the room more
            self.close()
            return
        self._places[key] = (self._end, len(content))
        self._end += len(content)

    def close(self) -> None:
        """Gives the room back; from now on nothing is kept."""
        self._places, self._room = {}, 0
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

    def look_ahead(self) -> None:
        """Finds what the corpora have in common now, and not while an index is timed."""
        self._texts.left  # noqa: B018

    def encode(self, texts: Sequence[str]) -> Encoded:
        """All texts, in their order."""
        left = self._texts.pass_by(texts)
        shared = np.flatnonzero(left >= 0).tolist()
        keys = {i: blake2b(_bytes(texts[i]), key=self._key).digest() for i in shared}
        held = {i: found for i, key in keys.items() if (found := self._texts.take(key))}
        new = [i for i in range(len(texts)) if i not in held]
        encoded = self._encoder.encode([texts[i] for i in new])
        parts = {i: encoded[place : place + 1] for place, i in enumerate(new)}
        for i in keys.keys() - held.keys():
            if left[i]:
                self._texts.put(keys[i], parts[i])
        self.taken += len(held)
        if not held:
            return encoded
        parts |= held
        return Encoded.concatenate([parts[i] for i in range(len(texts))])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def _repeated(group: dict[tuple[str, str], Collection]) -> IntArray:
    """Numbers of the texts that more than one of these corpora have, once for each that has it."""
    each = np.concatenate(
        [
            np.unique(_numbers(document_text(document, template) for document in collection.read()))
            for (_, template), collection in group.items()
        ]
    )
    numbers, counts = np.unique(each, return_counts=True)
    return np.asarray(each[np.isin(each, numbers[counts > 1])])


def _numbers(texts: Iterable[str]) -> IntArray:
    """(n,) 64 bits of each text: two that differ are rarely taken for one."""
    digests = (blake2b(_bytes(text), digest_size=8).digest() for text in texts)
    return np.fromiter((int.from_bytes(each, "big", signed=True) for each in digests), np.int64)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
