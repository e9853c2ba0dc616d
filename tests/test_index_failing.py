"""Changes that fail after a commit, or before one: where the object and the folder are then."""

from __future__ import annotations

import errno

import pytest
from small_indexes import build, corpus, names

from m3search.errors import ArtifactError
from m3search.index import Index
from m3search.stores.commit import WriteLock
from m3search.stores.segment import SegmentWriter
from m3search.stores.writer import IndexWriter


@pytest.mark.parametrize("change", ["delete", "compact"])
def test_what_fails_after_a_commit_leaves_the_object_at_it(tmp_path, monkeypatch, change):
    def fail(*_):
        raise KeyboardInterrupt

    index = build(tmp_path, corpus(20))
    before = index.manifest.commit
    if change == "delete":
        monkeypatch.setattr(IndexWriter, "tidy", fail)
        with pytest.raises(KeyboardInterrupt):
            index.delete(["d1"])
    else:
        monkeypatch.setattr("m3search.stores.writer.collect", fail_once_committed(index))
        with pytest.raises(KeyboardInterrupt):
            index.compact()
    assert index.manifest.commit == before + 1
    assert index.manifest == Index.open(tmp_path).manifest
    assert len(index) == (19 if change == "delete" else 20)


def fail_once_committed(index):
    def collect_or_fail(path, manifest):
        if manifest.commit > index.manifest.commit:
            raise KeyboardInterrupt

    return collect_or_fail


def test_a_change_that_may_not_begin_leaves_the_object_where_it_was(tmp_path):
    """Also where another process has changed the index."""
    index = build(tmp_path, corpus(20))
    Index.open(tmp_path).delete(["d1"])
    lock, before = WriteLock(tmp_path), index.manifest
    with pytest.raises(ArtifactError, match="one writer at a time"):
        index.delete(["d2"])
    lock.release()
    assert (index.manifest, len(index)) == (before, 20)
    assert index.delete(["d2"]) == 1 and len(index) == 18


def test_nothing_is_left_where_what_was_encoded_cannot_be_committed(tmp_path, monkeypatch):
    """An interrupt on a disk that is full: half a segment would stay, and its files open."""
    index = build(tmp_path, corpus(3))
    closed = []
    close = SegmentWriter.close
    monkeypatch.setattr(SegmentWriter, "close", lambda self: closed.append(1) or close(self))

    def fail(*_):
        raise OSError(errno.ENOSPC, "No room")

    def broken():
        yield from corpus(600, first=50)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("m3search.stores.segment.seal", fail)
        with pytest.raises(ArtifactError, match="No room; 3 documents are committed and safe"):
            index.add(broken())
    assert closed == [1]
    assert names(tmp_path / "segments") == ["00000001"]
    assert index.add(corpus(2, first=50)).documents == 2
    assert (len(index), index.verify()) == (5, [])


def test_numbers_are_not_used_again_by_a_build_whose_documents_were_all_deleted(tmp_path):
    def broken():
        yield from corpus(8)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        build(tmp_path, broken())
    index = Index.open(tmp_path)
    index.delete([f"d{number}" for number in range(8)])
    assert index.manifest.is_blank
    commit, segment = index.manifest.commit, index.manifest.next_segment
    assert commit > 0 and segment > 1
    again = build(tmp_path, corpus(2), multi_codec="fp16")
    assert (again.manifest.commit, len(again)) == (commit + 2, 2)
    assert again.manifest.segments[0].name == f"{segment:08d}"
