"""From paths and names to sets: folders, suites in TOML that list them, published data sets."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from m3search.config import override, parse, read_toml
from m3search.errors import ConfigError
from m3search.evaluation.presets import find_preset, preset_names
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
    languages: Sequence[str] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[EvaluationSet, ...]:
    """The sets of folders, suite files, presets and data sets by name, in order, with names that
    differ.

    A suite's relative paths start at `data`, or without it at the suite's own folder. What is there
    is no name. Data sets are fetched, each once, into `data` or the user's cache; `report` is told
    before each. `settings` are `key=value` of a suite, such as "depth=1000" or "sets.1.split=dev".
    `languages` are those of the presets; None is all.
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
            table, named = _named(str(path), languages)
            found += _sets_of(table, str(path), cache_folder(start), settings)
            sources += named
    _check_different(found)
    if languages is not None and not any(each.published for each in found):
        raise ConfigError(
            "--lang",
            expected=f"a preset, whose languages it names: {', '.join(preset_names())}",
            found="none",
            remedy="Leave it out.",
        )
    for source in sources:
        fetch(source, cache_folder(start), report)
    return tuple(found)


def _named(name: str, languages: Sequence[str] | None) -> tuple[dict[str, Any], list[Source]]:
    """A preset or a data set, as a suite has it, and what is to be fetched."""
    if name in preset_names():
        return _preset_table(name, languages)
    if is_source_name(name):
        source = find_source(name)
        return _source_settings(source) | {"sets": [_source_set(source)]}, [source]
    near = difflib.get_close_matches(name, preset_names(), n=1)
    raise ConfigError(
        name,
        expected=f"the folder of a set, a suite in TOML, a preset ({', '.join(preset_names())}) or "
        f"a data set ({', '.join(kinds_of_sources())})",
        found="nothing at this path, and no such name",
        remedy=f"Did you mean {near[0]}?" if near else "Check the path.",
    )


def _preset_table(
    name: str, languages: Sequence[str] | None
) -> tuple[dict[str, Any], list[Source]]:
    preset = find_preset(name)
    for language in languages or ():
        if language not in preset.languages:
            raise ConfigError.unknown("--lang", language, preset.languages)
    sources = [find_source(preset.source_name(each)) for each in languages or preset.languages]
    shared: dict[str, Any] = {}
    sets = []
    for language, source in zip(languages or preset.languages, sources, strict=True):
        own = _source_settings(source)
        spoken = {"language": own.pop("language")} if "language" in own else {}
        shared |= own
        sets.append({**_source_set(source), **spoken, "published": f"{name}/{language}"})
    return shared | preset.settings | {"sets": sets}, sources


def _source_settings(source: Source) -> dict[str, Any]:
    """How a data set is evaluated by itself."""
    settings: dict[str, Any] = {"split": source.split}
    if source.language is not None:
        settings["language"] = source.language
    if source.drop_same_id:
        settings["drop_same_id"] = True
    if source.measures:
        settings["measures"] = list(source.measures)
    return settings


def _source_set(source: Source) -> dict[str, Any]:
    return {"path": source.folder, "name": source.set_name}


def _check_different(found: Sequence[EvaluationSet]) -> None:
    repeated = [name for name, count in Counter(each.name for each in found).items() if count > 1]
    if repeated:
        raise ConfigError(
            "sets",
            expected="a name of its own for each set",
            found=f"{repeated[0]!r} twice",
            remedy='Give one of them another name = "..." in the suite.',
        )
    published = [each.published for each in found if each.published]
    if twice := [name for name, count in Counter(published).items() if count > 1]:
        raise ConfigError(
            "sets",
            expected="one set at most to stand beside each of the published values",
            found=f'published = "{twice[0]}" of two',
            remedy="Leave it out of one of them, or evaluate them one after the other.",
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
    general = [setting for setting in settings if _key(setting) in SHARED_KEYS]
    found = []
    for number, entry in enumerate(suite.sets, start=1):
        own = [each.partition(".")[2].partition(".")[2] for each in settings
               if each.startswith(f"sets.{number}.")]  # fmt: skip
        merged = shared | entry
        if "weights" in entry and "row_weights" not in entry:
            merged.pop("row_weights", None)  # what a set says goes before what holds for all
        if "row_settings" in shared and "row_settings" not in entry:
            merged["row_settings"] = {
                row: {key: value for key, value in own.items() if key not in entry}
                for row, own in shared["row_settings"].items()
            }
        for setting in (*general, *own):  # what was given for this one last
            merged = override(merged, setting)
        if isinstance(path := entry.get("path"), str):
            merged["path"] = str(start / path)
        found.append(_parse_set(merged, where, f"sets.{number}"))
    return found


def _key(setting: str) -> str:
    """The first name in `a.b=value`."""
    return setting.partition("=")[0].partition(".")[0].strip()


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
