"""The fields of metadata as a sorted table beside the documents, so that a filter reads no others.

A line for each value: of a list each element, of an object each member. Numbers stay numbers and
all else is text, compared as `Filter` says. SQLite sorts every number before every text, so one
order by (field, value, row) has the ranges of both.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from m3search.stores.filter import AS_TEXT, COLUMNS, LISTED, Condition, parse_number

LONGEST = 200
"""bytes of a value in the table; fields with a longer one are looked up in the metadata"""

_SCHEMA = (
    "CREATE TABLE fields (field TEXT NOT NULL, value NOT NULL, row INTEGER NOT NULL,"
    " PRIMARY KEY (field, value, row)) WITHOUT ROWID",
    "CREATE TABLE long_fields (field TEXT PRIMARY KEY) WITHOUT ROWID",
)
_TYPED = f"CASE WHEN each.type IN ('integer', 'real') THEN each.value ELSE {AS_TEXT} END"
_LISTS = "('array', 'object')"
_VALUES = f"""
    SELECT each.key AS field, {_TYPED} AS value, documents.row AS row
        FROM documents, json_each(documents.metadata) AS each
        WHERE each.type NOT IN ('array', 'object', 'null')
    UNION ALL
    SELECT listed.key, {_TYPED}, documents.row
        FROM documents, json_each(documents.metadata) AS listed,
            json_each(CASE WHEN listed.type IN {_LISTS} THEN listed.value ELSE '[]' END) AS each
        WHERE each.type != 'null'
"""
_IS_LONG = f"length(CAST(value AS BLOB)) > {LONGEST}"
_NUMBERS, _TEXTS = "field = ? AND value < ''", "field = ? AND value >= ''"


def write_fields(connection: sqlite3.Connection) -> None:
    """Makes the table, of the documents that are in the file."""
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute(
        f"INSERT INTO long_fields SELECT DISTINCT field FROM ({_VALUES}) WHERE {_IS_LONG}"
    )
    connection.execute(  # a list may hold a value twice
        f"INSERT INTO fields SELECT DISTINCT field, value, row FROM ({_VALUES})"
        " WHERE field NOT IN (SELECT field FROM long_fields) ORDER BY 1, 2, 3"
    )


def unsorted_fields(connection: sqlite3.Connection) -> frozenset[str] | None:
    """The fields that have to be looked up in the documents; None for all, without the table.

    The files of earlier versions have none.
    """
    tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'long_fields'")
    if not tables.fetchall():
        return None
    return frozenset(COLUMNS).union(
        *connection.execute("SELECT field FROM long_fields").fetchall(),
    )


def matching_rows(condition: Condition) -> tuple[str, list[Any]]:
    """A SELECT of the rows that meet the condition, any but `!=`, and its bound parameters.

    A row may come twice.
    """
    asked = _ask_any(condition) if condition.operator == "in" else _ask_one(condition)
    sql = " UNION ALL ".join(f"SELECT row FROM fields WHERE {where}" for where, _ in asked)
    return sql, [value for _, bound in asked for value in (condition.field, bound)]


def _ask_one(condition: Condition) -> list[tuple[str, Any]]:
    """Conditions on numbers and on text, each with what it compares to."""
    operator, text = condition.operator, condition.values[0]
    number = parse_number(text)
    if number is None:
        numbers: tuple[str, Any] = f"{_NUMBERS} AND CAST(value AS TEXT) {operator} ?", text
    else:
        numbers = f"{_NUMBERS} AND value {operator} ?", number
    return [numbers, (f"{_TEXTS} AND value {operator} ?", text)]


def _ask_any(condition: Condition) -> list[tuple[str, Any]]:
    """As `=` with any of the values, however many: they are bound as lists in JSON."""
    numbers = {value: parse_number(value) for value in condition.values}
    known = json.dumps([number for number in numbers.values() if number is not None])
    others = [value for value, number in numbers.items() if number is None]
    return [
        (f"{_NUMBERS} AND value {LISTED}", known.replace("Infinity", "9e999")),
        (f"{_NUMBERS} AND CAST(value AS TEXT) {LISTED}", json.dumps(others)),
        (f"{_TEXTS} AND value {LISTED}", json.dumps(condition.values)),
    ]
