"""Readers beside a writer, and one writer at a time."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from index_fakes import FakeEncoder
from small_indexes import build, contents, corpus, names

from m3search.errors import ArtifactError
from m3search.index import Index
from m3search.records import MODES
from m3search.stores import commit as commit_module
from m3search.stores.commit import WriteLock
from m3search.stores.snapshot import find_damages


def test_readers_keep_their_commit(tmp_path):
    index = build(tmp_path, corpus(20))
    reader, pinned = Index.open(tmp_path), index.pinned()
    assert reader.refresh() is reader
    queries = FakeEncoder().encode(["a b"])
    before = [reader.retrieve(mode, queries, 9).rows.tolist() for mode in MODES]
    index.add(corpus(9, words="new"))
    index.compact()
    assert names(tmp_path / "segments") == ["00000005"]
    for old in (reader, pinned):
        assert [old.retrieve(mode, queries, 9).rows.tolist() for mode in MODES] == before
        assert contents(old) == {document.id: document for document in corpus(20)}
    newest = reader.refresh()
    assert newest.manifest == index.manifest
    assert newest.refresh() is newest


def test_a_reader_that_meets_a_commit_while_it_opens_takes_the_newer_one(tmp_path, monkeypatch):
    index = build(tmp_path, corpus(20))
    stale = commit_module.read_manifest(tmp_path)
    index.compact()
    answers = iter([stale])
    monkeypatch.setattr(
        "m3search.stores.snapshot.read_manifest",
        lambda path: next(answers, None) or commit_module.read_manifest(path),
    )
    assert Index.open(tmp_path).manifest == index.manifest


@pytest.mark.parametrize("read", [True, False])
def test_what_a_newer_commit_removed_is_no_damage(tmp_path, monkeypatch, read):
    index = build(tmp_path, corpus(20))
    stale = commit_module.read_manifest(tmp_path)
    index.compact()
    answers = iter([stale])
    monkeypatch.setattr(
        "m3search.stores.snapshot.read_manifest",
        lambda path: next(answers, None) or commit_module.read_manifest(path),
    )
    assert find_damages(tmp_path, read=read) == (index.manifest, [])


def test_threads_read_while_another_writes(tmp_path):
    index = build(tmp_path, corpus(30))
    queries = FakeEncoder().encode(["a b", "c"])
    failures, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            view = index.pinned()
            for mode in MODES:
                rows = view.retrieve(mode, queries, 5).rows
                found = view.ids(rows[rows >= 0])
                if view.rows_of(found).tolist() != rows[rows >= 0].tolist():
                    failures.append((mode, rows))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for step in range(4):
            index.add(corpus(5, first=5 * step, words=f"new {step}"))
            index.delete([f"d{step}"])
            index.compact()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_one_writer_at_a_time(tmp_path):
    index = build(tmp_path, corpus(5))
    lock = WriteLock(tmp_path)
    for change in (lambda: index.add(corpus(1)), lambda: index.delete(["d1"]), index.compact):
        with pytest.raises(ArtifactError, match=f"process {os.getpid()} writing"):
            change()
    assert len(Index.open(tmp_path)) == 5
    lock.release()
    assert index.delete(["d1"]) == 1


def hold_lock(path, ready):
    WriteLock(Path(path))
    ready.set()
    threading.Event().wait()


def test_the_lock_of_a_dead_process_is_free(tmp_path):
    index = build(tmp_path, corpus(5))
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold_lock, args=(str(tmp_path), ready))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(ArtifactError, match=f"process {holder.pid} writing"):
        index.delete(["d1"])
    holder.kill()
    holder.join()
    holder.close()
    assert index.delete(["d1"]) == 1
