"""Ends a write in its middle: by a kill or an error at one call of the system after the other, or
by a limit."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import FrameType

IO_CALLS = {"open", "write", "writelines", "flush", "close", "truncate"}
WRITES = {"write", "writelines", "fsync", "mkdir", "replace", "rename"}
LOOKS = {"fspath", "stat", "lstat", "fstat", "getpid", "_path_normpath"}
"""calls that leave everything as it is: a kill before one is a kill before the next"""


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Inside the block no file grows beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def kill_at_each_call(action: Callable[[], object]) -> Iterator[int]:
    """Runs the action in a fork that is killed at its n-th call of the system, n = 1, 2, ...

    Yields n after each kill, and ends when the action came to its end.
    """
    for number in count(1):
        child = os.fork()
        if child == 0:
            _run_until_killed(action, number)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0, "the action failed"
            return
        yield number


@contextmanager
def fail_at_call(number: int, error: int) -> Iterator[list[str]]:
    """Inside the block the number-th call of the system that writes raises that error of it.

    Yields a list that has the name of the call once it was made.
    """
    calls, failed = 0, []

    def tick(_: FrameType, what: str, called: object) -> None:
        nonlocal calls
        if what == "c_call" and getattr(called, "__name__", "") in WRITES:
            calls += 1
            if calls == number:  # an exception here is one of the call, and ends the profiling
                failed.append(called.__name__)
                raise OSError(error, os.strerror(error))

    sys.setprofile(tick)
    try:
        yield failed
    finally:
        sys.setprofile(None)


def _run_until_killed(action: Callable[[], object], number: int) -> None:
    calls = 0

    def tick(_: FrameType, what: str, called: object) -> None:
        nonlocal calls
        if what != "c_call":
            return
        name = getattr(called, "__name__", "")
        of_the_system = getattr(called, "__module__", None) == "posix" and name not in LOOKS
        if of_the_system or name in IO_CALLS:
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.setprofile(tick)
        action()
        code = 0
    finally:
        sys.setprofile(None)
        os._exit(code)
