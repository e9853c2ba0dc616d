"""How m3-mini's tokenizer reads a text before its pieces are looked up: normal form and words.

Normal form: NFKC and lower case, and one spelling for what differs in writing alone, so that the
lexical mode matches it: digits of all scripts, apostrophes, the dot of a Turkish capital I, final
sigma, Russian yo, the Arabic and Persian forms of yeh, kaf and alef. Invisible characters,
tatweel, and the vowel signs of Arabic and Hebrew, which are seldom written, are left out.

Words: a run of letters, up to four digits, or one other character; so a word is the same term
whatever stands beside it. Each begins with U+2581 but those in scripts without spaces, where a run
is a sentence and its first word would be another term than the same word further on.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable
from functools import cache

from tokenizers import Regex, normalizers, pre_tokenizers

from m3search.corpus.scripts import SPACELESS

SPACE = "▁"
"""what begins a word"""
DIGITS = 4
"""the longest piece of a number"""
_TSHEG = r"\x{F0B}\x{F0C}"  # Tibetan, between syllables: punctuation by name only
_ZERO = r"\x{3007}"  # a Han digit that Unicode counts among the letter numbers
_LETTERS = rf"\p{{L}}\p{{M}}{_TSHEG}{_ZERO}"
_SPACELESS = "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in SPACELESS)
_PARTING = r"\x{200B}|(?<=\p{Arabic})\x{200C}"  # spaces of no width
_INVISIBLE = r"[[\p{Cc}\p{Cf}\x{FE00}-\x{FE0F}\x{E0100}-\x{E01EF}]&&[^\s]]"
_VOWEL_SIGNS = (
    r"[\x{640}\x{64B}-\x{65F}\x{670}"  # Arabic
    r"\x{591}-\x{5BD}\x{5BF}\x{5C1}\x{5C2}\x{5C4}\x{5C5}\x{5C7}]"  # Hebrew
)
_SPELLINGS = (
    ("i\u0307", "i"),
    ("ς", "σ"),
    # the stress of Greek moves as words bend
    *(("ά", "α"), ("έ", "ε"), ("ή", "η"), ("[ίϊΐ]", "ι"), ("ό", "ο"), ("[ύϋΰ]", "υ"), ("ώ", "ω")),
    ("ё", "е"),
    ("[يى]", "ی"),
    ("ك", "ک"),
    ("[أإٱ]", "ا"),
    ("[‘’ʻʼ`]", "'"),
)


def make_normalizer() -> normalizers.Normalizer:
    """The normal form of a text."""
    replaced: list[tuple[str, str]] = [(_VOWEL_SIGNS, ""), *_SPELLINGS]
    replaced += [(_any_of(codes), str(value)) for value, codes in enumerate(_other_digits())]
    return normalizers.Sequence(
        [
            normalizers.Replace(Regex(_PARTING), " "),
            normalizers.Replace(Regex(_INVISIBLE), ""),
            normalizers.NFKC(),
            normalizers.Lowercase(),
            *(normalizers.Replace(Regex(old), new) for old, new in replaced),
        ]
    )


def make_pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """The words of a text in normal form."""
    parts = (
        rf"[^{_LETTERS}\p{{Nd}}]",
        rf"\p{{Nd}}{{1,{DIGITS}}}",
        rf"[[{_SPACELESS}]&&[{_LETTERS}]]+",
    )
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Split(Regex("|".join(parts)), "isolated"),
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=False),
            pre_tokenizers.Split(Regex(rf"^{SPACE}(?=[{_SPACELESS}])"), "removed"),
        ]
    )


class Splitting:
    """Texts to words, as the tokenizer does it."""

    def __init__(self) -> None:
        self._normalizer, self._pre_tokenizer = make_normalizer(), make_pre_tokenizer()

    def words(self, text: str) -> list[str]:
        """The words of a text, in order.

        >>> Splitting().words("Don't！ iPhone用 ١٩٩٠12")
        ['▁don', "▁'", '▁t', '▁!', '▁iphone', '用', '▁1990', '▁12']
        """
        normal = self._normalizer.normalize_str(text)
        return [word for word, _ in self._pre_tokenizer.pre_tokenize_str(normal)]


@cache
def _other_digits() -> list[list[int]]:
    """For 0 to 9 the code points of that digit in all scripts but what NFKC makes ASCII."""
    digits: list[list[int]] = [[] for _ in range(10)]
    for code in range(0x80, sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) == "Nd" and not _is_changed(character):
            digits[unicodedata.digit(character)].append(code)
    return digits


def _is_changed(character: str) -> bool:
    return unicodedata.normalize("NFKC", character) != character


def _any_of(codes: Iterable[int]) -> str:
    return "[" + "".join(rf"\x{{{code:X}}}" for code in codes) + "]"
