"""Durable files: synced writes, atomic replacement, checksums, and errors that name their file."""

from __future__ import annotations

import ctypes
import errno
import gzip
import hashlib
import io
import mmap
import os
import resource
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from m3search.errors import ArtifactError

SEGMENT_FILES = 24
"""descriptors to allow for a segment: up to ten, of two commits that a process may have open"""
OTHER_FILES = 256
FORGOTTEN = 1 << 20
"""bytes of a file from which on it pays to let go of it"""

_madvise: Any = getattr(ctypes.CDLL(None), "madvise", None)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""errors of a disk without room, or without room for this user"""


def find_errno(error: Exception) -> int:
    """The number of the system's error that a library tells only in words; EIO if none."""
    words = str(error)
    return next((number for number in NO_ROOM if os.strerror(number) in words), errno.EIO)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Every OSError raised inside says which file it is about."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def damaged(path: Path, expected: str, found: str) -> ArtifactError:
    """The error for a file that is not what the manifest says."""
    return ArtifactError(
        str(path),
        expected=expected,
        found=found,
        remedy="Restore the index from a copy, or build it anew.",
    )


def check_readable(path: Path) -> None:
    """Raises the OSError that keeps a file from being read: libraries hide it behind their own."""
    with path.open("rb"):
        pass


def allow_segments(count: int) -> None:
    """Raises the limit on open files, as far as the system lets, for that many open segments."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OTHER_FILES + SEGMENT_FILES * count
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):  # opening says it better if there are too few
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def make_folder(path: Path) -> None:
    """Makes the folder and those above it, unless it is there; they outlive a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)


def sync(path: Path) -> None:
    """Puts a file or a folder on disk, so that it outlives a power cut."""
    with naming(path):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_file(path: Path, content: bytes) -> None:
    """Puts `content` at `path` in one step: a reader sees all of the old or all of the new."""
    temporary = path.with_name(path.name + ".new")
    with naming(temporary):
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    sync(path.parent)


@contextmanager
def write_whole(path: Path) -> Iterator[io.BufferedIOBase]:
    """A file to write to, gzip where the name ends in .gz: there whole in the end, or not at all.

    So it is where the process is killed, too. Equal content gives equal bytes.
    """
    place = path.resolve()  # a link stays a link
    unfinished = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
    try:
        with naming(place):
            with unfinished.open("xb") as file:
                if place.suffix == ".gz":
                    with gzip.GzipFile("", "wb", 6, fileobj=file, mtime=0) as packed:
                        yield packed
                else:
                    yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(place)
        sync(place.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def begin_file(path: Path, header: bytes) -> io.BufferedWriter:
    """A new file that begins with the header, open for more."""
    with naming(path):
        file = path.open("wb")
        try:
            file.write(header)
        except BaseException:
            file.close()
            raise
    return file


class ArrayWriter:
    """A one-dimensional .npy file written piece by piece."""

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self._path = path
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._length = 0
        header = self._header()
        self._room = len(header)
        self._file = begin_file(path, header)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with naming(self._path), self._file:
            if kind is None:
                self._file.seek(0)
                self._file.write(self._header())

    def close(self) -> None:
        """Lets go of a file that will not be finished."""
        with suppress(OSError):  # what is buffered may find no room on the disk
            self._file.close()

    def append(self, values: npt.ArrayLike) -> None:
        """Adds values at the end."""
        array = np.ascontiguousarray(values, dtype=self._dtype)
        with naming(self._path):
            self._file.write(array.tobytes())
        self._length += len(array)

    def _header(self) -> bytes:
        header = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(self._dtype)
        fields = {"descr": descr, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(header, fields)
        content = header.getvalue()
        if self._length and len(content) != self._room:  # numpy leaves room for the shape to grow
            raise ValueError(f"a .npy header of {len(content)} bytes, not {self._room}")
        return content


def forget(*arrays: npt.NDArray[Any]) -> None:
    """Lets go of what this process holds in memory of mapped arrays; it is read again when asked.

    Who reads a large file once, from one end to the other, calls it now and then: the system would
    do so only when memory is short. On systems other than Linux it does nothing, nor for a file of
    less than FORGOTTEN bytes, which costs more time than it frees memory.
    """
    for array in arrays:
        base: Any = array
        while base is not None and not isinstance(base, mmap.mmap):
            base = base.base
        if base is not None and len(base) >= FORGOTTEN and sys.platform == "linux":
            base.madvise(mmap.MADV_DONTNEED)


def forget_around(mapped: memoryview) -> None:
    """The same for the mapping of a file by a library, of which the view is a part, of any size.

    The view must stay valid meanwhile: then its mapping is where it is found, whatever other
    threads map and unmap beside it.
    """
    place = np.frombuffer(mapped, dtype=np.uint8).ctypes.data
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    for line in maps.splitlines():
        start, end = (int(limit, 16) for limit in line.split(maxsplit=1)[0].split("-"))
        if start <= place < end:
            _madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def map_array(path: Path, dtype: npt.DTypeLike, length: int | None = None) -> npt.NDArray[Any]:
    """A one-dimensional .npy file as a read-only memory map; ArtifactError where it differs."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise damaged(path, "a .npy array", str(error)) from error
    wanted = np.dtype(dtype).newbyteorder("<")
    if array.ndim != 1 or array.dtype != wanted or (length is not None and len(array) != length):
        size = "any number of" if length is None else str(length)
        raise damaged(
            path, f"{size} values of {wanted.str}", f"{array.shape} values of {array.dtype.str}"
        )
    return np.asarray(array)
