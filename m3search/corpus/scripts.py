"""Which scripts write words without spaces: what counts as a word there is any two characters."""

from __future__ import annotations

from bisect import bisect_right

SPACELESS = (
    (0x0E00, 0x109F),  # Thai, Lao, Tibetan, Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1980, 0x19DF),  # New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x2E80, 0x312F),  # Han radicals, kana, bopomofo
    (0x31A0, 0x4DBF),  # bopomofo and kana extensions, Han extension A
    (0x4E00, 0xA4CF),  # Han, Yi
    (0xA9E0, 0xA9FF),  # Myanmar extension B
    (0xAA60, 0xAA7F),  # Myanmar extension A
    (0xF900, 0xFAFF),  # Han compatibility forms
    (0xFF66, 0xFF9F),  # halfwidth kana
    (0x20000, 0x3FFFF),  # Han extensions
)
"""first and last code point of each range, ascending"""

_STARTS = [first for first, _ in SPACELESS]


def is_spaceless(code: int) -> bool:
    """Whether the code point belongs to such a script."""
    place = bisect_right(_STARTS, code) - 1
    return place >= 0 and code <= SPACELESS[place][1]
