"""Which scripts write words without spaces."""

from __future__ import annotations

from m3search.corpus.scripts import SPACELESS, is_spaceless


def test_scripts_without_spaces() -> None:
    for code in range(0x42000):
        inside = any(first <= code <= last for first, last in SPACELESS)
        assert is_spaceless(code) is inside, hex(code)
    assert all(is_spaceless(ord(character)) for character in "กກཀကកあア検ꀀㄅ𠀀")
    assert not any(is_spaceless(ord(character)) for character in "aαйאعह한1 ")
