"""TOML read strictly into frozen dataclasses: training recipes and evaluation suites.

A dataclass says which keys there are and of which type; nothing is guessed and nothing ignored.
Keys are named as in `optimiser.steps`; the tables of a list count from 1, as in `sets.2.path`.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from m3search.errors import ConfigError

T = TypeVar("T")

SCALARS: dict[Any, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    Path: "a path, as a string",
}


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    place = Path(path)
    try:
        return tomllib.loads(place.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        remedy = "Correct the line; strings need quotes."
        found = f"what TOML does not allow ({error})"
        raise ConfigError(str(place), expected="TOML", found=found, remedy=remedy) from error
    except UnicodeDecodeError as error:
        remedy = "Save the file as UTF-8."
        found = f"byte 0x{error.object[error.start]:02x}"
        raise ConfigError(str(place), expected="UTF-8", found=found, remedy=remedy) from error
    except OSError as error:
        found = error.strerror or str(error)
        remedy = "Check the path."
        raise ConfigError(
            str(place), expected="a TOML file", found=found.lower(), remedy=remedy
        ) from error


def override(table: Mapping[str, Any], setting: str) -> dict[str, Any]:
    """A copy of the table with one `a.b=value` set.

    The value is read as TOML, and as a plain string where it is none. Tables on the way are made;
    tables of a list count from 1. Whether the key exists is for `parse` to say.
    """
    dotted, equals, text = setting.partition("=")
    names = [name.strip() for name in dotted.split(".")]
    if not equals or not all(names):
        raise ConfigError(
            f"setting {setting!r}",
            expected="key=value",
            found="no =" if not equals else "an empty key",
            remedy=f"Write {dotted.strip(' .') or 'KEY'}=VALUE.",
        )
    changed = deepcopy(dict(table))
    place: Any = changed
    for depth, name in enumerate(names[:-1], start=1):
        place = _step(place, name, ".".join(names[:depth]), setting)
    if not isinstance(place, dict):
        raise _not_a_table(setting, ".".join(names[:-1]), place)
    place[names[-1]] = _toml_value(text.strip())
    return changed


def _step(place: Any, name: str, key: str, setting: str) -> Any:
    if isinstance(place, list):
        if not name.isdecimal() or not 1 <= int(name) <= len(place):
            raise ConfigError(
                f"setting {setting!r}",
                expected=f"a number from 1 to {len(place)} in {key}",
                found=repr(name),
                remedy="Tables of a list count from 1.",
            )
        return place[int(name) - 1]
    if not isinstance(place, dict):
        raise _not_a_table(setting, key.rpartition(".")[0], place)
    return place.setdefault(name, {})


def _not_a_table(setting: str, key: str, found: Any) -> ConfigError:
    return ConfigError(
        f"setting {setting!r}",
        expected=f"{key} to be a table",
        found=_describe(found),
        remedy="Check the key.",
    )


def _toml_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if list(table) == ["value"] else text


def parse(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """The dataclass that a table describes; `where`, usually a file, begins every error.

    An unknown key, a missing one and a value of the wrong type are ConfigErrors. A float takes
    an integer; a ValueError of the dataclass's own checks becomes a ConfigError.
    """
    return _dataclass(cls, table, where, ())


def _dataclass(cls: type[T], table: Any, where: str, keys: tuple[str, ...]) -> T:
    if not isinstance(table, Mapping):
        raise _wrong_type(cls, table, where, keys)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for name in table:
        if name not in fields:
            raise ConfigError.unknown(_place(where, (*keys, str(name))), str(name), fields)
    values = {
        name: _value(hints[name], value, where, (*keys, name)) for name, value in table.items()
    }
    for name, field in fields.items():
        if name not in values and _is_required(field):
            raise ConfigError(
                _place(where, keys),
                expected=f"the key {name}, {_expected(hints[name])}",
                found="none",
                remedy=f"Add {'.'.join((*keys, name))} = ...",
            )
    try:
        return cls(**values)
    except ValueError as error:
        remedy = "Change the value."
        raise ConfigError(
            _place(where, keys), expected="values in range", found=str(error), remedy=remedy
        ) from error


def _is_required(field: dataclasses.Field[Any]) -> bool:
    absent = dataclasses.MISSING
    return field.default is absent and field.default_factory is absent


def _value(kind: Any, value: Any, where: str, keys: tuple[str, ...]) -> Any:
    """`value` as the type `kind` wants it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if kind in SCALARS:
        return _scalar(kind, value, where, keys)
    if origin is Literal:
        return _choice(arguments, value, where, keys)
    if origin in (Union, types.UnionType):
        return _one_of(kind, value, where, keys)
    if origin in (list, tuple):
        return _sequence(kind, value, where, keys)
    if origin in (dict, Mapping):
        return _mapping(kind, value, where, keys)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, where, keys)
    raise TypeError(f"{_place(where, keys)}: no way to read a {kind}")


