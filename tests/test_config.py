"""Strict TOML: what a dataclass takes, and how each mistake is answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from m3search.config import override, parse, read_toml
from m3search.errors import ConfigError


@dataclass(frozen=True)
class Optimizer:
    rate: float = 1e-4
    name: Literal["adamw", "sgd"] = "adamw"


@dataclass(frozen=True)
class Data:
    path: Path
    weight: float = 1.0


@dataclass(frozen=True)
class Recipe:
    steps: int
    title: str = ""
    resume: bool = False
    optimizer: Optimizer = field(default_factory=Optimizer)
    data: tuple[Data, ...] = ()
    betas: tuple[float, float] = (0.9, 0.999)
    tags: list[str] = field(default_factory=list)
    limit: int | None = None
    warmup: Optional[Optimizer] = None  # noqa: UP045 - both spellings are read
    scale: int | Literal["auto"] = "auto"
    extra: dict[str, float] = field(default_factory=dict)
    anything: Any = None
    derived: int = field(init=False, default=7)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps {self.steps} below 1")


def wrong(table: dict[str, Any], cls: type = Recipe) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(cls, table, "r.toml")
    return caught.value


def test_a_whole_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        """
        steps = 10
        betas = [0, 0.5]
        tags = ["a", "b"]
        limit = 3
        scale = 2
        anything = [1, "x"]
        [optimizer]
        rate = 1
        name = "sgd"
        [[data]]
        path = "one.jsonl"
        [[data]]
        path = "two.jsonl"
        weight = 2
        [warmup]
        rate = 0.5
        [extra]
        a = 1
        """
    )
    recipe = parse(Recipe, read_toml(path), str(path))
    assert recipe == Recipe(
        steps=10,
        betas=(0.0, 0.5),
        tags=["a", "b"],
        limit=3,
        scale=2,
        anything=[1, "x"],
        optimizer=Optimizer(1.0, "sgd"),
        data=(Data(Path("one.jsonl")), Data(Path("two.jsonl"), 2.0)),
        warmup=Optimizer(0.5),
        extra={"a": 1.0},
    )
    assert isinstance(recipe.optimizer.rate, float)


def test_defaults_and_none() -> None:
    assert parse(Recipe, {"steps": 1}, "r") == Recipe(1)
    assert parse(Recipe, {"steps": 1, "limit": None}, "r").limit is None


def test_an_unknown_key_gets_the_nearest_one_of_its_table() -> None:
    error = wrong({"stpes": 1})
    assert error.where == "r.toml, key stpes"
    assert "'steps'" in error.remedy
    error = wrong({"steps": 1, "optimizer": {"rat": 1.0}})
    assert error.where == "r.toml, key optimizer.rat"
    assert "'rate'" in error.remedy
    error = wrong({"steps": 1, "data": [{"path": "a"}, {"path": "b", "wieght": 1}]})
    assert error.where == "r.toml, key data.2.wieght"
    assert "'weight'" in error.remedy


def test_a_key_that_is_not_for_users() -> None:
    assert wrong({"steps": 1, "derived": 1}).where == "r.toml, key derived"


def test_a_missing_key() -> None:
    error = wrong({})
    assert "steps" in error.expected and "whole number" in error.expected
    error = wrong({"steps": 1, "data": [{}]})
    assert error.where == "r.toml, key data.1"
    assert "path" in error.expected


@pytest.mark.parametrize(
    ("table", "key", "expected", "found"),
    [
        ({"steps": "10"}, "steps", "a whole number", "a string, '10'"),
        ({"steps": 1.0}, "steps", "a whole number", "the number 1.0"),
        ({"steps": True}, "steps", "a whole number", "true"),
        ({"title": 5}, "title", "a string", "a whole number, 5"),
        ({"resume": 1}, "resume", "true or false", "a whole number, 1"),
        ({"optimizer": 3}, "optimizer", "a table", "a whole number, 3"),
        ({"optimizer": {"rate": True}}, "optimizer.rate", "a finite number", "true"),
        ({"optimizer": {"rate": float("nan")}}, "optimizer.rate", "a finite number", "number nan"),
        ({"optimizer": {"rate": "1e-4"}}, "optimizer.rate", "a finite number", "'1e-4'"),
        ({"optimizer": {"name": 1}}, "optimizer.name", "one of adamw, sgd", "1"),
        ({"warmup": {"rate": "x"}}, "warmup.rate", "a finite number", "'x'"),
        ({"tags": "a"}, "tags", "a list, each of it a string", "'a'"),
        ({"tags": ["a", 1]}, "tags.2", "a string", "1"),
        ({"betas": [0.1]}, "betas", "a list of 2: a finite number, a finite number", "a list of 1"),
        ({"betas": [0.1, "x"]}, "betas.2", "a finite number", "'x'"),
        ({"data": {"path": "x"}}, "data", "a list, each of it a table", "a table"),
        ({"data": [{"path": 1}]}, "data.1.path", "a path, as a string", "1"),
        ({"limit": "all"}, "limit", "a whole number", "'all'"),
        ({"scale": "none"}, "scale", "a whole number or one of auto", "'none'"),
        ({"extra": {"a": "x"}}, "extra.a", "a finite number", "'x'"),
        ({"extra": [1]}, "extra", "a table", "a list of 1"),
    ],
)
def test_a_wrong_type_is_named(table, key: str, expected: str, found: str) -> None:
    error = wrong({"steps": 1} | table)
    assert error.where == f"r.toml, key {key}"
    assert error.expected == expected
    assert found in error.found


@pytest.mark.parametrize(
    ("table", "remedy"),
    [
        ({"steps": 1.0}, "Give a whole number."),
        ({"optimizer": {"rate": float("nan")}}, "Give a finite number."),
        ({"resume": "true"}, "Numbers and true or false stand without quotes, strings with."),
        ({"title": 5}, "Numbers and true or false stand without quotes, strings with."),
        ({"tags": "a"}, 'Write tags = ["..."], or the like.'),
        ({"betas": 1}, "Write betas = [1.0, 2.0], or the like."),
        ({"warmup": True}, "Write warmup = { rate = 0.0001 }, or the like."),
        ({"extra": 1}, "Write extra = { KEY = 1.0 }, or the like."),
        ({"data": 1}, 'Write data = [{ path = "..." }], or the like.'),
        ({"data": [1]}, 'Write data = { path = "..." }, or the like.'),
    ],
)
def test_a_wrong_type_is_answered_with_how_it_is_written(
    table: dict[str, Any], remedy: str
) -> None:
    assert wrong({"steps": 1} | table).remedy == remedy


def test_a_wrong_choice_gets_the_nearest_one() -> None:
    error = wrong({"steps": 1, "optimizer": {"name": "adam"}})
    assert error.where == "r.toml, key optimizer.name"
    assert "'adamw'" in error.remedy


def test_the_checks_of_the_dataclass_itself() -> None:
    error = wrong({"steps": 0})
    assert (error.where, error.found) == ("r.toml", "steps 0 below 1")


def test_a_type_that_cannot_be_read_is_a_bug_and_not_an_error_of_the_user() -> None:
    @dataclass(frozen=True)
    class Odd:
        value: bytes

    with pytest.raises(TypeError):
        parse(Odd, {"value": "x"}, "r.toml")


@pytest.mark.parametrize(
    ("content", "expected", "found"),
    [(b"a = \nb = 1", "TOML", "line 1"), (b"a = 'caf\xe9'", "UTF-8", "0xe9")],
)
def test_a_file_that_is_not_toml(tmp_path: Path, content: bytes, expected: str, found: str) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert caught.value.where == str(path)
    assert caught.value.expected == expected
    assert found in caught.value.found


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_toml(tmp_path / "r.toml")
    with pytest.raises(ConfigError, match="is a directory"):
        read_toml(tmp_path)


def test_a_byte_order_mark_is_not_a_key(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1")
    assert read_toml(path) == {"a": 1}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("a=1", {"a": 1, "b": {"c": 2}, "d": [{"e": 3}]}),
        ("b.c = -0.5", {"b": {"c": -0.5}, "d": [{"e": 3}]}),
        ("b.x.y=true", {"b": {"c": 2, "x": {"y": True}}, "d": [{"e": 3}]}),
        ("b.c=plain words", {"b": {"c": "plain words"}, "d": [{"e": 3}]}),
        ('b.c="1"', {"b": {"c": "1"}, "d": [{"e": 3}]}),
        ("b.c=a=b", {"b": {"c": "a=b"}, "d": [{"e": 3}]}),
        ("b.c=", {"b": {"c": ""}, "d": [{"e": 3}]}),
        ('b.c=["x", "y"]', {"b": {"c": ["x", "y"]}, "d": [{"e": 3}]}),
        ("b.c=1\nz=2", {"b": {"c": "1\nz=2"}, "d": [{"e": 3}]}),
        ("d.1.e=4", {"b": {"c": 2}, "d": [{"e": 4}]}),
    ],
)
def test_one_setting(setting: str, expected) -> None:
    table = {"b": {"c": 2}, "d": [{"e": 3}]}
    assert override(table, setting) == expected
    assert table == {"b": {"c": 2}, "d": [{"e": 3}]}


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("steps", "no ="),
        ("=1", "an empty key"),
        ("a..b=1", "an empty key"),
        ("a.b=1", "a whole number, 5"),
        ("a.b.c=1", "a whole number, 5"),
        ("d.2.e=1", "'2'"),
        ("d.0.e=1", "'0'"),
        ("d.e=1", "a list of 1"),
    ],
)
def test_a_setting_that_has_no_place(setting: str, found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override({"a": 5, "d": [{"e": 3}]}, setting)
    assert found in caught.value.found
    if "=" not in setting:
        assert caught.value.remedy == f"Write {setting}=VALUE."
