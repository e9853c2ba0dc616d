"""Sizes and tables as the command line shows them."""

from __future__ import annotations

import pytest

from m3search.cli.output import print_table, readable_bytes


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2 * 10**9, "2.0 GB"), (3 * 10**12, "3.0 TB")],
)
def test_sizes_for_people(size: int, shown: str) -> None:
    assert readable_bytes(size) == shown


def test_wide_characters_keep_columns_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["set", "nDCG@10"], [["日本語", "1.0"], ["en", "10.0"]])
    assert capsys.readouterr().out == "set     nDCG@10\n日本語      1.0\nen         10.0\n"
