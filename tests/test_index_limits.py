"""Full disks and limits of the system lose nothing and are called by their names."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from index_fakes import FakeEncoder
from small_indexes import build, contents, corpus

from m3search.errors import ArtifactError
from m3search.index import Index

SYNCS = 33
"""of an add, a delete and a compaction"""


@pytest.mark.parametrize("call", [*range(1, SYNCS, 2), SYNCS, SYNCS + 1])
def test_a_disk_that_is_full_at_any_sync(tmp_path, monkeypatch, call):
    index = build(tmp_path, corpus(10))
    calls, errors, sync = [0], [], os.fsync

    def fail(handle):
        calls[0] += 1
        if calls[0] == call:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr("os.fsync", fail)
    changes = (lambda: index.add(corpus(3, 8)), lambda: index.delete(["d4"]), index.compact)
    for change in changes:
        before = Index.open(tmp_path).manifest
        try:
            change()
        except ArtifactError as error:
            errors.append(error)
            assert "No space left on device; " in str(error)
            assert f"{before.documents} documents are committed and safe" in str(error)
            assert str(tmp_path) in error.where
    assert len(errors) == (call <= SYNCS)
    monkeypatch.setattr("os.fsync", sync)
    for change in changes:
        change()
    index = Index.open(tmp_path)
    assert index.verify() == []
    assert len(contents(index)) == 10


@pytest.mark.parametrize("limit", [3_000, 12_000, 20_000, 60_000])
def test_a_limit_on_file_size(tmp_path, limit):
    """Real writes that fail, in whichever store grows past the limit first."""
    build(tmp_path, corpus(5))
    script = f"""
        import resource, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from index_fakes import FakeEncoder
        from m3search.errors import ArtifactError
        from m3search.index import Index
        from m3search.records import Document
        index = Index.open({str(tmp_path)!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            index.add((Document(f"n{{i}}", "x" * 300) for i in range(600)), FakeEncoder())
        except ArtifactError as error:
            print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stderr == ""
    assert f"{tmp_path / 'segments' / '00000002'}/" in result.stdout
    assert "5 documents are committed and safe" in result.stdout
    index = Index.open(tmp_path)
    assert index.verify() == []
    assert len(index) == 5
    assert index.add(corpus(3, 20), FakeEncoder()).segments == 2


def test_too_many_open_files_is_not_called_damage(tmp_path, monkeypatch):
    monkeypatch.setattr("m3search.stores.tiers.MOST_SEGMENTS", 64)
    build(tmp_path, corpus(40), segment_documents=1)
    script = f"""
        import resource
        from m3search.errors import ArtifactError
        from m3search.index import Index
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
        try:
            Index.open({str(tmp_path)!r})
        except ArtifactError as error:
            print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert "Too many open files. Check its permissions and the limit on open files" in result.stdout
