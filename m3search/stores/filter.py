"""Conditions on metadata: parsed from text, and as SQL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, cast

from m3search.errors import ConfigError

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in"]

GRAMMAR = "conditions joined by commas: lang=de, year>=2000, type!=note, lang in de|fr|es"
COLUMNS = ("id", "title")
"""fields of the document itself; every other field is looked up in its metadata"""

_CONDITION = re.compile(r'\s*([^=!<>|,"]+?)\s*(!=|<=|>=|=|<|>|\s+in\s+)\s*(.*?)\s*', re.DOTALL)
_NUMBER = re.compile(r"-?(\d+)(\.\d+)?([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Condition:
    """One comparison of a field with a value, or for `in` with several."""

    field: str
    operator: Operator
    values: tuple[str, ...]

    def sql(self) -> tuple[str, list[Any]]:
        """A condition on the table of documents, and its bound parameters."""
        if self.operator == "in":
            parts = [Condition(self.field, "=", (value,)).sql() for value in self.values]
            return " OR ".join(sql for sql, _ in parts), [v for _, values in parts for v in values]
        if self.operator == "!=":
            sql, values = Condition(self.field, "=", self.values).sql()
            return f"NOT ({sql})", values
        return self._compare(self.values[0])

    def _compare(self, value: str) -> tuple[str, list[Any]]:
        if self.field in COLUMNS:
            return f"{self.field} {self.operator} ?", [value]
        path = f'$."{self.field}"'
        number = _parse_number(value)
        matches = (
            "CASE each.type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false'"
            f" ELSE CAST(each.value AS TEXT) END {self.operator} ?"
        )
        values: list[Any] = [value]
        if number is not None:
            as_number = f"THEN each.value {self.operator} ?"
            matches = f"CASE WHEN each.type IN ('integer', 'real') {as_number} ELSE {matches} END"
            values = [number, value]
        # json_each gives the elements of a list, a single value as it is, nothing where none is
        found = f"EXISTS (SELECT 1 FROM json_each(metadata, ?) AS each WHERE {matches})"
        return found, [path, *values]


@dataclass(frozen=True)
class Filter:
    """Conditions that must all hold.

    A field and a value compare as numbers where both are numbers, else as text by code point.
    Of a field that holds a list one element has to match; for `!=` none may be equal.
    A document without the field, or with null in it, matches only `!=`.
    """

    conditions: tuple[Condition, ...]

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
