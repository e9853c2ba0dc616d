"""One error for whatever the libraries raise where a file cannot be read, or not be written."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from m3search.errors import ArtifactError

RAISED = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    SafetensorError,
    pickle.PickleError,
)
"""by transformers, torch and safetensors at a file that is missing, cut short or of another kind"""


@contextmanager
def reading(place: Path, *, expected: str, remedy: str) -> Iterator[None]:
    """Inside the block these become an ArtifactError with the first sentence of what was raised."""
    try:
        yield
    except RAISED as error:
        found = f"{type(error).__name__}: {first_sentence(error)}"
        raise ArtifactError(str(place), expected=expected, found=found, remedy=remedy) from error


@contextmanager
def writing(file: Path, *, remedy: str) -> Iterator[None]:
    """Inside the block what the system refuses, such as room on a full disk, becomes an
    ArtifactError, whichever library hides it behind an error of its own.

    What there is of `file` goes first, so that the disk has its room again.
    """
    try:
        yield
    except Exception as error:
        refused = _refusal(error)
        if refused:
            file.unlink(missing_ok=True)
            free = shutil.disk_usage(file.parent).free / 1e6
            found = f"{refused} ({free:,.1f} MB are free without it)"
            expected = "a disk that takes the file"
            raise ArtifactError(str(file), expected=expected, found=found, remedy=remedy) from error
        raise


def first_sentence(error: BaseException) -> str:
    """What an exception says first: PyTorch explains a damaged file in a whole paragraph."""
    line = next(iter(str(error).strip().splitlines()), "")
    return re.split(r"(?<=\w)[.!?]\s", line, maxsplit=1)[0].rstrip(".")


def _refusal(error: BaseException | None) -> str:
    """What the system said, if it did: in an OSError that came before, or as Rust writes it."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        rust = re.search(r"([\w ]+) \(os error \d+\)", str(error))
        if rust:
            return rust[1].strip()
        error = error.__cause__ or error.__context__
    return ""
