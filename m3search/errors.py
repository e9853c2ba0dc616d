"""Errors that a user can act on.

    M3Error
    ├── DataError      a file of the user's: corpus, queries, qrels, run, training pairs
    ├── ConfigError    a setting: a recipe key, a flag, an argument
    ├── ArtifactError  something on disk that m3search made or loads: a checkpoint, an index
    └── DivergenceError  a training run that could only get worse (m3search.training.watching)

Every message says where, what was expected, what was found and what to do.
The command line prints it as ``error: ...`` and exits with 1; any other exception is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from os import PathLike


class M3Error(Exception):
    """Where something went wrong, what was expected and found there, and the remedy."""

    def __init__(self, where: str, *, expected: str, found: str, remedy: str) -> None:
        self.where = where
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(f"{where}: expected {expected}, found {found}. {remedy}")


class DataError(M3Error):
    """A user's file does not hold what it should; `file` and the 1-based `line` say where."""

    def __init__(
        self,
        file: str | PathLike[str],
        line: int | None = None,
        *,
        expected: str,
        found: str,
        remedy: str,
    ) -> None:
        self.file = str(file)
        self.line = line
        where = self.file if line is None else f"{self.file}, line {line}"
        super().__init__(where, expected=expected, found=found, remedy=remedy)


class ConfigError(M3Error):
    """A setting is unknown, of the wrong type or out of range."""

    @classmethod
    def unknown(
        cls,
        where: str,
        name: str,
        valid: Iterable[str],
        otherwise: str = "Use one of the names above.",
    ) -> ConfigError:
        """An unknown name, answered with the nearest valid one; `otherwise` where none is near."""
        names = sorted(valid)
        near = difflib.get_close_matches(name, names, n=1)
        remedy = f"Did you mean {near[0]!r}?" if near else otherwise
        return cls(where, expected=f"one of {', '.join(names)}", found=repr(name), remedy=remedy)


class ArtifactError(M3Error):
    """A checkpoint or an index is missing, foreign, damaged or of another format."""
