"""`m3search info` of an index: what it shows, and every damage."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from running_commands import (  # noqa: F401
    Result,
    command_line,
    command_line_with_index,
    folder_of_a_test,
    lines_of,
)


def test_info_of_an_index(indexed: Callable[..., Result], place: Path) -> None:
    (info,) = lines_of(indexed("info", "indexes/default", "--json").out)
    assert info["format"] == "m3search-index" and info["documents"] == 3
    assert info["model"]["name"] == "word-hash"
    shown = indexed("info", "indexes/default", "--verify")
    assert shown.code == 0
    assert re.search(r"^verified +sound$", shown.out, re.M)
    damaged = next((place / "indexes" / "default").rglob("sparse.weights.npy"))
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 0xFF
    damaged.write_bytes(bytes(content))
    assert indexed("info", "indexes/default").code == 0
    broken = indexed("info", "indexes/default", "--verify", "--json")
    assert broken.code == 1
    assert "sparse.weights.npy" in broken.err and broken.err.startswith("error: ")
    assert "sparse.weights.npy" in lines_of(broken.out)[0]["damages"][0]


def test_info_shows_every_damage_beside_the_manifest(
    indexed: Callable[..., Result], place: Path
) -> None:
    indexed("index", "-", "--add", stdin='{"_id": "x", "text": "vector"}\n')
    first, second = sorted((place / "indexes" / "default" / "segments").iterdir())
    (first / "multi.lmdb").unlink()
    (first / "sparse.rows.npy").write_bytes(b"short")
    (second / "documents.sqlite").unlink()
    changed = bytearray((second / "dense.faiss").read_bytes())
    changed[-1] ^= 0xFF
    (second / "dense.faiss").write_bytes(changed)
    for options, count in (([], 3), (["--verify"], 4)):
        broken = indexed("info", "indexes/default", "--json", *options)
        assert broken.code == 1
        (info,) = lines_of(broken.out)
        assert (info["format"], info["documents"]) == ("m3search-index", 4)
        assert len(info["damages"]) == count
        assert [line[7:] for line in broken.err.splitlines()] == info["damages"]
        for name in ("multi.lmdb: missing", "sparse.rows.npy: 5 bytes", "documents.sqlite: miss"):
            assert any(name in damage for damage in info["damages"])
        shown = indexed("info", "indexes/default", *options)
        assert shown.code == 1
        assert re.search(r"^verified +damaged$", shown.out, re.M)
        assert re.search(r"^documents +4$", shown.out, re.M)
