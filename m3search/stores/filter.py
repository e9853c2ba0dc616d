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

_CONDITION = re.compile(r'\s*([^=!<>|,"]+?)\s*(!=|<=|>=|=|<|>|\s+in\s+)\s*(.*?)\s*', re.DOTALL)
LONGEST_INTEGER = 19
"""digits of one that fits in 64 bits"""
_NUMBER = re.compile(r"-?(\d+)(\.\d+)?([eE][+-]?\d+)?")
AS_TEXT = (
    "CASE each.type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false'"
    " ELSE CAST(each.value AS TEXT) END"
)
"""a value of json_each as text"""
LISTED = "IN (SELECT value FROM json_each(?))"


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

    @property
    def opposite(self) -> Condition | None:
        """Of `field != value` the condition `field = value`, which the other documents meet."""
        return Condition(self.field, "=", self.values) if self.operator == "!=" else None

    def sql(self) -> tuple[str, list[Any]]:
        """As a condition on the table of documents, for any but `!=`, and its parameters."""
        if self.field in COLUMNS:
            if self.operator == "in":
                return f"{self.field} {LISTED}", [json.dumps(self.values)]
            return f"{self.field} {self.operator} ?", [self.values[0]]
        matches, values = self._match_any() if self.operator == "in" else self._match_one()
        # json_each gives the elements of a list, a single value as it is, nothing where none is
        found = f"EXISTS (SELECT 1 FROM json_each(metadata, ?) AS each WHERE {matches})"
        return found, [f'$."{self.field}"', *values]

    def _match_one(self) -> tuple[str, list[Any]]:
        value = self.values[0]
        number = parse_number(value)
        matches = f"{AS_TEXT} {self.operator} ?"
        if number is None:
            return matches, [value]
        as_number = f"each.value {self.operator} ?"
        return _by_type(as_number, matches), [number, value]

    def _match_any(self) -> tuple[str, list[Any]]:
        """As `=` with any of the values, however many: they are bound as lists in JSON."""
        numbers = [parse_number(value) for value in self.values]
        texts = [
            value for value, number in zip(self.values, numbers, strict=True) if number is None
        ]
        as_numbers = f"each.value {LISTED} OR {AS_TEXT} {LISTED}"
        known = json.dumps([number for number in numbers if number is not None])
        lists = [known.replace("Infinity", "9e999"), json.dumps(texts), json.dumps(self.values)]
        return _by_type(as_numbers, f"{AS_TEXT} {LISTED}"), lists


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


def parse_number(text: str) -> int | float | None:
    """The text as a number if it is written as one."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    whole = match[2] is None and match[3] is None and len(match[1]) <= LONGEST_INTEGER
    if whole and -(2**63) <= (number := int(text)) < 2**63:  # as SQLite holds it, exactly
        return number
    return float(text)
