"""Which parts of words may be pieces of m3-mini's tokenizer, whatever their frequency."""

from __future__ import annotations

import re
import unicodedata

from text_splitting import SPACE

LONGEST = {"han": 4, "hiragana": 5, "katakana": 8}
"""characters: a longer piece is a phrase, which no shorter query would match"""
_SCRIPTS = re.compile(
    "(?P<hiragana>[\u3041-\u309f])|(?P<katakana>[\u30a0-\u30ff\u31f0-\u31ff])"
    "|(?P<han>[\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff])"
)


def may_be_piece(part: str) -> bool:
    """Whether the part of a word is of one of the Japanese scripts only, and not too long for it.

    So a stem is never one piece with the particle behind it.

    >>> [may_be_piece(part) for part in ("日本", "日本は", "中华人民共", "▁word")]
    [True, False, False, True]
    """
    found = {match.lastgroup for match in _SCRIPTS.finditer(part)}
    if not found:
        return True
    return len(found) == 1 and len(part) <= LONGEST[str(found.pop())]


def is_symbol(word: str) -> bool:
    """Whether the word is one character behind a word start, and no letter, mark or digit."""
    return len(word) == 2 and word[0] == SPACE and unicodedata.category(word[1])[0] not in "LMN"
