"""How the program ends, and so do the scripts beside it: what a user can cause is no traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from m3search.cli.output import print_error
from m3search.errors import M3Error

INTERRUPTED = 130
"""exit status after Ctrl-C: 128 + SIGINT, as shells count"""


@contextmanager
def ending_well() -> Iterator[None]:
    """Turns what a user can cause into a line on stderr and an exit status; bugs pass through."""
    try:
        yield
        sys.stdout.flush()  # here, where a reader that has left is no surprise
    except M3Error as error:
        print_error(error)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        raise typer.Exit(_tell_of(error)) from error


def _tell_of(error: OSError) -> int:
    """Says what the system refused, if a user can do something about it; the exit status."""
    if error.filename is not None:  # a full disk, no permission
        print_error(f"{error.filename}: {error.strerror}")
        return 1
    if error.errno not in (errno.EPIPE, errno.ENOSPC):
        raise error
    # what is left to write goes nowhere, or Python would try once more at its end
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:  # `m3search query ... | head`: nobody reads on, no error
        return 0
    print_error(f"standard output: {error.strerror}")
    return 1


def run_script(main: Callable[[], None]) -> None:
    """Runs a script of this repository, and exits where it ended otherwise than well."""
    try:
        with ending_well():
            main()
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
