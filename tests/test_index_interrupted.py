"""Builds and adds that were broken off: what is kept, and when they go on."""

from __future__ import annotations

import errno
import sqlite3
from dataclasses import replace

import lmdb
import pytest
from index_fakes import IDENTITY, FakeEncoder
from small_indexes import assert_ranks, build, contents, corpus, names

from m3search.errors import ArtifactError
from m3search.index import Index
from m3search.stores import tiers


def test_a_build_goes_on_after_an_error(tmp_path):
    def broken():
        yield from corpus(16)
        raise OSError("the disk of the corpus is gone")

    with pytest.raises(OSError, match="is gone"):
        build(tmp_path, broken(), source="c.jsonl")
    index = Index.open(tmp_path)
    assert len(index) == 14
    assert not index.manifest.complete
    with pytest.raises(ArtifactError, match=r"interrupted build from c\.jsonl, 14 documents"):
        index.add(corpus(1), FakeEncoder())

    changed = [*corpus(3, words="new"), *corpus(15, first=5)]
    encoder = FakeEncoder()
    index = Index.build(tmp_path, changed, encoder, segment_documents=7)
    report = index.report
    assert (report.documents, report.replaced) == (9, 3)
    assert (report.unchanged, report.deleted) == (9, 2)
    assert len(encoder.encoded) == 9
    assert contents(index) == {document.id: document for document in changed}
    assert index.manifest.complete
    assert index.verify() == []
    assert_ranks(index)


def test_a_build_is_complete_when_all_is_merged(tmp_path, monkeypatch):
    """Else one that is killed while it merges could not be gone on with."""

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tiers, "MOST_SEGMENTS", 3)
    with monkeypatch.context() as patch:
        patch.setattr(tiers, "merge_run", killed)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, corpus(40))
    index = Index.open(tmp_path)
    assert (len(index), len(index.manifest.segments)) == (40, 6)
    assert not index.manifest.complete
    encoder = FakeEncoder()
    index = Index.build(tmp_path, corpus(40), encoder, segment_documents=7)
    assert index.manifest.complete and not encoder.encoded
    assert len(index.manifest.segments) <= 3
    assert_ranks(index)


def test_what_was_encoded_before_an_error_is_committed(tmp_path):
    class Failing(FakeEncoder):
        def encode(self, texts, kind="document"):
            if len(self.encoded) >= 1024:
                raise KeyboardInterrupt
            return super().encode(texts, kind)

    with pytest.raises(KeyboardInterrupt):
        Index.build(tmp_path, corpus(1500), Failing())
    index = Index.open(tmp_path)
    assert len(index) == 1024
    index = Index.build(tmp_path, corpus(1500), FakeEncoder())
    assert (index.report.unchanged, len(index)) == (1024, 1500)

    def broken():
        yield from corpus(600, words="newer")
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        index.add(broken())
    index = index.refresh()
    assert len(index) == 1500
    assert index.select("id!=.").sum() == 1500
    assert sum("newer" in document.text for document in contents(index).values()) == 512


def test_an_add_that_fails_leaves_the_object_at_what_it_committed(tmp_path):
    index = build(tmp_path, corpus(40))

    def broken():
        yield from corpus(600, first=100)
        raise ValueError("a wrong line")

    with pytest.raises(ValueError, match="a wrong line"):
        index.add(broken())
    assert (len(index), index.rows_of(["d100"]).tolist()) == (552, [40])
    assert index.manifest == Index.open(tmp_path).manifest
    assert index.refresh() is index
    assert index.add(corpus(600, first=100)).replaced == 512
    assert len(index) == 640


@pytest.mark.parametrize(
    "options",
    [
        {"multi_codec": "int8"},
        {"title_template": "{text}"},
        {"multi_pooling": 2},
        {"sparse_codec": "fp16"},
        {"dense_codec": "fp16"},
    ],
)
def test_going_on_with_other_settings_is_refused(tmp_path, options):
    def broken():
        yield from corpus(8)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        build(tmp_path, broken())
    with pytest.raises(ArtifactError, match="interrupted"):
        build(tmp_path, corpus(8), **options)
    other = FakeEncoder(replace(IDENTITY, fingerprint="e" * 64))
    with pytest.raises(ArtifactError, match="fingerprint"):
        Index.build(tmp_path, corpus(8), other)


def test_a_build_killed_before_its_first_commit_can_start_again(tmp_path):
    (tmp_path / "write.lock").write_text("1")
    (tmp_path / "manifest.json.new").write_text("{")
    assert len(build(tmp_path, corpus(3))) == 3


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("a.jsonl", "a.jsonl", True),
        ("a.jsonl", "folder/../a.jsonl", True),
        ("-", "-", True),
        ("a.jsonl", "", True),
        ("", "a.jsonl", True),
        ("a.jsonl", "b.jsonl", False),
        ("a.jsonl", "-", False),
        ("-", "a.jsonl", False),
        ("./-", "-", False),  # a file with that name
    ],
)
def test_a_build_does_not_go_on_with_another_corpus(tmp_path, first, second, same):
    def broken():
        yield from corpus(9)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        build(tmp_path, broken(), source=first)
    if same:
        assert len(build(tmp_path, corpus(9), source=second)) == 9
        return
    with pytest.raises(ArtifactError) as refused:
        build(tmp_path, corpus(3, first=50), source=second)
    assert f"expected {first}, of which the build was interrupted" in str(refused.value)
    assert f"found {second}. Run the first again" in str(refused.value)
    assert len(Index.open(tmp_path)) == 7


