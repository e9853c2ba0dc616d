"""A searcher whose index is changed meanwhile: each call keeps to the commit that it began with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from searching import TEXTS, WordEncoder

from m3search import search
from m3search.index import Index
from m3search.records import Document, Encoded, Kind, Query
from m3search.search import Searcher


class Hooked(WordEncoder):
    """Does something once before it encodes the next query."""

    def __init__(self) -> None:
        super().__init__()
        self.hook: Callable[[], None] = lambda: None

    def encode(self, texts: Sequence[str], kind: Kind = "document", **options: Any) -> Encoded:
        if kind == "query":
            hook, self.hook = self.hook, lambda: None
            hook()
        return super().encode(texts, kind, **options)


def documents(count: int, first: int = 0, lang: str = "de") -> list[Document]:
    return [
        Document(f"d{i}", f"{TEXTS[i % len(TEXTS)]} {i}", metadata={"lang": lang})
        for i in range(first, first + count)
    ]


def build(path: Path) -> tuple[Searcher, Callable[[], None]]:
    """A searcher, and a change that moves, replaces, deletes and adds rows."""
    encoder = Hooked()
    index = Index.build(path, documents(60), encoder, segment_documents=20)

    def change() -> None:
        index.add(documents(30, lang="en"), encoder)
        index.delete(["d40", "d41"])
        index.compact()

    return Searcher(index, encoder), change  # type: ignore[arg-type]


def test_a_search_keeps_its_commit(tmp_path: Path) -> None:
    searcher, change = build(tmp_path)
    expected = searcher.search("late tea", k=60, filter="lang=de")
    assert len(expected) == 60
    searcher.encode_query("another")
    searcher.encoder.hook = change  # type: ignore[attr-defined]
    assert searcher.search("late tea", k=60, filter="lang=de") == expected
    after = searcher.search("late tea", k=60, filter="lang=de")
    assert {hit.document.id for hit in after} == {f"d{i}" for i in range(30, 60)} - {"d40", "d41"}


def test_a_run_keeps_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BATCH", 1)
    searcher, change = build(tmp_path)
    queries = searcher.encode([Query("1", "late tea"), Query("2", "vector"), Query("3", "late")])
    expected = searcher.run(queries, k=60, filter="lang=de")
    changes = iter([change])

    def progress(_: int) -> None:
        next(changes, lambda: None)()

    assert searcher.run(queries, k=60, filter="lang=de", progress=progress) == expected
    assert searcher.run(queries, k=60, filter="lang=de") != expected


def test_an_explanation_keeps_its_commit(tmp_path: Path) -> None:
    searcher, change = build(tmp_path)
    hit = searcher.search("late tea", k=1)[0]
    expected = searcher.explain("late tea", hit)

    def replace() -> None:
        change()
        searcher.index.add([hit.document._replace(text="other words")], WordEncoder())

    searcher.encode_query("another")
    searcher.encoder.hook = replace  # type: ignore[attr-defined]
    assert searcher.explain("late tea", hit) == expected


def test_threads_search_while_another_changes_the_index(tmp_path: Path) -> None:
    encoder = WordEncoder()
    index = Index.build(tmp_path, documents(300), encoder, segment_documents=50)
    searcher = Searcher(index, encoder)  # type: ignore[arg-type]
    wrong: list[object] = []
    answered, stop = [0, 0, 0], threading.Event()

    def ask(thread: int) -> None:
        while not stop.is_set() and not wrong:
            try:
                hits = searcher.search(f"late tea {answered[thread] % 7}", k=5, filter="lang=de")
                wrong.extend(hit for hit in hits if hit.document.metadata.get("lang") != "de")
            except BaseException as error:
                wrong.append(error)
            answered[thread] += 1

    threads = [threading.Thread(target=ask, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for step in range(6):
            index.add(documents(30, first=20 * step, lang="en"), encoder)
            index.delete([f"d{200 + step}"])
            index.compact()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert min(answered) > 0
