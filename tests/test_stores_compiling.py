"""Compiled loops are kept where they can be, by the sources of all, and work where not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numba.core import config

from m3search.stores import compiling

SCRIPT = """
import numpy as np
from m3search.stores.selection import below_kth
print(below_kth(np.array([3.0, 1.0, 2.0]), 2) <= 2.0, below_kth._cache.__class__.__name__)
"""


def run(cache: str, **more: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": cache, **more}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_loops_are_kept_in_the_cache_of_the_user(tmp_path: Path) -> None:
    assert run(str(tmp_path)) == "True FunctionCache"
    (folder,) = (tmp_path / "m3search" / "compiled").iterdir()
    assert list(folder.rglob("*.nbi"))
    assert folder.name == Path(compiling._folder()).name
    own = tmp_path / "own"
    run(str(tmp_path / "unused"), NUMBA_CACHE_DIR=str(own))
    assert list(own.rglob("*.nbi")) and not (tmp_path / "unused").exists()


def test_loops_work_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """As numba says it in a container without a home, of a package that only root may write."""
    asked = []

    def njit(**options: Any) -> Callable[..., Any]:
        asked.append(options)
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr("numba.njit", njit)
    before = config.CACHE_DIR
    assert compiling.compiled_sums(len)([1, 2]) == 2
    assert asked == [{"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}] * 2
    assert before == config.CACHE_DIR


def test_another_source_has_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.py", "compiling.py"):
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(compiling, "__file__", str(tmp_path / "compiling.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = []
    for content in ("1", "2", "1"):
        (tmp_path / "a.py").write_text(content)
        folders.append(compiling._folder.__wrapped__())
    assert folders[0] == folders[2] != folders[1]
