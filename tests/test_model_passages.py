"""A text cut into passages: nothing is lost, none is too long, cuts stand before words."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from m3search.encoder import Encoder
from m3search.model.passages import cut_passages


def cut_words(text: str, tokens: int, overlap: int = 0) -> list[str]:
    starts = np.array([i for i in range(len(text)) if i == 0 or text[i - 1] == " "], np.int64)
    return [text[start:end] for start, end in cut_passages(text, starts, tokens, overlap)]


def test_by_hand() -> None:
    assert cut_words("a b c d e f g h i j", 4) == ["a b c ", "d e f g ", "h i j"]
    assert cut_words("a b c d e f g h i j", 4, 1) == ["a b c d ", "d e f g ", "g h i j"]
    assert cut_words("a b c d", 4, 1) == ["a b c d"]
    assert cut_passages("", np.zeros(0, np.int64), 4) == [(0, 0)]


@settings(max_examples=200, deadline=None)
@example(lengths=[*[0] * 8, 1, 0, 0, 0], tokens=11, share=0.46875, blanks=True)
@given(
    lengths=st.lists(st.integers(0, 3), max_size=120),
    tokens=st.integers(1, 30),
    share=st.floats(0, 0.49),
    blanks=st.booleans(),
)
def test_laws(lengths: list[int], tokens: int, share: float, blanks: bool) -> None:
    """Tokens of 0 to 3 characters: one character may be several tokens, as bytes are."""
    overlap = int(share * tokens)
    starts = np.cumsum([0, *lengths])[:-1].astype(np.int64)
    text = "".join(("x" * n)[:-1] + " " if blanks and n else "x" * n for n in lengths)
    spans = cut_passages(text, starts, tokens, overlap)
    assert (spans[0][0], spans[-1][1]) == (0, len(text))
    for (start, end), (following, further) in pairwise(spans):
        assert start <= following <= end < further  # each goes on, and nothing is left out
    for start, end in spans:
        if all(lengths):
            assert np.count_nonzero((starts >= start) & (starts < end)) <= tokens


def test_cuts_stand_before_words() -> None:
    text = "kind letters " * 60
    pieces = [i for word in range(120) for i in _pieces(text, word)]
    for start, _ in cut_passages(text, np.array(pieces, np.int64), 64, 16)[1:]:
        assert text[start - 1] == " " and text[start] != " "


def _pieces(text: str, word: int) -> list[int]:
    """Where a word's pieces begin, of two characters each."""
    starts = [i for i in range(len(text)) if (i == 0 or text[i - 1] == " ") and text[i] != " "]
    return [starts[word] + i for i in range(0, len(text[starts[word] :].split()[0]), 2)]


@pytest.mark.parametrize("text", ["The lighthouse keepers of old. " * 90, "灯台は岬に立つ。" * 120])
def test_the_embedded_model_cuts_whole_texts(text: str) -> None:
    encoder = Encoder.load(device="cpu", max_length=64)
    spans = encoder.passages(text, 50, 10)
    assert len(spans) > 10 and spans[-1][1] == len(text)
    for start, end in spans:
        assert len(encoder.tokens(text[start:end])) <= 52  # cut apart, a word may have more pieces
