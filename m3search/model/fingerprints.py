"""Fingerprints of large checkpoints, remembered: reading 2 GB at every start takes seconds.

One small file for each folder lies in the user's cache (`$XDG_CACHE_HOME/m3search`, by default
`~/.cache/m3search`). It counts only while no file of the checkpoint changed, and may be deleted.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from pathlib import Path
from typing import TypeAlias

from m3search.model.layout import deciding_files, fingerprint
from m3search.user_cache import user_cache

REMEMBERED_BYTES = 100_000_000
"""from which size on a checkpoint's fingerprint is remembered; smaller ones are read in a moment"""
SETTLED_NS = 2_000_000_000
"""age of a file from which on another change of it is sure to have another time"""

State: TypeAlias = list[list[str | int]]
"""name, size, time of change of content and of any change, in ns, of every file that decides"""


def remembered_fingerprint(folder: Path) -> str:
    """`fingerprint`, from the user's cache where the same files were read before.

    Neither a cache that cannot be read or written nor another process beside this one matters.
    """
    before = _state(folder)
    if sum(int(size) for _, size, *_ in before) < REMEMBERED_BYTES:
        return fingerprint(folder)
    note = _note_of(folder)
    known = _recall(note, before)
    if known is not None:
        return known
    found = fingerprint(folder)
    newest = max(int(when) for _, _, *times in before for when in times)
    if before == _state(folder) and time.time_ns() - newest > SETTLED_NS:
        _remember(note, before, found)
    return found


def _state(folder: Path) -> State:
    stats = [(path.name, path.stat()) for path in deciding_files(folder)]
    return [[name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in stats]


def _note_of(folder: Path) -> Path | None:
    """The file of the cache that belongs to the folder; None for a user without a home."""
    cache = user_cache()
    try:
        place = str(folder.resolve()).encode("utf-8", "surrogateescape")
    except (OSError, RuntimeError):
        return None
    name = f"{hashlib.sha256(place).hexdigest()[:32]}.json"
    return cache / "fingerprints" / name if cache else None


def _recall(note: Path | None, state: State) -> str | None:
    """The fingerprint noted for exactly this state; None for any other note."""
    try:
        record = json.loads(note.read_text(encoding="utf-8")) if note else None
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("files") != state:
        return None
    found = record.get("fingerprint")
    return found if isinstance(found, str) else None


def _remember(note: Path | None, state: State, found: str) -> None:
    """Writes the note whole or, where that is not possible, not at all."""
    if note is None:
        return
    unfinished = note.with_name(f"{note.name}.{secrets.token_hex(4)}.part")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        try:
            record = {"files": state, "fingerprint": found}
            unfinished.write_text(json.dumps(record), encoding="utf-8")
            unfinished.replace(note)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError:
        return
