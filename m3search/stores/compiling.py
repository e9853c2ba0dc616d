"""Loops as machine code (numba), for what no library does and Python is too slow for.

A loop is compiled at its first call and kept in the user's cache for later processes, in a folder
for the sources of all loops: numba itself looks at the file of a loop alone, and not at those of
the loops that it calls. Where nothing can be written every process compiles anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import config

from m3search.user_cache import user_cache

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The function, compiled. It runs without the GIL, and adds in the order that is written."""
    return _compile(function)


def compiled_sums(function: F) -> F:
    """As `compiled`, but a sum may be added in the order that is fastest, always the same one."""
    return _compile(function, fastmath={"reassoc", "contract", "nsz"})


def _compile(function: F, **options: Any) -> F:
    settings: Any = config  # numba adds its names at run time
    own = settings.CACHE_DIR  # the user's choice for all that numba compiles
    folder = own or _folder()
    if folder:
        settings.CACHE_DIR = folder
        try:
            return cast(F, numba.njit(cache=True, nogil=True, **options)(function))
        except RuntimeError:  # there is no place to write to
            pass
        finally:
            settings.CACHE_DIR = own
    return cast(F, numba.njit(nogil=True, **options)(function))


@cache
def _folder() -> str:
    """Where the machine code of these sources is kept; empty where there is no such place."""
    place = user_cache()
    if place is None:
        return ""
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.read_bytes())
    return str(place / "compiled" / sources.hexdigest()[:16])
