"""Conditions on metadata: what they select, and what is no filter."""

import json
import operator
import re
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3search.errors import ConfigError
from m3search.records import Document
from m3search.stores import documents
from m3search.stores.document_writer import DocumentWriter
from m3search.stores.documents import FILTERS_KEPT, DocumentStore, Record
from m3search.stores.filter import Condition, Filter


def by_metadata(folder, values) -> DocumentStore:
    folder.mkdir(exist_ok=True)
    writer = DocumentWriter(folder)
    writer.append([Record.of(Document(f"d{i}", "", "", value)) for i, value in enumerate(values)])
    writer.finish()
    return DocumentStore(folder, len(values))


def matching(store, text) -> list[int]:
    return np.flatnonzero(store.select(Filter.parse(text))).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("lang=de", [0]),
        ("lang!=de", [1, 2, 3, 4]),
        ("lang in de | fr", [0, 1]),
        ("year>=2000", [1, 2]),
        ("year<2000", [0]),
        ("year=2000", [1, 2]),
        ("year!=2000", [0, 3, 4]),
        ("year=2000.0", [1, 2]),
        ("year>1e3,lang=fr", [1]),
        ("id=d3", [3]),
        ("id>d1", [2, 3, 4]),
        ("title=", [0, 1, 2, 3, 4]),
        ("draft=true", [3]),
        ("draft!=true", [0, 1, 2, 4]),
        ("missing=1", []),
        ("missing!=1", [0, 1, 2, 3, 4]),
        ("missing<1", []),
        ("a.b=c d", [2]),
        ("null!=x", [0, 1, 2, 3, 4]),
        ("null=", []),
        ("page>9", [0]),
        ("page>=9x", []),
        (" lang = de ", [0]),
        ("tags=tea", [2, 3]),
        ("tags!=tea", [0, 1, 4]),
        ("tags in salt|tea", [2, 3]),
        ("tags<9", [3]),
    ],
)
def test_filters_by_hand(tmp_path, text, rows):
    store = by_metadata(
        tmp_path,
        [
            {"lang": "de", "year": 1999, "page": 10},
            {"lang": "fr", "year": 2000, "page": "1"},
            {"year": 2000.0, "a.b": "c d", "null": None, "tags": "tea"},
            {"draft": True, "lang": "es", "tags": ["tea", "milk", 7]},
            {"lang": "es", "draft": False, "tags": []},
        ],
    )
    assert matching(store, text) == rows


def test_numbers_compare_as_numbers_and_text_as_text(tmp_path):
    store = by_metadata(tmp_path, [{"x": 9}, {"x": "9"}, {"x": 10}, {"x": "10"}, {"x": 1e300}])
    assert matching(store, "x<10") == [0]  # "9" is text, and "9" > "10" as text
    assert matching(store, "x>9") == [2, 4]
    assert matching(store, "x=9") == [0, 1]
    assert matching(store, "x>=99999999999999999999") == [4]
    assert matching(store, "x<a") == [0, 1, 2, 3, 4]


def test_whole_numbers_of_64_bits_are_told_from_their_neighbours(tmp_path):
    """Floats of them are the same, as those of ids of 19 digits."""
    compare = {
        "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
        ">": operator.gt, ">=": operator.ge,
    }  # fmt: skip
    store = by_metadata(tmp_path, [{"x": number} for number in LARGE])
    for wanted in LARGE:
        for sign, holds in compare.items():
            rows = [row for row, number in enumerate(LARGE) if holds(number, wanted)]
            assert matching(store, f"x{sign}{wanted}") == rows, (sign, wanted)
    assert matching(store, f"x in {LARGE[1]}|{LARGE[2]}") == [1, 2]


def oracle(metadata, condition: Condition) -> bool:
    if condition.operator == "!=":
        return not oracle(metadata, Condition(condition.field, "=", condition.values))
    if condition.operator == "in":
        return any(
            oracle(metadata, Condition(condition.field, "=", (v,))) for v in condition.values
        )
    value, wanted = metadata.get(condition.field), condition.values[0]
    if isinstance(value, list):
        return any(oracle({condition.field: element}, condition) for element in value)
    if value is None:
        return False
    if not isinstance(value, (str, bool)) and re.fullmatch(r"-?\d+(\.\d+)?", wanted):
        left, right = value, float(wanted) if "." in wanted else int(wanted)
    else:
        left, right = value if isinstance(value, str) else json.dumps(value), wanted
    return {
        "=": left == right,
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
    }[condition.operator]


LARGE = [2**53, 2**53 + 1, 1790123456789012345, 1790123456789012346, -(2**63), 2**63 - 1]
"""whole numbers that 64 bits hold and a float does not tell apart"""
SINGLE = st.one_of(
    st.sampled_from(["de", "fr", "", "10", "9", "true", "é", "Z", "a b"]),
    st.integers(-20, 20),
    st.sampled_from([2.5, 10.0]),
    st.sampled_from(LARGE),
    st.booleans(),
    st.none(),
)
VALUES = st.one_of(SINGLE, st.lists(SINGLE, max_size=3))
TEXTS = st.one_of(
    st.sampled_from(["de", "fr", "10", "9", "-3", "2.5", "true", "é", "Z", "a b"]),
    st.sampled_from(LARGE).map(str),
)
OPERATORS = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from("xyz"), VALUES), max_size=8),
    st.lists(st.tuples(st.sampled_from("xyz"), OPERATORS, TEXTS), min_size=1, max_size=3),
    st.lists(TEXTS, min_size=1, max_size=3),
)
def test_filters_against_python(tmp_path_factory, values, conditions, several):
    store = by_metadata(tmp_path_factory.mktemp("documents"), values)
    text = ",".join("".join(c) for c in conditions) + f",x in {'|'.join(several)}"
    parsed = Filter.parse(text)
    assert [(c.field, c.operator, c.values[0]) for c in parsed.conditions[:-1]] == conditions
    expected = [all(oracle(value, c) for c in parsed.conditions) for value in values]
    assert store.select(parsed).tolist() == expected


