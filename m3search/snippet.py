"""The part of a text that shows why it was found, with the matched words marked.

Works on characters alone: words end at white space and punctuation, except in scripts that write
no spaces, where any two characters may be parted. Combining marks stay with their letter always.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from m3search.corpus.scripts import is_spaceless
from m3search.records import Token

COVERED_SHARE = 0.5
"""A word is marked where its matched pieces cover this share of its characters."""
LONGEST_WORD = 60
"""Characters that a cut moves at most to leave a word whole."""
LEAD = 1 / 3
"""Share of the room beside the matched words that stands before them."""

_STARTS_NO_SNIPPET = frozenset(" \t\n\r,.;:!?)]}»”’、。，；：！？）」』·|/-–—")
_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")  # would turn round the rest of the line
_SURROGATE = re.compile("[\ud800-\udfff]")


class Span(NamedTuple):
    """A matched word: characters [start, end) of the text, and how much it counts."""

    start: int
    end: int
    weight: float


class Snippet(NamedTuple):
    """Pieces of text in order, each with whether it is matched: a word, or words that touch."""

    pieces: list[tuple[str, bool]]

    def mark(self, before: str = "**", after: str = "**") -> str:
        """The snippet as one line, matched words between `before` and `after`."""
        return "".join(before + text + after if hit else text for text, hit in self.pieces)


def printable(text: str) -> str:
    """The text on one line: white space and control characters become single spaces.

    >>> printable("two\\n  lines\\x1b[1m ")
    'two lines [1m'
    """
    return _clean(text).strip()


def term_spans(
    text: str, tokens: Sequence[Token], weights: Sequence[float], least: float = 0.0
) -> list[Span]:
    """The words of the text that the terms match, in order, apart from each other.

    tokens: of this text, in order. weights: of each token; a word weighs what its pieces do
    together; one that weighs less than `least` is left out.
    """
    words: dict[tuple[int, int], list[tuple[Token, float]]] = {}
    word = (0, 0)
    for token, weight in zip(tokens, weights, strict=True):
        if weight <= 0 or not token.start < token.end <= len(text):
            continue
        if not any(character.isalnum() for character in text[token.start : token.end]):
            continue
        start, end = _strip(text, token.start, token.end)
        if start >= word[1]:
            word = _word_around(text, start, end)
        elif end > word[1]:  # a piece that goes past the word it began in
            word = (word[0], _word_around(text, start, end)[1])
        words.setdefault(word, []).append((token, weight))
    spans = [
        Span(*word, sum(weight for _, weight in pieces))
        for word, pieces in words.items()
        if sum(p.end - p.start for p, _ in pieces) >= COVERED_SHARE * (word[1] - word[0])
    ]
    return [span for span in _apart(spans) if span.weight >= least]


def cut_snippet(text: str, spans: Sequence[Span], width: int = 240) -> Snippet:
    """About `width` characters of the text around the densest group of matched words.

    Densest: the largest sum of weights, a word counted fully once and a tenth for each repeat;
    of equal groups the first. No word is cut, except one longer than 60 characters; of a matched
    one what is left is marked.
    """
    if len(text) <= width:
        start, end = 0, len(text)
    else:
        first, last = _densest(text, spans, width)
        start, end = _window(text, first, last, width)
    pieces: list[tuple[str, bool]] = []
    position = start
    for span in spans:
        first, last = max(span.start, start), min(span.end, end)
        if first < last:
            pieces += [(text[position:first], False), (text[first:last], True)]
            position = last
    pieces.append((text[position:end], False))
    tidy = _tidy(pieces)
    before = [("…", False)] if start > 0 else []
    after = [("…", False)] if end < len(text) else []
    return Snippet([*before, *tidy, *after])


def _densest(text: str, spans: Sequence[Span], width: int) -> tuple[int, int]:
    """Start and end of the best group of spans that fits; (0, 0) where there is none."""
    best, place = 0.0, (0, 0)
    inside: Counter[str] = Counter()
    distinct: dict[str, float] = {}
    right, repeats = 0, 0.0
    for left, span in enumerate(spans):
        while right < len(spans) and spans[right].end - span.start <= width:
            word = text[spans[right].start : spans[right].end].casefold()
            inside[word] += 1
            distinct[word] = spans[right].weight
            repeats += spans[right].weight / 10
            right += 1
        total = sum(distinct.values()) + repeats
        if right > left and total > best * (1 + 1e-9):
            best, place = total, (span.start, spans[right - 1].end)
        if right == left:  # a span wider than the snippet
            right += 1
            continue
        word = text[span.start : span.end].casefold()
        inside[word] -= 1
        repeats -= span.weight / 10
        if not inside[word]:
            del distinct[word]
    return place


def _window(text: str, first: int, last: int, width: int) -> tuple[int, int]:
    """[start, end) of about `width` characters that holds [first, last), at word boundaries."""
    spare = max(width - (last - first), 0)
    start = max(0, min(first - int(spare * LEAD), len(text) - width))
    if start < width // 8:  # the beginning is worth more than a few characters at the end
        start = 0 if last <= width else start
    end = min(len(text), max(start + width, last))
    if start > 0:
        start = _next_boundary(text, start, first)
        while start < first and text[start] in _STARTS_NO_SNIPPET and is_boundary(text, start + 1):
            start += 1
    return start, _last_boundary(text, end, max(last, start + 1))


def _next_boundary(text: str, position: int, limit: int) -> int:
    for place in range(position, min(limit, position + LONGEST_WORD) + 1):
        if is_boundary(text, place):
            return place
    while position < len(text) and joins_previous(text, position):
        position += 1
    return position


def _last_boundary(text: str, position: int, limit: int) -> int:
    for place in range(position, max(limit, position - LONGEST_WORD) - 1, -1):
        if is_boundary(text, place):
            return place
    while position < len(text) and joins_previous(text, position):
        position += 1
    return position


def is_boundary(text: str, position: int) -> bool:
    """Whether the text may be cut before this character without cutting a word or a mark."""
    if position <= 0 or position >= len(text):
        return True
    if joins_previous(text, position):
        return False
    return not (_continues(text[position - 1]) and _continues(text[position]))


def joins_previous(text: str, position: int) -> bool:
    """Whether this character belongs to the one before it: a mark, a joiner, part of an emoji."""
    if position <= 0 or position >= len(text):
        return False
    before, character = text[position - 1], text[position]
    code = ord(character)
    if code < 0x300:
        return False
    return (
        unicodedata.category(character)[0] == "M"
        or code in (0x200C, 0x200D, 0xFF9E, 0xFF9F, 0x0E33, 0x0EB3)
        or before == "\u200d"
        or (unicodedata.combining(before) == 9 and character.isalpha())  # virama: a conjunct
        or 0x1F3FB <= code <= 0x1F3FF  # skin tones
        or (0x1F1E6 <= code <= 0x1F1FF and 0x1F1E6 <= ord(before) <= 0x1F1FF)  # flags
        or 0xE0020 <= code <= 0xE007F
        or 0x1160 <= code <= 0x11FF  # vowels and finals of decomposed Hangul
        or 0xD7B0 <= code <= 0xD7FF
    )


def _continues(character: str) -> bool:
    """Whether two such characters side by side are one word."""
    code = ord(character)
    if code >= 0xE00 and is_spaceless(code):
        return False
    return (
        character.isalnum()
        or character in "_\u200c\u200d"
        or unicodedata.category(character)[0] == "M"
    )


def _word_around(text: str, start: int, end: int) -> tuple[int, int]:
    while not is_boundary(text, start):
        start -= 1
    while not is_boundary(text, end):
        end += 1
    return start, end


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends; some tokenizers count the space before a word."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _apart(spans: list[Span]) -> list[Span]:
    """Spans in order, with overlapping ones made one."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start < merged[-1].end:
            before = merged.pop()
            span = Span(before.start, max(before.end, span.end), before.weight + span.weight)
        merged.append(span)
    return merged


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub(" ", _DIRECTION.sub("", _SURROGATE.sub("\ufffd", text)))


def _tidy(pieces: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Printable pieces with no two spaces in a row, none empty, no space at either end.

    Matched words with nothing between them, as in scripts without spaces, become one piece.
    """
    tidy: list[tuple[str, bool]] = []
    for raw, hit in pieces:
        text = _clean(raw)
        if not tidy or tidy[-1][0].endswith(" "):
            text = text.lstrip(" ")
        if text and hit and tidy and tidy[-1][1]:
            tidy[-1] = (tidy[-1][0] + text, True)
        elif text:
            tidy.append((text, hit))
    while tidy and not (last := tidy[-1])[0].rstrip(" "):
        tidy.pop()
    if tidy:
        tidy[-1] = (last[0].rstrip(" "), last[1])
    return tidy
