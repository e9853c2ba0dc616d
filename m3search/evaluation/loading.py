"""From paths and names to sets: folders, suites in TOML that list them, published data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from m3search.config import override, parse, read_toml
from m3search.errors import ConfigError
from m3search.evaluation.sources import (
    Source,
    cache_folder,
    fetch,
    find_source,
    is_source_name,
    kinds_of_sources,
)
from m3search.evaluation.suite import EvaluationSet


@dataclass(frozen=True)
class Suite:
    """A suite file without the settings that all its sets share."""

    sets: list[dict[str, Any]]
    """the [[sets]] tables"""
    description: str = ""

    def __post_init__(self) -> None:
        if not self.sets:
            raise ValueError("no [[sets]]")


SUITE_KEYS = {field.name for field in fields(Suite)}
SHARED_KEYS = {field.name for field in fields(EvaluationSet)} - {"path", "name"}
"""what may stand above the first [[sets]], and holds for all of them"""


def load_sets(
    paths: Iterable[str | Path],
    *,
    data: str | Path | None = None,
    settings: Sequence[str] = (),
    report: Callable[[str], None] = lambda _: None,
) -> tuple[EvaluationSet, ...]:
    """The sets of folders, suite files and names of data sets, in order, with names that differ.

    A suite's relative paths start at `data`, or without it at the suite's own folder. What is there
    is no name. Data sets are fetched, each once, into `data` or the user's cache; `report` is told
    before each. `settings` are `key=value` of a suite, such as "depth=1000" or "sets.1.split=dev".
    """
    start = None if data is None else Path(data)
    found: list[EvaluationSet] = []
    sources: list[Source] = []
    for path in map(Path, paths):
        if path.is_dir():
            folder: dict[str, Any] = {"sets": [{"path": str(path.resolve())}]}
            found += _sets_of(folder, str(path), path, settings)
        elif path.exists():
            place = path.parent if start is None else start
            found += _sets_of(read_toml(path), str(path), place, settings)
        else:
            source = _named(str(path))
            found += _sets_of(_table_of(source), str(path), cache_folder(start), settings)
            sources.append(source)
    _check_names(found)
    for source in sources:
        fetch(source, cache_folder(start), report)
    return tuple(found)


def _named(name: str) -> Source:
    if is_source_name(name):
        return find_source(name)
    names = ", ".join(kinds_of_sources())
    raise ConfigError(
        name,
        expected=f"the folder of a set, a suite in TOML, or a data set: {names}",
        found="nothing at this path, and no such name",
        remedy="Check the path.",
    )


def _table_of(source: Source) -> dict[str, Any]:
    """A data set as a suite has it."""
    shared: dict[str, Any] = {"split": source.split}
    if source.language is not None:
        shared["language"] = source.language
    if source.measures:
        shared["measures"] = list(source.measures)
    return shared | {"sets": [{"path": source.folder, "name": source.set_name}]}


def _check_names(found: Sequence[EvaluationSet]) -> None:
    repeated = [name for name, count in Counter(each.name for each in found).items() if count > 1]
    if repeated:
        raise ConfigError(
            "sets",
            expected="a name of its own for each set",
            found=f"{repeated[0]!r} twice",
            remedy='Give one of them another name = "..." in the suite.',
        )


def _sets_of(
    table: dict[str, Any], where: str, start: Path, settings: Sequence[str]
) -> list[EvaluationSet]:
    for setting in settings:
        table = override(table, setting)
    for name in table.keys() - SUITE_KEYS - SHARED_KEYS:
        raise ConfigError.unknown(f"{where}, key {name}", name, SUITE_KEYS | SHARED_KEYS)
    suite = parse(Suite, {name: table[name] for name in table.keys() & SUITE_KEYS}, where)
    shared = {name: table[name] for name in table.keys() & SHARED_KEYS}
    _parse_set({"path": ".", "name": "any", **shared}, where, "")  # a wrong one is told as shared
    found = []
    for number, entry in enumerate(suite.sets, start=1):
        merged = shared | entry
        if "weights" in entry and "row_weights" not in entry:
            merged.pop("row_weights", None)  # what a set says goes before what holds for all
        if "row_settings" in shared and "row_settings" not in entry:
            merged["row_settings"] = {
                row: {key: value for key, value in own.items() if key not in entry}
                for row, own in shared["row_settings"].items()
            }
        if isinstance(path := entry.get("path"), str):
            merged["path"] = str(start / path)
        found.append(_parse_set(merged, where, f"sets.{number}"))
    return found


def _parse_set(table: dict[str, Any], where: str, prefix: str) -> EvaluationSet:
    """The set of a table that stands at the key `prefix` of the file `where`."""
    try:
        return parse(EvaluationSet, table, where)
    except ConfigError as error:  # its place counts from the table, or is a field's name alone
        key = error.where.removeprefix(where).removeprefix(", key ")
        keys = ".".join(filter(None, (prefix, key)))
        raise ConfigError(
            f"{where}, key {keys}" if keys else where,
            expected=error.expected,
            found=error.found,
            remedy=error.remedy,
        ) from error
