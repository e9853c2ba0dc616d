"""The table of fields answers a filter as the metadata itself would, and reads no documents."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3search.records import Document
from m3search.stores.document_writer import DocumentWriter
from m3search.stores.documents import FILE, DocumentStore, Record
from m3search.stores.fields import LONGEST, matching_rows
from m3search.stores.filter import Condition, Filter

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=4),
        st.sampled_from(["", "10", "é" * 99, "x" * (LONGEST + 1), "007", "1e3"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)
FIELDS = st.sampled_from(["x", "y", "a.b", "é"])
TEXTS = st.one_of(
    st.sampled_from(["", "10", "true", "x" * (LONGEST + 1), "1e3", "2.5", "[1]", "-0"]),
    st.integers(-20, 20).map(str),
    st.integers(-(2**64), 2**64).map(str),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3),
)


def write_documents(folder: Any, metadata: list[Any]) -> DocumentStore:
    folder.mkdir(exist_ok=True)
    writer = DocumentWriter(folder)
    writer.append([Record.of(Document(f"d{i}", "", "", value)) for i, value in enumerate(metadata)])
    writer.finish()
    return DocumentStore(folder, len(metadata))


def without_table(folder: Any, rows: int) -> DocumentStore:
    """The store as an earlier version has left it."""
    with sqlite3.connect(folder / FILE) as connection:
        for table in ("fields", "long_fields"):
            connection.execute(f"DROP TABLE {table}")
    connection.close()
    return DocumentStore(folder, rows)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.dictionaries(FIELDS, VALUES), min_size=1, max_size=6),
    st.lists(
        st.tuples(FIELDS, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), TEXTS), max_size=8
    ),
    st.lists(TEXTS.filter(bool), min_size=1, max_size=3),
)
def test_the_table_says_what_the_metadata_say(
    tmp_path_factory: Any, metadata: Any, conditions: Any, several: Any
) -> None:
    folder = tmp_path_factory.mktemp("fields")
    asked = [Filter((Condition(field, op, (text,)),)) for field, op, text in conditions]
    asked += [Filter((Condition("x", "in", tuple(several)),)), Filter(())]
    store = write_documents(folder, metadata)
    by_table = [store.select(each).tolist() for each in asked]
    earlier = without_table(folder, len(metadata))
    assert by_table == [earlier.select(each).tolist() for each in asked]


def test_fields_with_long_values_are_looked_up(tmp_path: Any) -> None:
    long = "y" * (LONGEST + 1)
    store = write_documents(tmp_path, [{"x": long, "y": 1}, {"x": "short", "y": 2}, {"y": 2}])
    assert store.select(Filter((Condition("x", "=", (long,)),))).tolist() == [True, False, False]
    assert store.select(Filter.parse("x=short,y=2")).tolist() == [False, True, False]
    with sqlite3.connect(tmp_path / FILE) as connection:
        held = connection.execute("SELECT DISTINCT field FROM fields").fetchall()
    assert held == [("y",)]


@pytest.mark.parametrize("text", ["x=1", "x>=de", "x in 1|de|2.5", "x<7"])
def test_a_filter_reads_the_table_alone_and_by_its_key(tmp_path: Any, text: str) -> None:
    write_documents(tmp_path, [{"x": value} for value in (1, "de", 2.5, [1, 9])])
    sql, values = matching_rows(Filter.parse(text).conditions[0])
    with sqlite3.connect(tmp_path / FILE) as connection:
        plan = [line[3] for line in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    reads = [step for step in plan if step.startswith(("SCAN", "SEARCH"))]
    assert not any("documents" in step for step in reads)
    ours = [step for step in reads if "fields" in step]
    assert len(ours) >= 2
    assert all("SEARCH fields USING PRIMARY KEY (field=? AND value" in step for step in ours)
