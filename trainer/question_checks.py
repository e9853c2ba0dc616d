"""Whether an answer of a chat model is a question that can be trained on."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

import numpy as np
from ngrams import HashedTexts, normalise

from m3search.corpus.scripts import is_spaceless
from m3search.evaluation.languages import FUNCTION_WORDS, guess_language

COPIED_WORDS, COPIED_LETTERS = 13, 32
MIN_ENGLISH = 2
"""function words of English that make a question English"""
_LABEL = re.compile(r"\A(?:question|q)\s*[:：]\s*", re.IGNORECASE)
_QUOTES = {'"': '"', "'": "'", "“": "”", "«": "»", "「": "」", "‘": "’"}
_MARKS = re.compile(r"[?？؟՞፧⁇⁈⸮꘏]+")
_GREEK_MARK = re.compile(r"[;\u037e]\Z")
_CHINESE_OR_JAPANESE = ("CJK", "HIRAGANA", "KATAKANA")


def clean_answer(answer: str) -> str:
    """An answer without white space, a label or quotation marks around it."""
    text = _LABEL.sub("", answer.strip())
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    return text


def problem_of(question: str, paragraph: str) -> str:
    """What is wrong with a question on a paragraph, or nothing."""
    if not normalise(question):
        return "empty"
    if not _is_one_question(question):
        return "not one question"
    if is_switched(question, paragraph):
        return "another language"
    if is_copied(question, paragraph):
        return "copied"
    return ""


def _is_one_question(text: str) -> bool:
    """One line and one question mark, which scripts without spaces may leave out."""
    marks = len(_MARKS.findall(text))
    if script_of(text) == "GREEK" and not marks:
        marks = len(_GREEK_MARK.findall(text))
    return "\n" not in text and (marks == 1 or (marks == 0 and _is_mostly_spaceless(text)))


def _is_mostly_spaceless(text: str) -> bool:
    letters = [character for character in text if character.isalpha()]
    return 2 * sum(is_spaceless(ord(letter)) for letter in letters) > len(letters)


def is_switched(question: str, paragraph: str) -> bool:
    """Whether the question is surely in another language than the paragraph.

    That is where most letters are of another script, where only one of two texts in Chinese
    characters has kana to speak of, and where the paragraph's function words are of another
    language than English and the question's are English. No other pair is told apart.
    """
    asked, given = script_of(question), script_of(paragraph)
    if asked != given:
        return True
    if asked == "CJK":
        return _has_kana(question) != _has_kana(paragraph)
    if guess_language([paragraph]).language in ("en", None):
        return False
    words = normalise(question).split()
    counts = {name: sum(word in known for word in words) for name, known in _function_words()}
    english = counts.pop("en")
    return english >= MIN_ENGLISH and english > max(counts.values())


def _function_words() -> Iterator[tuple[str, frozenset[str]]]:
    return ((name, frozenset(words.split())) for name, words in FUNCTION_WORDS.items())


def script_of(text: str) -> str:
    """The script of most letters by their Unicode names; CJK for kana, too; empty without any."""
    names = [unicodedata.name(letter, "").split(" ")[0] for letter in text if letter.isalpha()]
    scripts = Counter("CJK" if name in _CHINESE_OR_JAPANESE else name for name in names)
    return max(scripts, key=lambda script: (scripts[script], script), default="")


def _has_kana(text: str) -> bool:
    """Whether at least one in ten letters is kana: a Chinese text may name a Japanese thing."""
    kana = sum("\u3041" <= each <= "\u30ff" and each.isalpha() for each in text)
    return kana > 0 and 10 * kana >= sum(map(str.isalpha, text))


def is_copied(question: str, paragraph: str) -> bool:
    """Whether both share 13 words in a row, or 32 letters in a script without spaces."""
    hashed = HashedTexts([normalise(question), normalise(paragraph)])
    for grams in (hashed.words(COPIED_WORDS), hashed.letters(COPIED_LETTERS, spaceless=True)):
        if np.isin(grams.hashes[grams.owners == 0], grams.hashes[grams.owners == 1]).any():
            return True
    return False