def test_a_writer_removes_only_what_can_be_a_segment(tmp_path):
    index = build(tmp_path, corpus(3))
    for name in ("00000009", "notes"):
        (tmp_path / "segments" / name).mkdir()
    index.delete(["d1"])
    assert names(tmp_path / "segments") == ["00000001", "notes"]


def test_what_a_killed_writer_left_is_ignored_then_collected(tmp_path):
    index = build(tmp_path, corpus(10))
    segments = tmp_path / "segments"
    (segments / "00000003").mkdir()
    (segments / "00000003" / "dense.faiss").write_bytes(b"half")
    (segments / "00000001" / "deletes-00000009.bits").write_bytes(b"x")
    (tmp_path / "manifest.json.new").write_bytes(b"{")
    (tmp_path / "notes.txt").write_text("mine")
    assert Index.open(tmp_path).verify() == []
    index.add(corpus(3, first=50))
    assert names(segments) == ["00000001", "00000002", "00000003"]
    assert not list(segments.glob("*/deletes*"))
    assert names(tmp_path) == ["manifest.json", "notes.txt", "segments", "write.lock"]
    assert index.verify() == []


@pytest.fixture
def few_segments(monkeypatch):
    monkeypatch.setattr(tiers, "MOST_SEGMENTS", 4)
    monkeypatch.setattr(tiers, "MOST_WHILE_BUILDING", 6)
    monkeypatch.setattr(tiers, "RATIO", 0)  # two at a time, so that there are several merges


@pytest.fixture
def failing(monkeypatch):
    """Merges that raise from the second on; which have begun is counted."""
    begun, merge = [], tiers.merge_segments

    def fail(folder, *rest):
        begun.append(folder.name)
        merged = merge(folder, *rest)
        if len(begun) > 1 and begun[0] is not None:
            raise fail.error
        return merged

    fail.begun = begun
    monkeypatch.setattr(tiers, "merge_segments", fail)
    return fail


def interrupted_add(path, failing, error):
    """(index, error) of an add whose second merge was broken off."""
    failing.error = error
    index = build(path, corpus(3), segment_documents=1)
    assert failing.begun == []
    with pytest.raises((KeyboardInterrupt, ArtifactError)) as raised:
        index.add(corpus(11, first=1, words="new"), segment_documents=1)
    return index, raised.value


def test_an_interrupt_while_merging_starts_no_other_merge(tmp_path, few_segments, failing):
    index, _ = interrupted_add(tmp_path, failing, KeyboardInterrupt())
    assert len(failing.begun) == 2
    # four of the build, the add and one merge: nothing is committed a second time
    assert index.manifest.commit == 6
    assert names(tmp_path / "segments") == sorted(each.name for each in index.manifest.segments)
    assert contents(index) == {d.id: d for d in [*corpus(1), *corpus(11, 1, "new")]}
    assert index.verify() == []
    failing.begun[:] = [None]  # merges work again
    index.add(corpus(1, first=50), FakeEncoder())
    assert len(index.manifest.segments) <= 4


def test_what_an_interrupt_leaves_is_committed_without_merging(tmp_path, few_segments, failing):
    def broken():
        yield from corpus(9, first=1, words="new")
        raise KeyboardInterrupt

    index = build(tmp_path, corpus(3), segment_documents=1)
    with pytest.raises(KeyboardInterrupt):
        index.add(broken(), segment_documents=1)
    assert failing.begun == []
    assert (len(index), len(index.manifest.segments), index.verify()) == (10, 10, [])
    failing.begun[:] = [None]
    index.delete(["d1"])
    index.add(corpus(1), FakeEncoder())
    assert (len(index), len(index.manifest.segments) <= 4) == (9, True)


def test_an_error_while_merging_is_told(tmp_path, few_segments, failing):
    index, error = interrupted_add(tmp_path, failing, OSError(5, "Input/output error"))
    assert "Input/output error; 12 documents are committed and safe" in str(error)
    assert len(failing.begun) == 2
    assert (len(index), index.verify()) == (12, [])


@pytest.mark.parametrize("number", [28, 122])
def test_no_room_to_merge_is_left_to_the_next_writer(tmp_path, few_segments, failing, number):
    failing.error = OSError(number, "No room")
    index = build(tmp_path, corpus(12), segment_documents=1)
    assert len(failing.begun) >= 2
    assert len(index.manifest.segments) > 4
    assert names(tmp_path / "segments") == sorted(each.name for each in index.manifest.segments)
    assert (len(index), index.verify()) == (12, [])


def fail_as_lmdb(*_, **__):
    raise lmdb.DiskError("mdb_txn_commit: No space left on device")


def fail_as_sqlite(*_):
    connection = sqlite3.connect(":memory:")
    connection.execute("PRAGMA max_page_count = 1")
    connection.execute("CREATE TABLE t (x)")


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("m3search.stores.multi_writer.VectorWriter._put", fail_as_lmdb),
        ("m3search.stores.document_writer.write_fields", fail_as_sqlite),
    ],
)
def test_libraries_that_find_no_room(tmp_path, monkeypatch, place, error):
    """They have errors of their own, but a disk without room is one."""
    build(tmp_path, corpus(3))
    monkeypatch.setattr(place, error)
    with pytest.raises(ArtifactError) as raised:
        Index.open(tmp_path).add(corpus(2, 50), FakeEncoder())
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno == errno.ENOSPC
