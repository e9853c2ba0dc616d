"""Writes the token vectors of one segment into an LMDB file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lmdb

from m3search.records import FloatArray
from m3search.stores.codecs import Codec, encode_vectors
from m3search.stores.files import find_errno
from m3search.stores.multi import FILE, KEY

FIRST_MAP = 1 << 24
"""bytes of address space to begin with; doubled as the file grows"""


class VectorWriter:
    """Appends the token vectors of one segment, row by row."""

    def __init__(self, folder: Path, codec: Codec) -> None:
        self.path = folder / FILE
        self._codec = codec
        self._rows = 0
        with _naming(self.path):
            self._environment = lmdb.open(
                str(self.path),
                subdir=False,
                map_size=FIRST_MAP,
                lock=False,
                sync=False,
                metasync=False,
            )

    def append(self, texts: Iterable[FloatArray]) -> int:
        """Adds texts (vectors_i, dim); returns the bytes that they take."""
        return self.append_blobs([encode_vectors(vectors, self._codec) for vectors in texts])

    def append_blobs(self, blobs: Sequence[bytes]) -> int:
        """Adds texts that are encoded already; returns their bytes."""
        with _naming(self.path):
            while not self._put(blobs):
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
        self._rows += len(blobs)
        return sum(map(len, blobs))

    def finish(self) -> list[Path]:
        """The files, complete."""
        self.close()
        return [self.path]

    def close(self) -> None:
        """Lets go of the file."""
        self._environment.close()

    def _put(self, blobs: Sequence[bytes]) -> bool:
        """Whether the blobs had room in the map; where not, none was added."""
        try:
            with self._environment.begin(write=True) as transaction:
                for row, blob in enumerate(blobs, start=self._rows):
                    transaction.put(KEY.pack(row), blob, append=True)
        except lmdb.MapFullError:
            return False
        return True


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """LMDB's errors as an OSError that names the file."""
    try:
        yield
    except lmdb.Error as error:
        raise OSError(find_errno(error), str(error), str(path)) from error
