import sqlite3
import threading

import numpy as np
import pytest

from m3search.errors import ArtifactError, ConfigError
from m3search.records import Document
from m3search.stores import documents
from m3search.stores.document_writer import DocumentWriter
from m3search.stores.documents import FILE, DocumentStore, Record
from m3search.stores.filter import Filter


def write(folder, documents) -> DocumentStore:
    folder.mkdir(exist_ok=True)
    writer = DocumentWriter(folder)
    for start in range(0, len(documents), 3):
        writer.append([Record.of(document) for document in documents[start : start + 3]])
    writer.finish()
    return DocumentStore(folder, len(documents))


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
    with pytest.raises(ArtifactError, match="expected 3 documents or"):
        DocumentStore(tmp_path, 3)
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("DELETE FROM documents WHERE row = 0")
    connection.commit()
    connection.close()
    assert DocumentStore(tmp_path, 2).verify() == ["1 documents instead of 2"]
    (tmp_path / FILE).write_bytes(b"x" * 4096)
    with pytest.raises(ArtifactError, match="SQLite"):
        DocumentStore(tmp_path, 2)


def spoil(folder, pages) -> DocumentStore:
    """A store of 3,000 documents of which some pages are damaged, of the size that it had."""
    write(folder, [Document(f"d{i}", "text " * 9, "", {"n": i}) for i in range(3000)])
    content = bytearray((folder / FILE).read_bytes())
    for page in pages(len(content) // 4096):
        for place in range(4096 * page, 4096 * (page + 1)):
            content[place] ^= 0xFF
    (folder / FILE).write_bytes(content)
    return DocumentStore(folder, 3000)


def test_damage_met_while_reading_is_called_damage(tmp_path):
    store = spoil(tmp_path, lambda count: range(3, count // 3))
    every = list(range(3000))
    for read in (
        lambda: store.records(every),
        lambda: store.documents(every),
        lambda: store.ids(every),
        lambda: list(store.each_id(np.array(every))),
        lambda: store.rows_of([f"d{i}" for i in every]),
        lambda: store.select(Filter.parse("title>3")),
    ):
        with pytest.raises(ArtifactError, match=r"documents\.sqlite: expected a SQLite file"):
            read()
    (damage,) = store.verify()
    assert "malformed" in damage or "not a database" in damage


def change(folder, *statements) -> DocumentStore:
    write(folder, [Document(f"d{i}", "text", "", {"n": i}) for i in range(4)])
    connection = sqlite3.connect(folder / FILE)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return DocumentStore(folder, 4)


def test_a_missing_row_is_damage(tmp_path):
    store = change(tmp_path, "DELETE FROM documents WHERE row = 1")
    for read in (store.records, store.documents, store.ids):
        with pytest.raises(ArtifactError, match=r"documents\.sqlite: expected row 1, found none"):
            read([0, 1])


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE documents SET metadata = '{' WHERE row = 1", "metadata of row 1 in JSON"),
        ("UPDATE documents SET text = x'ff' WHERE row = 1", "text in every column"),
        ("UPDATE documents SET text = CAST(x'ff' AS TEXT) WHERE row = 1", "a SQLite file"),
    ],
)
def test_what_is_no_document_is_damage(tmp_path, statement, expected):
    store = change(tmp_path, statement)
    assert store.documents([0, 2])[1].metadata == {"n": 2}
    with pytest.raises(ArtifactError, match=expected):
        store.documents([0, 1])


def test_rows_beyond_the_segment_are_damage(tmp_path):
    moved = [f"UPDATE {table} SET row = -7 WHERE row = 1" for table in ("documents", "fields")]
    store = change(tmp_path, *moved)
    for read in (
        lambda: store.rows_of(["d0", "d1"]),
        lambda: store.select(Filter.parse("n<3")),
    ):
        with pytest.raises(ArtifactError, match="expected rows from 0 to 3, found -7 to"):
            read()


def test_each_id_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "READ_AT_ONCE", 3)
    store = write(tmp_path, [Document(f"d{i}", "") for i in range(10)])
    rows = np.array([0, 2, 3, 5, 7, 8, 9])
    assert list(store.each_id(rows)) == [f"d{row}" for row in rows]
    assert store.select(Filter.parse("id>d4")).tolist() == [False] * 5 + [True] * 5


def test_reads_in_blocks_take_turns(tmp_path, monkeypatch):
    """A filter over a large segment does not keep the others waiting."""
    monkeypatch.setattr(documents, "READ_AT_ONCE", 2)
    store = write(tmp_path, [Document(f"d{i}", "") for i in range(10)])
    blocks = store._blocks("SELECT row FROM documents ORDER BY row", [])
    found = [next(blocks)]
    assert store.ids([7]) == ["d7"]
    assert [row for block in [*found, *blocks] for (row,) in block] == list(range(10))
