"""What an evaluation keeps for the next one: a folder for each model and corpus, and each BM25.

    <set>.<key>/          the first set that had it, and the first digits of the key
        write.lock        held while something is made here or removed; its time is the last use
        index/            the corpus, encoded
        built.json        the whole key, and what the building took
        queries/          queries, encoded (`encodings`)
        searches/         component scores of queries (`searches`)
    <set>.bm25.<key>/     the same for BM25 on a corpus
        runs/             runs of it (`baseline_runs`)

Everything in it can be made again, so it may be deleted at any time.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from m3search.errors import ArtifactError
from m3search.stores.commit import LOCK, WriteLock
from m3search.stores.files import make_folder
from m3search.user_cache import user_cache

LIMIT = 10_000_000_000
"""bytes that the folder in the user's cache may take"""
KEY_DIGITS = 12
REMOVED = ".removed-"
"""how the name of a folder begins that is being removed"""
ENCODED = ("index", "queries")
"""what of an entry is large, and goes first: what was found is small, and needs neither"""


@dataclass(frozen=True)
class Cache:
    """A folder of entries, for any number of processes at once."""

    folder: Path
    limit: int | None = None
    """bytes of all entries, from which on those used longest ago are removed; None keeps all"""
    report: Callable[[str], None] = lambda _: None
    """told where another process is waited for, what is damaged and made again, and what goes"""
    made: set[Path] = field(default_factory=set, compare=False)
    """what this evaluation has put there itself, which it has not from an earlier one"""

    def fresh(self) -> Cache:
        """The same folder at the beginning of an evaluation."""
        return replace(self, made=set())

    @contextmanager
    def entry(self, key: str, name: str, *, small: bool = False) -> Iterator[Path]:
        """The folder of a key, which no other process changes meanwhile; a new one has the name.

        Where another process is at work in it, that one is waited for. Afterwards the entries that
        are too many are removed, but not this one, and none for a small one. What this or another
        process has opened there can be read to the end.
        """
        place = f"{name}.{key[:KEY_DIGITS]}"
        while True:
            with self._writing():
                make_folder(self.folder)
                found = sorted(self.folder.glob(f"[!.]*.{key[:KEY_DIGITS]}"))
                folder = found[0] if found else self.folder / place
                lock = self._lock(folder)
            if lock is not None:
                break
        try:
            yield folder
        finally:
            lock.release()
        if not small:
            self._trim(folder)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """ArtifactError where the folder is none, or not to be written to."""
        try:
            yield
        except OSError as error:
            raise ArtifactError(
                str(error.filename or self.folder),
                expected="a folder to keep encodings in, which can be written to",
                found=error.strerror or str(error),
                remedy="Give another with --cache, or keep nothing with --no-cache.",
            ) from error

    def _lock(self, folder: Path) -> WriteLock | None:
        """The lock of a folder that is there; None where it was removed in the meantime."""

        def wait(holder: str) -> None:
            self.report(f"waiting for {holder}, which is at work on {folder}")

        folder.mkdir(exist_ok=True)
        try:
            lock = WriteLock(folder, wait)
        except FileNotFoundError:
            return None
        if lock.is_of(folder):
            return lock
        lock.release()
        return None

    def _trim(self, used: Path) -> None:
        """Removes what was used longest ago, until the rest is within the limit: first encodings,
        then what was found with them."""
        if self.limit is None:
            return
        for left in self.folder.glob(f"{REMOVED}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        folders = [lock.parent for lock in self.folder.glob(f"[!.]*/{LOCK}")]
        total = sum(map(_size, folders))
        for parts in (ENCODED, ("",)):
            if parts != ENCODED and _size(used) > self.limit:
                return  # all that was found with others would not make room for it
            for folder in sorted(folders, key=_last_use):
                if total <= self.limit:
                    return
                if folder != used and (freed := _remove(folder, parts)):
                    total -= freed
                    what = "what was found with" if parts != ENCODED else "the encodings of"
                    limit = f"{self.limit / 1e9:g} GB"
                    self.report(f"{what} {folder.name} went from the cache, which holds {limit}")


def default_cache(report: Callable[[str], None] = lambda _: None) -> Cache | None:
    """That of the user, with a limit; None where there is no such folder that can be written to,
    which `report` is told."""
    place = user_cache()
    folder = None if place is None else place / "evaluation"
    if folder is not None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return Cache(folder, LIMIT, report)
    lacking = (
        "there is no cache of the user" if folder is None else f"{folder} cannot be written to"
    )
    report(f"nothing is kept for the next evaluation: {lacking}")
    return None


def _remove(folder: Path, parts: Sequence[str]) -> int:
    """The bytes that go with folders of an entry, or with all of it, which is the part "".

    None go of one that a process is at work on.
    """
    used = _last_use(folder)
    try:
        lock = WriteLock(folder)
    except (ArtifactError, OSError):
        return 0
    freed = 0
    try:
        for place in (folder / part for part in parts):
            size, going = _size(place), folder.with_name(f"{REMOVED}{secrets.token_hex(4)}")
            with suppress(FileNotFoundError):
                place.rename(going)  # at once, so that nobody finds a part of it
                freed += size
                shutil.rmtree(going, ignore_errors=True)
        with suppress(FileNotFoundError):
            os.utime(folder / LOCK, ns=(used, used))  # this was no use of it
    except OSError:
        return freed
    finally:
        lock.release()
    return freed


def _last_use(folder: Path) -> int:
    """When its lock was last taken, in ns; 0 where it is gone."""
    try:
        return (folder / LOCK).stat().st_mtime_ns
    except OSError:
        return 0


def _size(folder: Path) -> int:
    """Bytes of all files; what is removed meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:
            continue
    return total
