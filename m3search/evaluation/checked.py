"""Files of the cache that are known to be whole: a checksum, a note, and what the note is about."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from m3search.stores.files import make_folder, replace_file

Note = dict[str, Any]


def write_checked(path: Path, note: Note, content: bytes) -> None:
    """A file of both, which is there whole or not at all; note: JSON-ready."""
    make_folder(path.parent)
    body = json.dumps(note).encode() + b"\n" + content
    replace_file(path, sha256(body).hexdigest().encode() + b"\n" + body)


def read_checked(path: Path) -> tuple[Note, bytes] | None:
    """The note and the content; None where they are not there, or damaged."""
    try:
        checksum, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if sha256(body).hexdigest().encode() != checksum:
        return None
    note, _, content = body.partition(b"\n")
    return json.loads(note), content
