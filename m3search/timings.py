"""How long each stage of a search, or a merge, takes: measured by who asks, else free."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token

PERCENTILES = (50, 95, 99)
WEIGH = "weigh terms"
"""the stage in which the rarity of the terms of queries is counted"""

_measuring: ContextVar[Timings | None] = ContextVar("measuring", default=None)


class Timings:
    """The stages of all that is done while it is entered, in this thread.

    >>> with Timings() as timings:
    ...     with stage("encode"):
    ...         pass
    >>> list(timings.seconds)
    ['encode']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        """wall-clock seconds by stage, one number for each time that it ran, in the order met"""
        self._outer: Token[Timings | None] | None = None

    def __enter__(self) -> Timings:
        self._outer = _measuring.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        if self._outer is not None:
            _measuring.reset(self._outer)

    def milliseconds(self) -> dict[str, dict[str, float]]:
        """By stage its median and other percentiles, as {"encode": {"p50": ...}}."""
        import numpy as np  # only here: the command line starts without it

        return {
            name: {
                f"p{percentile}": 1000 * float(np.percentile(seconds, percentile))
                for percentile in PERCENTILES
            }
            for name, seconds in self.seconds.items()
        }


@contextmanager
def stage(name: str) -> Iterator[None]:
    """What runs within is a stage of this name, where somebody measures."""
    timings = _measuring.get()
    if timings is None:
        yield
        return
    started = time.perf_counter()
    # here, so that a stage stands before those within it
    seconds = timings.seconds.setdefault(name, [])
    try:
        yield
    finally:
        seconds.append(time.perf_counter() - started)
