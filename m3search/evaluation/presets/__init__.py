"""Evaluations of arXiv 2402.03216v4 by name: how it ran them, and the values it has.

<name>.toml            data sets, languages, and the settings of a suite
<name>.published.toml  the values of BAAI/bge-m3
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from m3search.config import parse, read_toml
from m3search.errors import ConfigError

_FOLDER = Path(str(resources.files("m3search") / "evaluation" / "presets"))
_PUBLISHED = ".published"


@dataclass(frozen=True)
class Preset:
    """An evaluation as it was published."""

    description: str
    source: str
    """the name of its data sets, with {language} where there are several"""
    languages: tuple[str, ...]
    settings: dict[str, Any]
    """what a suite says for all of its sets"""

    def source_name(self, language: str) -> str:
        """The data set of a language."""
        return self.source.format(language=language)


@dataclass(frozen=True)
class PublishedTable:
    """Published values of one measure, in percent."""

    measure: str
    place: str
    """in the paper"""
    average: dict[str, float]
    """row -> mean over all languages of the preset"""
    languages: dict[str, dict[str, float]] = field(default_factory=dict)
    """row -> language -> value, of those that are known"""


@dataclass(frozen=True)
class _Published:
    tables: list[PublishedTable]


def preset_names() -> list[str]:
    """All that there are, in alphabetical order."""
    names = (path.name.removesuffix(".toml") for path in _FOLDER.glob("*.toml"))
    return sorted(name for name in names if not name.endswith(_PUBLISHED))


def find_preset(name: str) -> Preset:
    """The preset of a name; ConfigError for another."""
    if name not in preset_names():
        raise ConfigError.unknown("preset", name, preset_names())
    path = _FOLDER / f"{name}.toml"
    return parse(Preset, read_toml(path), str(path))


@lru_cache
def read_published(name: str) -> tuple[PublishedTable, ...]:
    """The published values of a preset, a table for each measure."""
    path = _FOLDER / f"{name}{_PUBLISHED}.toml"
    return tuple(parse(_Published, read_toml(path), str(path)).tables)


def check_published(name: str) -> None:
    """ConfigError unless a name is that of a preset and one of its languages, as miracl/yo."""
    preset, _, language = name.partition("/")
    if preset not in preset_names():
        raise ConfigError.unknown("published", preset, preset_names())
    languages = find_preset(preset).languages
    if language not in languages:
        raise ConfigError.unknown("published", name, [f"{preset}/{each}" for each in languages])
