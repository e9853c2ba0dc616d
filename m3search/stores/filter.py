"""Conditions on metadata: parsed from text, and as SQL."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal, cast

from m3search.errors import ConfigError

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in"]

GRAMMAR = "conditions joined by commas: lang=de, year>=2000, type!=note, lang in de|fr|es"
COLUMNS = ("id", "title")
"""fields of the document itself; every other field is looked up in its metadata"""
MOST_CONDITIONS = 500
"""SQLite takes no deeper expression than about a thousand"""

_CONDITION = re.compile(r'\s*([^=!<>|,"]+?)\s*(!=|<=|>=|=|<|>|\s+in\s+)\s*(.*?)\s*', re.DOTALL)
_NUMBER = re.compile(r"-?(\d+)(\.\d+)?([eE][+-]?\d+)?")
_AS_TEXT = (
    "CASE each.type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false'"
    " ELSE CAST(each.value AS TEXT) END"
)
_LISTED = "IN (SELECT value FROM json_each(?))"


@dataclass(frozen=True)
class Condition:
    """One comparison of a field with a value, or for `in` with several."""

    field: str
    operator: Operator
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        for value in (self.field, *self.values):
            check_text(value, f"filter on {self.field!r}")
            if self.operator == "in" and "\0" in value:
                raise _malformed(f"{self.field} in ...", f"a null character in {value!r}")

    def sql(self) -> tuple[str, list[Any]]:
        """A condition on the table of documents, and its bound parameters."""
        if self.operator == "!=":
            sql, values = Condition(self.field, "=", self.values).sql()
            return f"NOT ({sql})", values
        if self.field in COLUMNS:
            if self.operator == "in":
                return f"{self.field} {_LISTED}", [json.dumps(self.values)]
            return f"{self.field} {self.operator} ?", [self.values[0]]
        matches, values = self._match_any() if self.operator == "in" else self._match_one()
        # json_each gives the elements of a list, a single value as it is, nothing where none is
        found = f"EXISTS (SELECT 1 FROM json_each(metadata, ?) AS each WHERE {matches})"
        return found, [f'$."{self.field}"', *values]

    def _match_one(self) -> tuple[str, list[Any]]:
        value = self.values[0]
        number = _parse_number(value)
        matches = f"{_AS_TEXT} {self.operator} ?"
        if number is None:
            return matches, [value]
        as_number = f"each.value {self.operator} ?"
        return _by_type(as_number, matches), [number, value]

    def _match_any(self) -> tuple[str, list[Any]]:
        """As `=` with any of the values, however many: they are bound as lists in JSON."""
        numbers = [_parse_number(value) for value in self.values]
        texts = [
            value for value, number in zip(self.values, numbers, strict=True) if number is None
        ]
        as_numbers = f"each.value {_LISTED} OR {_AS_TEXT} {_LISTED}"
        known = json.dumps([number for number in numbers if number is not None])
        lists = [known.replace("Infinity", "9e999"), json.dumps(texts), json.dumps(self.values)]
        return _by_type(as_numbers, f"{_AS_TEXT} {_LISTED}"), lists


def _by_type(as_numbers: str, as_text: str) -> str:
    return f"CASE WHEN each.type IN ('integer', 'real') THEN {as_numbers} ELSE {as_text} END"


@dataclass(frozen=True)
class Filter:
    """Conditions that must all hold.

    A field and a value compare as numbers where both are numbers, else as text by code point.
    Of a field that holds a list one element has to match; for `!=` none may be equal.
    A document without the field, or with null in it, matches only `!=`.
    """

    conditions: tuple[Condition, ...]

    def __post_init__(self) -> None:
        if len(self.conditions) > MOST_CONDITIONS:
            raise ConfigError(
                "filter",
                expected=f"at most {MOST_CONDITIONS} conditions",
                found=str(len(self.conditions)),
                remedy="Ask for many values of one field with `in`: lang in de|fr|es.",
            )

    @property
    def size(self) -> int:
        """About the bytes that it takes in memory."""
        return sum(64 + len(value) for each in self.conditions for value in each.values)

    @classmethod
    def parse(cls, text: str) -> Filter:
        """The filter written as 'lang=de,year>=2000'; ConfigError with the grammar if it is none.

        >>> Filter.parse("lang in de|fr").conditions
        (Condition(field='lang', operator='in', values=('de', 'fr')),)
        """
        return cls(tuple(_parse_condition(part, text) for part in text.split(",")))

    def sql(self) -> tuple[str, list[Any]]:
        """A condition on the table of documents, and its bound parameters."""
        parts = [condition.sql() for condition in self.conditions]
        sql = " AND ".join(f"({part})" for part, _ in parts) or "1"
        return sql, [value for _, values in parts for value in values]


def check_text(text: str, where: str) -> None:
    """ConfigError where it is no text in UTF-8: a shell can hand over bytes that are none."""
    try:
        text.encode()
    except (UnicodeEncodeError, AttributeError) as error:
        raise ConfigError(
            where,
            expected="text in UTF-8",
            found=repr(text),
            remedy="Write it in UTF-8, without bytes or half characters that are no text.",
        ) from error


def _parse_condition(part: str, text: str) -> Condition:
    match = _CONDITION.fullmatch(part)
    if match is None:
        raise _malformed(text, repr(part.strip()) if part.strip() else "an empty condition")
    field, operator, value = match[1], match[2].strip(), match[3]
    values = tuple(v.strip() for v in value.split("|")) if operator == "in" else (value,)
    if operator == "in" and not all(values):
        raise _malformed(text, f"an empty value in {part.strip()!r}")
    if re.match(r"[=<>!]", value):
        raise _malformed(text, repr(part.strip()))
    return Condition(field, cast(Operator, operator), values)


def _malformed(text: str, found: str) -> ConfigError:
    return ConfigError(
        f"filter {text!r}",
        expected=GRAMMAR,
        found=found,
        remedy="Operators are =, !=, <, <=, >, >= and in; a value holds no comma.",
    )


def _parse_number(text: str) -> int | float | None:
    """The text as a number if it is written as one."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    whole = match[2] is None and match[3] is None and len(match[1]) <= 18  # fits in 64 bits
    return int(text) if whole else float(text)