@pytest.mark.parametrize(
    "text", ["", "lang", "lang=de,", ",", "=de", "lang==de", "lang in ", "lang in de||fr", "a<>b"]
)
def test_malformed_filters_show_the_grammar(text):
    with pytest.raises(ConfigError, match=r"lang in de\|fr\|es"):
        Filter.parse(text)


def test_a_filter_cannot_leave_its_parameter(tmp_path):
    store = by_metadata(tmp_path, [{"a'b": "x"}, {"x": "' OR 1=1 --"}])
    assert matching(store, "a'b=x") == [0]
    assert matching(store, "x=' OR 1=1 --"[:5] + "' OR 1") == []
    assert store.select(Filter((Condition("x", "=", ("' OR 1=1 --",)),))).tolist() == [False, True]


ODD = [
    "007",
    "7",
    "7.0",
    "1e999",
    "-1e999",
    "1e300",
    "1.0e+300",
    "Inf",
    "true",
    "",
    "é",
    "'",
    "0.1",
]


@pytest.mark.parametrize("field", ["x", "id", "title"])
def test_in_is_any_of_its_values(tmp_path, field):
    """Whatever the values look like, as numbers or as text."""
    held = [7, 7.0, "7", "007", 10**400, -(10**400), 1e300, 0.1, True, None, "", "é", "'", "Inf"]
    store = by_metadata(tmp_path, [{}, *({"x": one} for one in held), {"x": [*held]}, {"x": []}])
    for values in [*((one,) for one in ODD), *pairwise(ODD), tuple(ODD)]:
        if field == "id":
            values = ("d3", *values)
        each = [store.select(Filter((Condition(field, "=", (one,)),))) for one in values]
        several = store.select(Filter((Condition(field, "in", values),)))
        assert several.tolist() == np.any(each, axis=0).tolist(), values


def test_any_number_of_values(tmp_path):
    store = by_metadata(tmp_path, [{"x": i, "y": f"v{i}"} for i in range(1100)])
    numbers = "|".join(str(i) for i in range(1, 100_000))
    assert matching(store, f"x in {numbers}") == list(range(1, 1100))
    names = "|".join(f"v{i}" for i in range(1200) if i != 5)
    assert 5 not in matching(store, f"y in {names}")
    assert len(matching(store, f"y in {names}")) == 1099
    assert len(matching(store, "id in " + "|".join(f"d{i}" for i in range(5, 40_000)))) == 1095


def test_more_conditions_than_one_expression_of_sqlite_takes(tmp_path):
    store = by_metadata(tmp_path, [{"x": 1}, {"x": 2, "y": "a"}])
    for condition in ("x=1", "y!=a", "x in 1|3", "id=d0", "title!=x"):
        many = ",".join([condition] * 1200)
        assert matching(store, many) == matching(store, condition)


@pytest.mark.parametrize("text", ["x=\udcff", "\udcff=x", "x in a|\udc80", "id!=\ud83d"])
def test_what_is_no_text_is_refused(text):
    """What a shell gives for a byte that is not UTF-8."""
    with pytest.raises(ConfigError, match="expected text in UTF-8, found"):
        Filter.parse(text)


def test_a_null_character_in_a_list_is_refused():
    """SQLite's JSON would end the value there."""
    with pytest.raises(ConfigError, match="a null character"):
        Filter.parse("x in a\0b|c")


@pytest.fixture
def asked(monkeypatch):
    """The filters for which the table was read."""
    asked = []
    select = DocumentStore._select

    def watched(store, conditions):
        asked.append(conditions.conditions[0].values[0])
        return select(store, conditions)

    monkeypatch.setattr(DocumentStore, "_select", watched)
    return asked


def test_a_filter_asked_again_is_kept(tmp_path, asked):
    store = by_metadata(tmp_path, [{"x": 1}, {}] * 7)
    first = store.select(Filter.parse("x=1"))
    assert first.tolist() == [True, False] * 7
    first[0] = False  # the caller's own
    assert store.select(Filter.parse("x=1")).tolist() == [True, False] * 7
    assert asked == ["1"]
    for number in range(FILTERS_KEPT):
        store.select(Filter.parse(f"x={number + 2}"))
    store.select(Filter.parse("x=1"))
    assert asked[FILTERS_KEPT + 1 :] == ["1"]


def test_filters_are_kept_up_to_a_number_of_bytes(tmp_path, asked, monkeypatch):
    store = by_metadata(tmp_path, [{"x": i % 3} for i in range(800)])  # 100 bytes of bits
    monkeypatch.setattr(documents, "FILTER_BYTES", 400)
    for value in ("0", "1", "0", "2", "0"):  # 165 bytes each: two are kept
        assert matching(store, f"x={value}") == list(range(int(value), 800, 3))
    assert asked == ["0", "1", "2", "0"]
    asked.clear()
    for _ in range(2):
        matching(store, "x=" + "9" * 400)  # too large by itself
    assert len(asked) == 2


def test_a_filter_takes_few_bytes_a_row(tmp_path):
    rows = 50_000
    store = by_metadata(tmp_path, [{}] * rows)
    tracemalloc.start()
    try:
        assert store.select(Filter.parse("id!=x")).all()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * rows  # a block of lines and two masks; all lines are 105 bytes a row
