import json
import re
import sqlite3
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3search.errors import ArtifactError, ConfigError
from m3search.records import Document
from m3search.stores.documents import FILE, FILTERS_KEPT, DocumentStore, DocumentWriter, Record
from m3search.stores.filter import Condition, Filter


def write(folder, documents) -> DocumentStore:
    folder.mkdir(exist_ok=True)
    writer = DocumentWriter(folder)
    for start in range(0, len(documents), 3):
        writer.append([Record.of(document) for document in documents[start : start + 3]])
    writer.finish()
    return DocumentStore(folder, len(documents))


def by_metadata(folder, values) -> DocumentStore:
    return write(folder, [Document(f"d{i}", "", "", value) for i, value in enumerate(values)])


def matching(store, text) -> list[int]:
    return np.flatnonzero(store.select(Filter.parse(text))).tolist()


def test_documents_come_back_as_they_were(tmp_path):
    documents = [
        Document("a", "text", "title", {"n": 1, "x": [1, {"y": None}], "f": 1.5, "b": True}),
        Document("ü/'\"%", "line\nnull \0 end", "", {"مفتاح": "قيمة"}),
        Document("", "", "", {}),
        *(Document(f"n{i}", "😀" * i) for i in range(10)),
    ]
    store = write(tmp_path, documents)
    rows = [1, 0, 2, 0, 12]
    assert [r.to_document() for r in store.records(rows)] == [documents[row] for row in rows]
    assert store.ids(rows) == [documents[row].id for row in rows]
    assert store.rows_of(["n3", "no", "a"]) == {"n3": 6, "a": 0}
    assert store.records([]) == []
    assert store.verify() == []


def test_more_rows_than_one_statement_takes(tmp_path):
    store = write(tmp_path, [Document(f"d{i}", "") for i in range(1203)])
    rows = list(range(1202, -1, -1))
    assert store.ids(rows) == [f"d{row}" for row in rows]
    assert len(store.rows_of(store.ids(rows))) == 1203


@pytest.mark.parametrize(
    "document",
    [
        Document("a", "t", "", {"x": float("nan")}),
        Document("a", "t", "", {"x": object()}),
        Document("a", "half \ud800"),
        Document(7, "t"),
        Document("a", None),
    ],
)
def test_what_cannot_be_stored(document):
    with pytest.raises(ConfigError, match="document"):
        Record.of(document)


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
        left, right = value, float(wanted)
    else:
        left, right = value if isinstance(value, str) else json.dumps(value), wanted
    return {
        "=": left == right,
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
    }[condition.operator]


SINGLE = st.one_of(
    st.sampled_from(["de", "fr", "", "10", "9", "true", "é", "Z", "a b"]),
    st.integers(-20, 20),
    st.booleans(),
    st.none(),
)
VALUES = st.one_of(SINGLE, st.lists(SINGLE, max_size=3))
TEXTS = st.sampled_from(["de", "fr", "10", "9", "-3", "2.5", "true", "é", "Z", "a b"])
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


def test_a_filter_asked_again_is_kept(tmp_path):
    store = by_metadata(tmp_path, [{"x": 1}, {}])
    first = store.select(Filter.parse("x=1"))
    assert store.select(Filter.parse("x=1")) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = False
    for number in range(FILTERS_KEPT):
        store.select(Filter.parse(f"x={number + 2}"))
    assert store.select(Filter.parse("x=1")) is not first


def test_threads(tmp_path):
    store = write(tmp_path, [Document(f"d{i}", str(i)) for i in range(500)])
    errors = []

    def read(seed):
        rows = np.random.default_rng(seed).integers(0, 500, size=40).tolist()
        for _ in range(20):
            if store.ids(rows) != [f"d{row}" for row in rows]:
                errors.append(rows)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_nothing_is_written_beside_the_file(tmp_path):
    store = write(tmp_path, [Document("a", "b")])
    store.ids([0])
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_damage(tmp_path):
    write(tmp_path, [Document("a", "b"), Document("c", "d")])
    with pytest.raises(ArtifactError, match="3 documents"):
        DocumentStore(tmp_path, 3)
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("DELETE FROM documents WHERE row = 0")
    connection.commit()
    connection.close()
    assert DocumentStore(tmp_path, 2).verify() == ["1 documents instead of 2"]
    (tmp_path / FILE).write_bytes(b"x" * 4096)
    with pytest.raises(ArtifactError, match="SQLite"):
        DocumentStore(tmp_path, 2)