def _scalar(kind: Any, value: Any, where: str, keys: tuple[str, ...]) -> Any:
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is not float and type(value) is kind:
        return value
    raise _wrong_type(kind, value, where, keys)


def _choice(choices: tuple[Any, ...], value: Any, where: str, keys: tuple[str, ...]) -> Any:
    if any(type(choice) is type(value) and choice == value for choice in choices):
        return value
    if isinstance(value, str):
        raise ConfigError.unknown(_place(where, keys), value, [str(choice) for choice in choices])
    raise _wrong_type(Literal[choices], value, where, keys)


def _one_of(kind: Any, value: Any, where: str, keys: tuple[str, ...]) -> Any:
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    if value is None and len(members) < len(typing.get_args(kind)):
        return None
    if len(members) == 1:
        return _value(members[0], value, where, keys)
    for member in members:
        try:
            return _value(member, value, where, keys)
        except ConfigError:
            continue
    raise _wrong_type(kind, value, where, keys)


def _sequence(kind: Any, value: Any, where: str, keys: tuple[str, ...]) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if not isinstance(value, list | tuple):
        raise _wrong_type(kind, value, where, keys)
    fixed = origin is tuple and arguments[-1] is not Ellipsis
    if fixed and len(arguments) != len(value):
        raise _wrong_type(kind, value, where, keys)
    kinds = arguments if fixed else [arguments[0]] * len(value)
    return origin(
        _value(each, item, where, (*keys, str(number)))
        for number, (each, item) in enumerate(zip(kinds, value, strict=True), start=1)
    )


def _mapping(kind: Any, value: Any, where: str, keys: tuple[str, ...]) -> dict[Any, Any]:
    key_kind, value_kind = typing.get_args(kind)
    if not isinstance(value, Mapping):
        raise _wrong_type(kind, value, where, keys)
    return {
        _value(key_kind, key, where, keys): _value(value_kind, item, where, (*keys, str(key)))
        for key, item in value.items()
    }


def _expected(kind: Any) -> str:
    """What a type wants, in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in SCALARS:
        return SCALARS[kind]
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(each) for each in arguments if each is not type(None))
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)}: {', '.join(map(_expected, arguments))}"
    if origin in (list, tuple):
        return f"a list, each of it {_expected(arguments[0])}"
    return "a table" if kind is not Any else "a value"


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if type(value) in (bool, float):
        return str(value).lower() if type(value) is bool else f"the number {value!r}"
    return f"{SCALARS.get(type(value), type(value).__name__)}, {value!r}"


def _wrong_type(kind: Any, value: Any, where: str, keys: tuple[str, ...]) -> ConfigError:
    expected = _expected(kind)
    alone = kind in SCALARS or typing.get_origin(kind) in (Literal, Union, types.UnionType)
    if not alone:
        name = next((key for key in reversed(keys) if not key.isdecimal()), "it")
        remedy = f"Write {name} = {_example(kind)}, or the like."
    elif isinstance(value, str) or "string" in expected or "one of" in expected:
        remedy = "Numbers and true or false stand without quotes, strings with."
    else:
        remedy = f"Give {expected}."
    return ConfigError(
        _place(where, keys), expected=expected, found=_describe(value), remedy=remedy
    )


def _example(kind: Any, number: int = 1) -> str:
    """A value of a type as TOML writes it; of a fixed list the `number` says which place."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return _written(arguments[0])
    if origin in (Union, types.UnionType):
        return _example(next(each for each in arguments if each is not type(None)))
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"[{', '.join(_example(each, place) for place, each in enumerate(arguments, 1))}]"
    if origin in (list, tuple):
        return f"[{_example(arguments[0])}]"
    if origin in (dict, Mapping):
        return f"{{ KEY = {_example(arguments[1])} }}"
    if dataclasses.is_dataclass(kind):
        field = dataclasses.fields(kind)[0]
        hint = typing.get_type_hints(kind)[field.name]
        plain = isinstance(field.default, str | int | float)
        return f"{{ {field.name} = {_written(field.default) if plain else _example(hint)} }}"
    return {bool: "true", int: str(number), float: f"{number}.0"}.get(kind, '"..."')


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


def _place(where: str, keys: tuple[str, ...]) -> str:
    return f"{where}, key {'.'.join(keys)}" if keys else where
