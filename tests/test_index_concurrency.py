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
from m3search.records import MODES, Document
from m3search.stores import commit as commit_module
from m3search.stores.commit import WriteLock
from m3search.stores.segment import Segment
from m3search.stores.snapshot import find_damages
from m3search.stores.writer import create


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


def test_a_lock_is_let_go_of_though_a_forked_process_has_it(tmp_path):
    lock = WriteLock(tmp_path)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(read, 1)
        os._exit(0)
    lock.release()
    WriteLock(tmp_path).release()
    os.write(write, b"x")
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)


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


def test_a_reader_that_meets_a_commit_keeps_what_it_has_opened(tmp_path, monkeypatch):
    index = build(tmp_path, corpus(5), segment_documents=100)
    index.add([Document("more", "text")])
    stale = commit_module.read_manifest(tmp_path)
    index.delete(["more"])  # the second segment is gone
    first, gone = (entry.name for entry in stale.segments)
    assert [entry.name for entry in index.manifest.segments] == [first]
    answers, opened, really = iter([stale]), [], Segment.open

    def open_noted(folder, *rest):
        opened.append(folder.name)
        return really(folder, *rest)

    monkeypatch.setattr(
        "m3search.stores.snapshot.read_manifest",
        lambda path: next(answers, None) or commit_module.read_manifest(path),
    )
    monkeypatch.setattr(Segment, "open", open_noted)
    assert Index.open(tmp_path).manifest == index.manifest
    assert opened == [first, gone]


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


def search(view, queries) -> list[tuple[int, str]]:
    """(n, text) of all documents found in a commit, each looked at in every way there is."""
    found = []
    for mode in MODES:
        hits = view.retrieve(mode, queries, 5, view.select("n>=3"))
        for line in range(len(queries)):
            rows = hits.rows[line][hits.rows[line] >= 0]
            documents = view.documents(rows)
            names = [document.id for document in documents]
            assert view.ids(rows) == names
            assert view.rows_of(names).tolist() == rows.tolist()
            exact = view.scores(mode, queries[line : line + 1], rows)
            assert exact.tobytes() == hits.scores[line][: len(rows)].tobytes()
            assert names == [f"d{document.metadata['n']}" for document in documents]
            found += [(document.metadata["n"], document.text) for document in documents]
    return found


def test_threads_read_while_another_writes(tmp_path):
    """What three threads find in a commit is what that commit holds."""
    index = build(tmp_path, corpus(30), segment_documents=9)
    queries = FakeEncoder().encode(["a b", "c"])
    texts = {document.id: document for document in corpus(30)}
    states = {index.manifest.commit: texts}
    found, failures, stop = set(), [], threading.Event()

    def read():
        try:
            while not stop.is_set():
                view = index.pinned()
                lines = search(view, queries)
                found.update((view.manifest.commit, n, text) for n, text in lines)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for step in range(6):
            new = corpus(5, first=5 * step, words=f"new {step}")
            index.add(new, segment_documents=2)
            texts = {**texts, **{document.id: document for document in new}}
            states[index.manifest.commit] = texts
            index.delete([f"d{step}", f"d{step + 9}"])
            texts = {n: d for n, d in texts.items() if n not in (f"d{step}", f"d{step + 9}")}
            states[index.manifest.commit] = texts
            index.compact()
            states[index.manifest.commit] = texts
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len({commit for commit, _, _ in found}) > 3
    assert all(n >= 3 and states[commit][f"d{n}"].text == text for commit, n, text in found)


def test_one_writer_at_a_time(tmp_path):
    index = build(tmp_path, corpus(5))
    lock = WriteLock(tmp_path)
    for change in (lambda: index.add(corpus(1)), lambda: index.delete(["d1"]), index.compact):
        with pytest.raises(ArtifactError, match=f"process {os.getpid()} writing"):
            change()
    assert len(Index.open(tmp_path)) == 5
    lock.release()
    assert index.delete(["d1"]) == 1


def test_a_build_does_not_go_on_with_the_blank_index_of_another(tmp_path, monkeypatch):
    """Two that begin at once: the second says how vectors are stored before the first writes."""

    def create_twice(path, model, layout, source):
        create(path, model, layout, source)
        create(path, model, layout._replace(multi_codec="fp16"), source)

    monkeypatch.setattr("m3search.index.create", create_twice)
    with pytest.raises(ArtifactError, match="expected the multi codec 'fp16'"):
        build(tmp_path, corpus(3), multi_codec="int8")


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


def test_a_file_removed_while_it_is_looked_at_is_missing(tmp_path, monkeypatch):
    """A writer collects what an older commit names at any moment."""
    index = build(tmp_path, corpus(3))
    removed = tmp_path / "segments" / "00000001" / "multi.lmdb"
    stat = Path.stat

    def vanishing(path, **options):
        status = stat(path, **options)
        if path == removed:
            removed.unlink()
        return status

    monkeypatch.setattr(Path, "stat", vanishing)
    assert find_damages(tmp_path, read=True) == (index.manifest, [f"{removed}: missing"])
    assert find_damages(tmp_path, read=False) == (index.manifest, [f"{removed}: missing"])


def test_a_file_that_cannot_be_read_is_damage(tmp_path, monkeypatch):
    index = build(tmp_path, corpus(3))

    def fail(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("m3search.stores.segment.checksum", fail)
    damages = index.verify()
    assert len(damages) == 7
    assert all(damage.endswith(": Input/output error") for damage in damages)
