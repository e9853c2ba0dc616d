"""Commits are atomic and outlive a power cut: killed at every call, and every sync in its place."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from index_fakes import FakeEncoder
from killing import kill_at_each_call
from small_indexes import build, contents, corpus

from m3search.index import Index
from m3search.stores import tiers
from m3search.stores.files import replace_file
from m3search.stores.manifest import MANIFEST, SEGMENTS, Manifest, parse_manifest


def test_a_file_is_replaced_whole_wherever_it_is_killed(memory_folder):
    path, old, new = memory_folder / "file", b"old" * 9, b"new" * 9000
    replace_file(path, old)
    met = []
    for _ in kill_at_each_call(lambda: replace_file(path, new)):
        met.append(path.read_bytes())
        assert met[-1] in (old, new)
        replace_file(path, old)  # whatever was left beside it
    assert path.read_bytes() == new
    assert met[0] == old and met[-1] == new
    assert len(met) > 6
    assert [entry.name for entry in memory_folder.iterdir()] == ["file"]


def test_a_delete_is_whole_wherever_it_is_killed(memory_folder):
    path, safe = memory_folder / "index", memory_folder / "safe"
    before = contents(build(safe, corpus(9), segment_documents=5))
    after = {name: document for name, document in before.items() if name not in ("d1", "d7")}
    shutil.copytree(safe, path)
    met = []
    for _ in kill_at_each_call(lambda: Index.open(path).delete(["d1", "d7", "nobody"])):
        index = Index.open(path)
        assert index.verify() == []
        met.append(contents(index))
        assert met[-1] in (before, after)
        del index  # a process may not open an LMDB file that its parent has open
        shutil.rmtree(path)
        shutil.copytree(safe, path)
    assert contents(Index.open(path)) == after
    assert met[0] == before and met[-1] == after
    assert len(met) > 40


@dataclass
class Trace:
    """What was synced, by inode, and what was not when a manifest that needs it was put in force.

    A file counts as synced with the size that it had then, a folder with the names in it.
    """

    sizes: dict[int, int] = field(default_factory=dict)
    names: dict[int, set[str]] = field(default_factory=dict)
    commits: int = 0
    missing: list[str] = field(default_factory=list)
    renamed: list[Path] = field(default_factory=list)
    """manifests whose rename has not been synced yet"""

    def sync(self, handle: int) -> None:
        status = os.fstat(handle)
        if not stat.S_ISDIR(status.st_mode):
            self.sizes[status.st_ino] = status.st_size
            return
        self.names[status.st_ino] = set(os.listdir(handle))
        self.renamed = [path for path in self.renamed if path.parent.stat().st_ino != status.st_ino]

    def check_rename(self, source: Path, target: Path) -> None:
        assert target.name == MANIFEST
        assert self.renamed == [], "a commit began before the last one was synced"
        self._need_file(source)
        self._need_segments(target.parent, parse_manifest(target, source.read_bytes()))
        self.commits += 1
        self.renamed.append(target)

    def _need_segments(self, path: Path, manifest: Manifest) -> None:
        for segment in manifest.segments:
            folder = path / SEGMENTS / segment.name
            self._need_name(folder.parent)
            self._need_name(folder)
            for file in segment.files:
                self._need_name(folder / file.name)
                self._need_file(folder / file.name)

    def _need_file(self, path: Path) -> None:
        status = path.stat()
        if self.sizes.get(status.st_ino) != status.st_size:
            self.missing.append(f"{path} not synced")

    def _need_name(self, path: Path) -> None:
        if path.name not in self.names.get(path.parent.stat().st_ino, ()):
            self.missing.append(f"{path} not in a synced folder")


@pytest.fixture
def trace(monkeypatch):
    trace = Trace()
    replace = os.replace

    def checked(source, target):
        trace.check_rename(Path(source), Path(target))
        replace(source, target)

    monkeypatch.setattr("os.fsync", trace.sync)
    monkeypatch.setattr("os.replace", checked)
    return trace


def assert_synced(trace: Trace, index: Index) -> None:
    assert trace.missing == []
    assert trace.renamed == []
    assert trace.commits == index.manifest.commit + 1  # commit 0 is a rename as well


def test_what_a_manifest_names_is_synced_before_it_is_in_force(tmp_path, trace, monkeypatch):
    monkeypatch.setattr(tiers, "MOST_SEGMENTS", 4)
    monkeypatch.setattr(tiers, "MOST_WHILE_BUILDING", 6)
    index = build(tmp_path / "a" / "b", corpus(30), segment_documents=5)
    assert_synced(trace, index)
    changes = (
        lambda: index.add(corpus(9, first=25), segment_documents=4),
        lambda: index.delete(["d1", "d12", "d28"]),
        index.compact,
        lambda: index.delete(["d2"]),
    )
    for change in changes:
        commit = index.manifest.commit
        change()
        assert index.manifest.commit > commit
        assert_synced(trace, index)


def test_what_a_killed_writer_renamed_is_synced_before_anything_is_removed(
    tmp_path, trace, monkeypatch
):
    """Else a power cut brings back a manifest whose files are gone."""
    index = build(tmp_path / "index", corpus(9))
    trace.renamed.append(tmp_path / "index" / MANIFEST)  # as by one that was killed before its sync
    met = []

    def collect(path, manifest):
        met.append(list(trace.renamed))

    monkeypatch.setattr("m3search.stores.writer.collect", collect)
    index.delete(["nobody"])
    assert met[0] == []


def test_a_folder_that_is_there_already_is_synced(tmp_path, trace):
    """It may have been made by a build that was killed before its first commit."""
    (tmp_path / "a").mkdir()
    Index.build(tmp_path / "a", [], FakeEncoder())
    assert "a" in trace.names[tmp_path.stat().st_ino]


def test_the_folders_of_a_new_index_are_synced(tmp_path, trace):
    Index.build(tmp_path / "a" / "b", [], FakeEncoder())
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        assert folder.name in trace.names[folder.parent.stat().st_ino]
    assert MANIFEST in trace.names[(tmp_path / "a" / "b").stat().st_ino]
