"""An index that may only be read: searches work, changes say why they do not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from index_fakes import FakeEncoder
from small_indexes import assert_ranks, build, contents, corpus
from test_index_no_room import run_on_small_disk

from m3search.errors import ArtifactError
from m3search.index import Index
from m3search.stores.snapshot import find_damages

NOBODY = 65534


@contextmanager
def only_reading(path: Path) -> Iterator[None]:
    """Inside the block nothing below the path may be written, not by root either."""
    for folder, _, files in os.walk(path):
        for name in files:
            Path(folder, name).chmod(0o444)
        Path(folder).chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for folder, _, _ in os.walk(path):
            Path(folder).chmod(0o755)


@pytest.fixture
def place(memory_folder: Path) -> Path:
    memory_folder.chmod(0o755)  # another user may go through
    if not os.access(memory_folder.parent, os.X_OK) or memory_folder.parent == Path("/"):
        pytest.skip("no folder that another user can reach")
    return memory_folder


def test_a_folder_that_may_not_be_written(place):
    path = place / "index"
    index = build(path, corpus(12))
    index.delete(["d3"])
    assert_ranks(index)  # compiles what a user without a home cannot keep
    before = contents(index)
    with only_reading(path):
        opened = Index.open(path)
        assert contents(opened) == before
        assert_ranks(opened)
        assert opened.verify() == []
        assert find_damages(path, read=True) == (opened.manifest, [])
        assert opened.refresh() is opened
        for change in (
            lambda: opened.add(corpus(1, 50), FakeEncoder()),
            lambda: opened.delete(["d1"]),
            opened.compact,
            lambda: opened.set_weights((1, 1, 1)),
        ):
            with pytest.raises(ArtifactError) as refused:
                change()
            assert str(refused.value) == (
                f"{path}/write.lock: expected to write the file, found Permission denied; 11 "
                "documents are committed and safe. Make room or check the permissions, then run "
                "the same command again."
            )
        with pytest.raises(ArtifactError, match=r"other: .* found Permission denied; 0 documents"):
            build(path / "other", corpus(1))
        assert opened.manifest == Index.open(path).manifest
    assert opened.delete(["d1"]) == 1  # once it may be written again
    assert opened.verify() == []


def test_a_manifest_that_may_not_be_read(place):
    path = place / "index"
    build(path, corpus(3))
    (path / "manifest.json").chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        with pytest.raises(ArtifactError, match=r"manifest\.json: .* found Permission denied\. Ch"):
            Index.open(path)
    finally:
        if root:
            os.seteuid(0)


def test_a_file_system_that_is_mounted_to_be_read(tmp_path):
    """Where permissions would allow it."""
    safe, disk = tmp_path / "safe", tmp_path / "disk"
    disk.mkdir()
    build(safe, corpus(9))
    script = f"""
        import shutil, subprocess, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from small_indexes import contents
        from m3search.errors import ArtifactError
        from m3search.index import Index
        shutil.copytree({str(safe)!r}, {str(disk / "index")!r})
        subprocess.run(["mount", "-o", "remount,ro", {str(disk)!r}], check=True)
        index = Index.open({str(disk / "index")!r})
        print(len(contents(index)), index.verify())
        for change in (lambda: index.delete(["d1"]), index.compact):
            try:
                change()
            except ArtifactError as error:
                print(error)
    """
    lines = run_on_small_disk(disk, script, "8m")
    assert lines[0] == "9 []"
    assert len(lines) == 3
    for error in lines[1:]:
        assert error.startswith(f"{disk}/index/write.lock: expected to write the file, found")
        assert "Read-only file system; 9 documents are committed and safe" in error
