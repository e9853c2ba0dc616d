"""Sizes and tables as the command line shows them."""

from __future__ import annotations

import pytest

from m3search.cli.output import print_hit, print_table, readable_bytes
from m3search.explain import Explanation, TermMatch, TokenMatch
from m3search.records import Document, Hit
from m3search.snippet import Snippet


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2 * 10**9, "2.0 GB"), (3 * 10**12, "3.0 TB")],
)
def test_sizes_for_people(size: int, shown: str) -> None:
    assert readable_bytes(size) == shown


def test_wide_characters_keep_columns_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["set", "nDCG@10"], [["日本語", "1.0"], ["en", "10.0"]])
    assert capsys.readouterr().out == "set     nDCG@10\n日本語      1.0\nen         10.0\n"


@pytest.mark.parametrize(
    ("piece", "shown"),
    [
        ("▁tea", "tea"), ("##s", "##s"), ("▁", "▁"), ("▁▁", "▁"), ("\x07", r"'\x07'"),
        ("\u200d", r"'\u200d'"), (" ", "' '"), ("", "?"),
    ],
)  # fmt: skip
def test_every_piece_of_an_explanation_can_be_seen(
    capsys: pytest.CaptureFixture[str], piece: str, shown: str
) -> None:
    terms, tokens = [TermMatch(piece, 1.0, 0.5, 0.5)], [TokenMatch(piece, piece, 1.0)]
    hit = Hit(1, 1.0, Document("d", "tea"), {"dense": 1.0, "sparse": 0.5, "multi": 1.0})
    explanation = Explanation(terms, tokens)
    print_hit(hit, Snippet([]), explanation)
    _, sparse, multi, _ = capsys.readouterr().out.split("\n", 3)
    assert sparse == f"    sparse  {shown} 1.000×0.500=0.5000"
    assert multi == f"    multi   {shown}→{shown} 1.00"
    assert explanation.to_json()["terms"][0]["term"] == piece
    assert explanation.to_json()["tokens"][0]["document"] == piece
