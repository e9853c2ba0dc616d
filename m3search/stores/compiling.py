"""Loops as machine code (numba), for what no library does and Python is too slow for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The function, compiled at its first call and kept on disk for later processes.

    It runs without the GIL, and adds in the order that is written.
    """
    return cast(F, numba.njit(cache=True, nogil=True)(function))


def compiled_sums(function: F) -> F:
    """As `compiled`, but a sum may be added in the order that is fastest, always the same one."""
    flags = {"reassoc", "contract", "nsz"}
    return cast(F, numba.njit(cache=True, nogil=True, fastmath=flags)(function))
