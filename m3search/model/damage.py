"""One error for whatever the libraries raise where a file of a checkpoint cannot be read."""

from __future__ import annotations

import pickle
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
    """Inside the block these become an ArtifactError with the first line of what was raised."""
    try:
        yield
    except RAISED as error:
        first = next(iter(str(error).splitlines()), "")
        raise ArtifactError(
            str(place), expected=expected, found=f"{type(error).__name__}: {first}", remedy=remedy
        ) from error
