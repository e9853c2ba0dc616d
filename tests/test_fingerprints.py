"""The fingerprint of a large checkpoint: read once, and again whenever a file may have changed."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from m3search.encoder import Encoder
from m3search.model import fingerprints
from m3search.model.fingerprints import remembered_fingerprint
from m3search.model.layout import fingerprint


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "m3search" / "fingerprints"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "checkpoint"
    place.mkdir()
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_bytes(b"weights")
    return place


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Folders read whole; every file counts as large and as long unchanged."""
    found: list[Path] = []

    def read(place: Path) -> str:
        found.append(place)
        return fingerprint(place)

    monkeypatch.setattr(fingerprints, "fingerprint", read)
    monkeypatch.setattr(fingerprints, "REMEMBERED_BYTES", 0)
    monkeypatch.setattr(fingerprints, "SETTLED_NS", -(10**12))
    yield found


def test_a_checkpoint_is_read_once(cache: Path, folder: Path, reads: list[Path]) -> None:
    expected = fingerprint(folder)
    assert [remembered_fingerprint(folder) for _ in range(3)] == [expected] * 3
    assert len(reads) == 1
    assert len(list(cache.iterdir())) == 1
    other = Path(os.path.relpath(folder))  # the same folder by another name
    assert remembered_fingerprint(other) == expected and len(reads) == 1


def test_an_encoder_is_loaded_with_the_fingerprint_that_is_remembered(
    cache: Path, reads: list[Path], tiny_checkpoint: Path
) -> None:
    for _ in range(2):
        identity = Encoder.load(tiny_checkpoint, device="cpu").identity
        assert identity.fingerprint == fingerprint(tiny_checkpoint)
    assert len(reads) == 1


def test_every_change_of_a_file_counts(cache: Path, folder: Path, reads: list[Path]) -> None:
    """Of its size or its time, or another file in its place with both the same."""
    weights = folder / "model.safetensors"
    remembered_fingerprint(folder)
    weights.write_bytes(b"changed")  # as many bytes
    assert remembered_fingerprint(folder) == fingerprint(folder) and len(reads) == 2
    weights.write_bytes(b"longer weights")
    assert remembered_fingerprint(folder) == fingerprint(folder) and len(reads) == 3
    (folder / "sparse_linear.pt").write_bytes(b"head")
    assert remembered_fingerprint(folder) == fingerprint(folder) and len(reads) == 4
    before = weights.stat()
    copied = folder / "copied"
    copied.write_bytes(b"w" * before.st_size)
    time.sleep(0.02)
    copied.replace(weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))  # as by cp -p
    assert remembered_fingerprint(folder) == fingerprint(folder) and len(reads) == 5
    (folder / "README.md").write_text("decides nothing")
    assert remembered_fingerprint(folder) == fingerprint(folder) and len(reads) == 5


def test_small_and_fresh_checkpoints_are_not_remembered(
    cache: Path, folder: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file changed just now may change again within one tick of the clock."""
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "SETTLED_NS", 10**12)
        remembered_fingerprint(folder)
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "REMEMBERED_BYTES", 100)
        remembered_fingerprint(folder)
    assert not cache.exists() and len(reads) == 2


@pytest.mark.parametrize("damage", ["", "[]", '{"files": 3}', "null", "\udcff"])
def test_a_damaged_cache_is_written_anew(
    cache: Path, folder: Path, reads: list[Path], damage: str
) -> None:
    remembered_fingerprint(folder)
    (note,) = cache.iterdir()
    note.write_bytes(damage.encode("utf-8", "surrogateescape"))
    for _ in range(2):
        assert remembered_fingerprint(folder) == fingerprint(folder)
    assert len(reads) == 2


def test_without_a_place_to_write_to_it_is_read_each_time(
    cache: Path, folder: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.parent.write_text("a file where the folder should be")
    assert remembered_fingerprint(folder) == remembered_fingerprint(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # counts as not set
    monkeypatch.setenv("HOME", "/dev/null")
    assert remembered_fingerprint(folder) == fingerprint(folder)

    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", no_home)
    assert remembered_fingerprint(folder) == fingerprint(folder)
    assert len(reads) == 4


def test_a_folder_that_may_only_be_read(
    cache: Path, folder: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    cache.mkdir(parents=True)
    monkeypatch.setattr(Path, "write_text", refuse)
    assert remembered_fingerprint(folder) == fingerprint(folder)
    assert list(cache.iterdir()) == []


def test_writers_at_once_leave_one_whole_note(cache: Path, folder: Path, reads: list[Path]) -> None:
    expected = fingerprint(folder)
    found: list[str] = []

    def load() -> None:
        for _ in range(20):
            for note in cache.glob("*.json"):
                note.unlink(missing_ok=True)
            found.append(remembered_fingerprint(folder))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 80
    remembered_fingerprint(folder)
    (note,) = cache.iterdir()
    assert stat.S_ISREG(note.stat().st_mode) and expected in note.read_text()
