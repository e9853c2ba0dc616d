"""Files of the cache that are known to be whole: a checksum, a note, and what the note is about."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from m3search.errors import ArtifactError
from m3search.stores.files import make_folder, replace_file

Note = dict[str, Any]
Tell = Callable[[str], None]
"""called with a line for people"""


def write_checked(path: Path, note: Note, content: bytes) -> None:
    """A file of both, which is there whole or not at all; note: JSON-ready."""
    make_folder(path.parent)
    body = json.dumps(note).encode() + b"\n" + content
    replace_file(path, sha256(body).hexdigest().encode() + b"\n" + body)


def read_checked(path: Path, tell: Tell) -> tuple[Note, bytes] | None:
    """The note and the content; None where they are not there, or damaged, which `tell` hears.

    ArtifactError where the system does not let them be read: they may be sound.
    """
    try:
        checksum, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(
            str(path),
            expected="a file of the cache that can be read",
            found=error.strerror or str(error),
            remedy="Remove it, give another folder with --cache, or keep nothing with --no-cache.",
        ) from error
    if sha256(body).hexdigest().encode() != checksum:
        tell(damage(f"{path}: its checksum differs"))
        return None
    note, _, content = body.partition(b"\n")
    return json.loads(note), content


def damage(what: str) -> str:
    """The line that says so; what: the file, and what is wrong with it."""
    return f"damaged in the cache, so it is made again: {what}"
