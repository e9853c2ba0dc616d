"""`m3search delete` and `m3search compact`: what they report and what they leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from running_commands import (  # noqa: F401
    Result,
    command_line,
    command_line_with_index,
    folder_of_a_test,
    lines_of,
)


def test_delete_reports_what_it_did_not_find(indexed: Callable[..., Result]) -> None:
    Path("ids.txt").write_text("茶\nno\n\nlate\n", encoding="utf-8")
    result = indexed("delete", "late", "nix", "--ids-from", "ids.txt", "--json")
    assert result.code == 0
    assert lines_of(result.out) == [
        {"index": "indexes/default", "deleted": 2, "unknown": ["nix", "no"], "documents": 1}
    ]
    again = indexed("delete", "late")
    assert (again.code, again.err) == (0, "unknown id: late\n")
    assert again.out == "0 deleted, 1 unknown, 1 documents left\n"
    many = indexed("delete", *[f"x{i}" for i in range(25)])
    assert many.err.splitlines()[-1] == "unknown id: 5 more"
    assert indexed("delete").code == 2


def test_compact_leaves_what_can_be_found(indexed: Callable[..., Result]) -> None:
    before = lines_of(indexed("query", "vector", "--json").out)
    indexed("index", "-", "--add", stdin='{"_id": "x", "text": "vector"}\n')
    indexed("delete", "x")
    result = indexed("compact", "--json")
    assert result.code == 0
    (summary,) = lines_of(result.out)
    assert (summary["documents"], summary["segments"]) == (3, 1)
    assert lines_of(indexed("query", "vector", "--json").out) == before
    assert indexed("compact").out.startswith("3 documents in 1 segment, ")
