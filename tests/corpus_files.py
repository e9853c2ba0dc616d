"""Files of documents and queries: written, packed, and the error of a bad one."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard

from m3search.corpus import read_corpus
from m3search.errors import DataError

GOOD = b'{"_id": "a", "text": "tea"}\n'


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def error_of(path: Path | str, read=read_corpus) -> DataError:
    with pytest.raises(DataError) as caught:
        list(read(path))
    return caught.value


def packed(content: bytes) -> dict[str, bytes]:
    zstd = zstandard.ZstdCompressor()
    half = len(content) // 2
    return {
        "plain": content,
        "gzip": gzip.compress(content),
        "gzip of two members": gzip.compress(content[:half]) + gzip.compress(content[half:]),
        "zstd": zstd.compress(content),
        "zstd of two frames": zstd.compress(content[:half]) + zstd.compress(content[half:]),
        "zstd with a skippable frame": b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstd.compress(content),
    }
