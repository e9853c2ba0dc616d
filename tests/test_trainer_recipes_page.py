"""trainer/RECIPES.md says of every key of a recipe what the dataclasses say."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal, Union

import pytest

from m3search.training.recipe import Recipe

PAGE = Path(__file__).parent.parent / "trainer" / "RECIPES.md"
NEEDED, ABSENT = "needed", dataclasses.MISSING


class Row(typing.NamedTuple):
    key: str
    kind: str
    default: str
    meaning: str
    stages: str


def read_page() -> dict[str, list[Row]]:
    """The rows by the table of the recipe; what stands above all tables is under ""."""
    found: dict[str, list[Row]] = {}
    name = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
            name = heading.strip("[]") if heading.startswith("[") else ""
            found[name] = []
        elif line.startswith("| `"):
            row = Row(*(cell.strip() for cell in line.strip("|").split(" | ")))
            found[name].append(row._replace(key=row.key.strip("`")))
    return found


def written(field: dataclasses.Field[Any]) -> str:
    """A default as the page has it."""
    if field.default_factory is not ABSENT:
        return "its defaults"
    if field.default is ABSENT:
        return NEEDED
    if field.default is None:
        return "none"
    return json.dumps(field.default)


def parts(kind: Any) -> list[Any]:
    """The types that a type is made of, itself included."""
    return [kind, *(part for each in typing.get_args(kind) for part in parts(each))]


def tables(kind: Any, name: str) -> dict[str, Any]:
    """Every dataclass below one, by its dotted name."""
    found = {name: kind}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        for part in parts(hints[field.name]):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                found |= tables(part, f"{name}.{field.name}".lstrip("."))
    return found


TABLES = tables(Recipe, "")


def test_every_table_has_its_own_on_the_page() -> None:
    assert len(TABLES) == 14
    assert read_page().keys() == TABLES.keys()


@pytest.mark.parametrize("name", TABLES)
def test_keys_and_defaults_are_those_of_the_dataclass(name: str) -> None:
    rows = {row.key: row.default for row in read_page()[name]}
    assert rows == {field.name: written(field) for field in dataclasses.fields(TABLES[name])}
    assert len(rows) == len(read_page()[name])


@pytest.mark.parametrize("name", TABLES)
def test_types_are_those_of_the_dataclass(name: str) -> None:
    words: dict[Any, str] = {str: "string", bool: "true or false", int: "number", float: "number"}
    hints = typing.get_type_hints(TABLES[name])
    for row in read_page()[name]:
        assert row.meaning and row.stages
        kind = hints[row.key]
        for part in parts(kind):
            if typing.get_origin(part) is Literal:
                assert all(f'`"{choice}"`' in row.kind for choice in typing.get_args(part))
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                assert "table" in row.kind
            if part in words and typing.get_origin(kind) in (None, Union, types.UnionType):
                assert words[part] in row.kind, row.key
            if part is int:
                assert "whole" in row.kind, row.key


def test_the_readme_and_the_command_name_the_page() -> None:
    from m3search.cli.training import train_model

    assert "(RECIPES.md)" in (PAGE.parent / "README.md").read_text(encoding="utf-8")
    assert "trainer/RECIPES.md" in (train_model.__doc__ or "")
