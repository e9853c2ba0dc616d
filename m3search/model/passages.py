"""A long text cut into passages of a few hundred tokens."""

from __future__ import annotations

import itertools

import numpy as np

from m3search.records import IntArray

REACH = 8
"""a cut moves back by up to this share of a passage, to stand before a word"""


def cut_passages(
    text: str, starts: IntArray, tokens: int, overlap: int = 0
) -> list[tuple[int, int]]:
    """Characters [start, end) of passages that cover the text, each of at most `tokens` tokens.

    starts: (n,) where each token of the text begins. As few passages as can be, about equally
    long; neighbours share about `overlap` tokens. A passage begins where a word does, unless the
    next blank is far.
    """
    count = len(starts)
    if count <= tokens or not text:
        return [(0, len(text))]
    starts = np.maximum.accumulate(starts)
    number = -(-(count - overlap) // (tokens - overlap))
    step = (count - overlap) / number
    spans: list[tuple[int, int]] = []
    begin = 0
    for place in itertools.count(1):
        end = min(max(round(place * step) + overlap, begin + 1), begin + tokens, count)
        if end < count:
            end = _word_start(text, starts, end, tokens // REACH)
        stop = int(starts[end]) if end < count else len(text)
        start = int(starts[begin]) if spans else 0
        if stop > (spans[-1][1] if spans else 0):  # tokens of one character are not parted
            spans.append((start, stop))
        if end == count:
            break
        begin = max(_word_start(text, starts, end - overlap, tokens // REACH), begin + 1)
    return spans


def _word_start(text: str, starts: IntArray, token: int, reach: int) -> int:
    """The token, or one before it that begins a word, where one does nearby."""
    for place in range(token, max(0, token - reach), -1):
        start = int(starts[place])
        inside = 0 < start < len(text)  # a token of no characters may stand at the end
        if inside and text[start - 1].isspace() and not text[start].isspace():
            return place
    return token
