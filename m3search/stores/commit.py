"""The index directory as a whole: the lock, the manifest in force, what it allows and names."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from m3search.errors import ArtifactError
from m3search.records import ModelIdentity
from m3search.stores.files import naming, replace_file
from m3search.stores.manifest import MANIFEST, SEGMENTS, Layout, Manifest, parse_manifest

LOCK = "write.lock"
_LEFT_OVER = {LOCK, f"{MANIFEST}.new"}
"""what a build leaves that was killed before its first commit; segments come later"""
_SEGMENT_NAME = re.compile(r"[0-9]{8,}")


class WriteLock:
    """The right to write to a folder, held by one process; the kernel takes it back at its end."""

    def __init__(self, path: Path, waiting: Callable[[str], None] | None = None) -> None:
        """ArtifactError where another process holds it, unless that one is to be waited for: then
        `waiting` is told which it is."""
        lock = path / LOCK
        with naming(lock):
            self._handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._handle, 32, 0).decode(errors="replace").strip()
            process = f"process {holder or 'of unknown id'}"
            if waiting is None:
                self.release()
                raise ArtifactError(
                    str(path),
                    expected="one writer at a time",
                    found=f"{process} writing to it",
                    remedy="Wait until it is done, or end it; nothing has to be deleted.",
                ) from error
            self._wait(waiting, process)
        with contextlib.suppress(OSError):  # the number only helps the reader of the message
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def _wait(self, waiting: Callable[[str], None], process: str) -> None:
        try:
            waiting(process)
            fcntl.flock(self._handle, fcntl.LOCK_EX)
        except BaseException:
            self.release()
            raise

    def is_of(self, path: Path) -> bool:
        """Whether the folder at the path is still the one that it was taken for."""
        try:
            return os.path.samestat(os.fstat(self._handle), (path / LOCK).stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Lets the next writer in, also where a forked process has the handle, too."""
        with contextlib.suppress(OSError):
            fcntl.flock(self._handle, fcntl.LOCK_UN)
        os.close(self._handle)


def check_folder(path: Path) -> None:
    """ArtifactError unless an index is, or can be made, at the path."""
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        raise ArtifactError(
            str(nearest),
            expected=f"a folder, as {path} is to be an index",
            found="a file",
            remedy="Give another path.",
        )
    if path.is_dir() and not (path / MANIFEST).exists():
        foreign = sorted({entry.name for entry in path.iterdir()} - _LEFT_OVER)
        if SEGMENTS in foreign:
            raise ArtifactError(
                str(path),
                expected="an empty folder or an index",
                found=f"a folder with {SEGMENTS!r} in it, but without {MANIFEST}",
                remedy=f"Nothing was changed. Restore {MANIFEST} from a copy if it was an index, "
                "or give another path.",
            )
        if foreign:
            raise ArtifactError(
                str(path),
                expected="an empty folder or an index",
                found=f"a folder with {foreign[0]!r} in it",
                remedy="Give another path, or empty the folder.",
            )


def read_manifest(path: Path) -> Manifest:
    """The manifest in force; ArtifactError where there is no index."""
    file = path / MANIFEST
    try:
        return parse_manifest(file, file.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(
            str(path),
            expected="an index",
            found="a folder without manifest.json" if path.is_dir() else "none",
            remedy="Check the path, or build one: m3search index CORPUS --index DIR.",
        ) from error
    except OSError as error:
        raise ArtifactError(
            str(file),
            expected="a readable file",
            found=error.strerror or str(error),
            remedy="Check its permissions.",
        ) from error


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Makes the manifest the one in force, in one step."""
    replace_file(path / MANIFEST, manifest.to_bytes())


def collect(path: Path, manifest: Manifest) -> None:
    """Removes what the manifest does not name: left by a killed writer or an older commit.

    Only the holder of the lock may call it. Readers keep the files that they have open.
    """
    with contextlib.suppress(OSError):
        (path / f"{MANIFEST}.new").unlink()
    named = {segment.name: {file.name for file in segment.files} for segment in manifest.segments}
    folder = path / SEGMENTS
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        if entry.name not in named:
            if _SEGMENT_NAME.fullmatch(entry.name):
                shutil.rmtree(entry, ignore_errors=True)
            continue
        for file in entry.iterdir():
            if file.name not in named[entry.name]:
                with contextlib.suppress(OSError):
                    file.unlink()


def check_unfinished(path: Path, manifest: Manifest, layout: Layout, source: str) -> None:
    """ArtifactError unless a build with these settings may start or go on."""
    if manifest.is_blank:
        return
    if manifest.complete:
        raise ArtifactError(
            str(path),
            expected="no index yet, or an unfinished one",
            found=f"an index of {manifest.documents} documents",
            remedy="Add to it with --add (Index.add), give another folder with --index, or delete "
            "this one.",
        )
    check_layout(path, manifest, layout)
    _check_source(path, manifest.source, source)


def check_layout(path: Path, manifest: Manifest, layout: Layout) -> None:
    """ArtifactError unless an unfinished index stores what it does as the layout says."""
    for field, found, wanted in zip(Layout._fields, manifest.layout, layout, strict=True):
        if found != wanted:
            name = field.replace("_", " ")
            raise ArtifactError(
                str(path),
                expected=f"the {name} {found!r} of the build that was interrupted",
                found=repr(wanted),
                remedy="Go on with the same one, or build into another folder.",
            )


def _check_source(path: Path, first: str, second: str) -> None:
    """ArtifactError where a build of one corpus would go on with another.

    It would delete what it does not find there. A source without a name is not compared.
    """
    if not first or not second or first == second:
        return
    if "-" in (first, second) or Path(first).resolve() != Path(second).resolve():
        raise ArtifactError(
            str(path),
            expected=f"{first}, of which the build was interrupted",
            found=second,
            remedy="Run the first again, delete the folder, or give another one with --index.",
        )


def check_complete(path: Path, manifest: Manifest) -> None:
    """ArtifactError where a build was interrupted."""
    if not manifest.complete:
        origin = f" from {manifest.source}" if manifest.source else ""
        raise ArtifactError(
            str(path),
            expected="a finished index",
            found=f"an interrupted build{origin}, {manifest.documents} documents so far",
            remedy="Run the same build again: it goes on where it stopped.",
        )


def check_model(path: Path, expected: ModelIdentity, found: ModelIdentity) -> None:
    """ArtifactError unless both make the same vectors; the name may differ, as folders move."""
    if replace(found, name=expected.name) != expected:
        names = [name for name in vars(expected) if getattr(expected, name) != getattr(found, name)]
        differing = [name for name in names if name != "name"]
        raise ArtifactError(
            str(path),
            expected=f"the model of the index, {expected.name} ({_values(expected, differing)})",
            found=f"{found.name} ({_values(found, differing)})",
            remedy="Use the same model with the same settings, or build a new index.",
        )


def _values(model: ModelIdentity, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {str(getattr(model, name))[:12]}" for name in names)
