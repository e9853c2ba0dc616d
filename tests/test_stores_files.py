"""Mapped files: what of them is in memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from m3search.stores.codecs import CODECS
from m3search.stores.files import ArrayWriter, forget, map_array
from m3search.stores.multi import FILE, VectorStore
from m3search.stores.multi_writer import VectorWriter


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it does nothing")
def test_token_vectors_are_forgotten_and_read_again(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    texts = random.standard_normal((60, 300, 64)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=2, keepdims=True)
    writer = VectorWriter(tmp_path, CODECS["fp16"])
    writer.append(list(texts))
    writer.finish()
    store = VectorStore(tmp_path, 60, 64, CODECS["fp16"])
    held = list(store.blobs(range(60)))
    before = resident(tmp_path / FILE)
    assert before > 2000  # kB
    store.forget()
    assert resident(tmp_path / FILE) < before / 4
    assert held == list(store.blobs(range(60)))


def resident(path: Path) -> int:
    """kB of a mapped file in memory."""
    lines = Path("/proc/self/smaps").read_text().split(str(path.resolve()))
    return int(lines[1].split("Rss:")[1].split()[0]) if len(lines) > 1 else 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it does nothing")
def test_a_mapped_file_is_forgotten_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a file.npy"
    content = np.arange(1 << 20, dtype=np.int64)
    with ArrayWriter(path, "<i8") as writer:
        writer.append(content)
    mapped = map_array(path, "<i8")
    assert int(mapped.sum()) == int(content.sum())
    assert resident(path) > 7000  # kB
    forget(mapped, np.arange(1 << 20), mapped[5:])  # what is not mapped stays
    assert resident(path) < 200
    np.testing.assert_array_equal(mapped, content)
