"""Which sets to evaluate and how: BEIR folders, and suites in TOML that list them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from m3search.config import override, parse, read_toml
from m3search.errors import ConfigError, DataError
from m3search.evaluation.measures import DEFAULT_MEASURES, parse_measures
from m3search.records import MODES, Mode

ROWS = ("dense", "sparse", "multi", "dense+sparse", "all", "bm25")
"""what is compared by default; any modes joined by + can be asked for"""


@dataclass(frozen=True)
class EvaluationSet:
    """A corpus, its queries and judgements, and how to run them."""

    path: Path
    """the folder with corpus.jsonl, queries.jsonl and qrels/<split>.tsv"""
    name: str = ""
    """as reports call it; by default the folder's name"""
    split: str = "test"
    language: str | None = None
    """for BM25's stemmer and stop words, as "en"; guessed where it is absent"""
    max_length: int | None = None
    """tokens of a text that are encoded; by default all that the model reads"""
    weights: tuple[float, float, float] | None = None
    """of dense, sparse and multi; by default those of a search, 1, 0.3, 1"""
    depth: int = 200
    """candidates that dense and sparse give each"""
    measures: tuple[str, ...] = DEFAULT_MEASURES
    rows: tuple[str, ...] = ROWS
    unknown_documents: Literal["error", "keep"] = "error"
    """judgements of documents outside the corpus: an error, or kept as never found"""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.path.resolve().name)
        if not re.fullmatch(r"[\w+-][\w.+-]*", self.name):
            raise ValueError(f"the name {self.name!r}, which does not suit a file's name")
        if self.depth < 1 or (self.max_length is not None and self.max_length < 1):
            raise ValueError("a depth or max_length below 1")
        if self.weights and not all(math.isfinite(w) and w >= 0 for w in self.weights):
            raise ValueError(f"weights {self.weights} that are not all from 0 up")
        if not self.rows:
            raise ValueError("no rows")
        parse_measures(self.measures)
        for row in self.rows:
            modes_of(row)


@dataclass(frozen=True)
class SetEntry:
    """One [[sets]] table: whatever it leaves out comes from the suite."""

    path: str
    name: str = ""
    split: str | None = None
    language: str | None = None
    max_length: int | None = None
    weights: tuple[float, float, float] | None = None
    depth: int | None = None
    measures: tuple[str, ...] | None = None
    rows: tuple[str, ...] | None = None
    unknown_documents: Literal["error", "keep"] | None = None


@dataclass(frozen=True)
class Suite:
    """A suite file: settings for all sets, then the sets."""

    sets: tuple[SetEntry, ...]
    description: str = ""
    split: str = "test"
    language: str | None = None
    max_length: int | None = None
    weights: tuple[float, float, float] | None = None
    depth: int = 200
    measures: tuple[str, ...] = DEFAULT_MEASURES
    rows: tuple[str, ...] = ROWS
    unknown_documents: Literal["error", "keep"] = "error"

    def __post_init__(self) -> None:
        if not self.sets:
            raise ValueError("no [[sets]]")


SHARED_SETTINGS = (
    "split", "language", "max_length", "weights", "depth", "measures", "rows", "unknown_documents"
)  # fmt: skip


def modes_of(row: str) -> tuple[Mode, ...] | None:
    """The modes of a row such as "all" or "dense+sparse"; None for "bm25"."""
    if row == "bm25":
        return None
    if row == "all":
        return MODES
    names = row.split("+")
    for name in names:
        if name not in MODES:
            raise ConfigError.unknown("rows", name, {*ROWS, *MODES})
    if len(set(names)) < len(names):
        remedy = "Name each mode once."
        raise ConfigError("rows", expected="different modes", found=repr(row), remedy=remedy)
    return tuple(mode for mode in MODES if mode in names)


def load_sets(
    paths: Iterable[str | Path],
    *,
    data: str | Path | None = None,
    settings: Sequence[str] = (),
) -> tuple[EvaluationSet, ...]:
    """The sets of BEIR folders and suite files, in order, with names that differ.

    A suite's relative paths start at `data`, or without it at the suite's own folder.
    `settings` are `key=value` of a suite, such as "depth=1000" or "sets.1.split=dev".
    """
    found: list[EvaluationSet] = []
    for path in map(Path, paths):
        if path.is_dir():
            folder: dict[str, Any] = {"sets": [{"path": str(path.resolve())}]}
            found += _sets_of(folder, str(path), path, settings)
        else:
            start = Path(data) if data is not None else path.parent
            found += _sets_of(read_toml(path), str(path), start, settings)
    repeated = [name for name, count in Counter(each.name for each in found).items() if count > 1]
    if repeated:
        raise ConfigError(
            "sets",
            expected="a name of its own for each set",
            found=f"{repeated[0]!r} twice",
            remedy='Give one of them another name = "..." in the suite.',
        )
    return tuple(found)


def _sets_of(
    table: dict[str, Any], where: str, start: Path, settings: Sequence[str]
) -> list[EvaluationSet]:
    for setting in settings:
        table = override(table, setting)
    suite = parse(Suite, table, where)
    found = []
    for number, entry in enumerate(suite.sets, start=1):
        shared = {
            name: getattr(suite if getattr(entry, name) is None else entry, name)
            for name in SHARED_SETTINGS
        }
        try:
            found.append(EvaluationSet(start / entry.path, entry.name, **shared))
        except ConfigError as error:  # of a measure or a row: say of which set
            raise ConfigError(
                f"{where}, key sets.{number}.{error.where}",
                expected=error.expected,
                found=error.found,
                remedy=error.remedy,
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"{where}, key sets.{number}",
                expected="settings in range",
                found=str(error),
                remedy="Change the value.",
            ) from error
    return found


def check_folder(wanted: EvaluationSet) -> EvaluationSet:
    """The set, if its folder is there."""
    if not wanted.path.is_dir():
        raise DataError(
            wanted.path,
            expected=f"the folder of the set {wanted.name}",
            found="a file" if wanted.path.exists() else "nothing at this path",
            remedy="Give the folder that holds the sets of a suite with --data.",
        )
    return replace(wanted, path=wanted.path.resolve())
