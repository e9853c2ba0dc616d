"""How a benchmark ends: what its user can cause is a line on stderr and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable

from m3search.errors import M3Error

INTERRUPTED = 130
"""exit status after Ctrl-C: 128 + SIGINT, as shells count"""


def run(main: Callable[[], None]) -> None:
    """Runs a script; a bug keeps its traceback."""
    try:
        main()
    except M3Error as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {error.filename}: {error.strerror}")
