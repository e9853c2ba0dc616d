"""Mapped files: what of them is in memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from m3search.stores.files import ArrayWriter, forget, map_array


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it does nothing")
def test_a_mapped_file_is_forgotten_and_read_again(tmp_path: Path) -> None:
    def resident() -> int:
        lines = Path("/proc/self/smaps").read_text().split(str(path.resolve()))
        return int(lines[1].split("Rss:")[1].split()[0]) if len(lines) > 1 else 0

    path = tmp_path / "a file.npy"
    content = np.arange(1 << 20, dtype=np.int64)
    with ArrayWriter(path, "<i8") as writer:
        writer.append(content)
    mapped = map_array(path, "<i8")
    assert int(mapped.sum()) == int(content.sum())
    assert resident() > 7000  # kB
    forget(mapped, np.arange(1 << 20), mapped[5:])  # what is not mapped stays
    assert resident() < 200
    np.testing.assert_array_equal(mapped, content)
