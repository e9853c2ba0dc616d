"""The folder in the user's cache for what can be made again, and may be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path | None:
    """`$XDG_CACHE_HOME/m3search`, by default `~/.cache/m3search`; None for a user without a home.

    It need not be there, nor can everybody write to it.
    """
    try:
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        return (given if given.is_absolute() else Path.home() / ".cache") / "m3search"
    except (OSError, RuntimeError):
        return None
