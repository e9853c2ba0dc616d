"""Text into the words that BM25 counts, for any script.

NFKC and lower case; letters and digits with the marks that belong to them, so that a word of
Hindi or Tamil stays whole; overlapping pairs of characters in scripts written without spaces;
stop words and Snowball stemming where the language is known.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import pairwise

import Stemmer

from m3search.corpus.scripts import SPACELESS
from m3search.evaluation.languages import stemmer_name, stop_words

DROPPED = dict.fromkeys(
    [
        *range(0x0591, 0x05BE),  # Hebrew points and Arabic vowel signs: most writers leave
        *range(0x05BF, 0x05C3),  # them out, so matching must not depend on them
        *range(0x064B, 0x0653),
        0x0670,
        0x0640,  # Arabic tatweel, which only stretches a line
        0x00AD,  # soft hyphen
        0x200D,  # zero-width joiner
    ]
)


class Tokenizer:
    """The words of texts in one language; None takes words as they are, without stemming."""

    def __init__(self, language: str | None = None) -> None:
        self.language = language
        self.stop_words = stop_words(language)
        self.stemmer = stemmer_name(language)
        self._stem = Stemmer.Stemmer(self.stemmer).stemWords if self.stemmer else list

    def __call__(self, text: str) -> list[str]:
        """The words in the order of the text, repeated ones repeated."""
        return list(self._stem([w for w in split_words(text) if w not in self.stop_words]))


def split_words(text: str) -> Iterator[str]:
    """Lower-case words, and pairs of characters where a script has no spaces.

    >>> list(split_words("BM25 的检索!"))
    ['bm25', '的检', '检索']
    """
    word, run, _ = _patterns()
    for found in word.findall(unicodedata.normalize("NFKC", text).lower().translate(DROPPED)):
        end = 0
        for match in run.finditer(found):
            if match.start() > end:
                yield found[end : match.start()]
            yield from _pairs(match.group())
            end = match.end()
        if end < len(found):
            yield found[end:]


def _pairs(run: str) -> Iterator[str]:
    """Overlapping pairs of characters, each with its marks; a single one stays as it is."""
    characters = _patterns()[2].findall(run)
    if len(characters) == 1:
        yield run
    for first, second in pairwise(characters):
        yield first + second


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Words with their marks; runs of a script without spaces; one character with its marks."""
    # `\w` leaves out marks, which would cut Indic words at every vowel sign.
    marks = _ranges(code for code in range(0x20000) if unicodedata.category(chr(code))[0] == "M")
    return (
        re.compile(rf"[^\W_](?:[^\W_]|[{marks}])*"),
        re.compile(f"[{_character_class(SPACELESS)}]+"),
        re.compile(f".[{marks}]*"),
    )


def _ranges(codes: Iterable[int]) -> str:
    """Ascending code points as the inside of a character class."""
    spans: list[tuple[int, int]] = []
    for code in codes:
        if spans and spans[-1][1] == code - 1:
            spans[-1] = (spans[-1][0], code)
        else:
            spans.append((code, code))
    return _character_class(spans)


def _character_class(spans: Iterable[tuple[int, int]]) -> str:
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in spans)
