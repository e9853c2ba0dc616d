"""The BM25 baseline: its words, its language, its scores against a slow loop."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slow_bm25 import slow_bm25

from m3search.errors import ConfigError
from m3search.evaluation.bm25 import BM25, Language
from m3search.evaluation.languages import (
    FUNCTION_WORDS,
    MIN_SHARE,
    SNOWBALL,
    STOP_LISTS,
    THREE_LETTERS,
    Guess,
    checked_language,
    guess_language,
    stemmer_name,
    stop_words,
)
from m3search.evaluation.lucene import ANALYZERS
from m3search.evaluation.words import Tokenizer, split_words
from m3search.records import Document, Query

PLAIN = Language(None, "given")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Late-interaction, in 2020!", ["late", "interaction", "in", "2020"]),
        ("ＢＭ２５ ﬁne", ["bm25", "fine"]),  # full width, a ligature
        ("snake_case l'eau", ["snake", "case", "l", "eau"]),
        ("हिन्दी में खोज", ["हिन्दी", "में", "खोज"]),  # vowel signs stay in their word
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("检索系统", ["检索", "索系", "系统"]),
        ("在 M3模型 中", ["在", "m3", "模型", "中"]),
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("ที่นี่", ["ที่นี่"]),  # two characters with their marks make one pair
        ("กขคง", ["กข", "ขค", "คง"]),
        ("ພາສາ", ["ພາ", "າສ", "ສາ"]),
        ("ភាសា", ["ភាសា"]),
        ("ꀀꀁꀂ", ["ꀀꀁ", "ꀁꀂ"]),  # Yi
        ("한국어 검색", ["한국어", "검색"]),
        ("مُحَمَّد كتـــاب", ["محمد", "كتاب"]),  # vowel signs and tatweel are dropped
        ("שָׁלוֹם", ["שלום"]),
        ("e\u0301te\u0301 \u00e9t\u00e9", ["\u00e9t\u00e9", "\u00e9t\u00e9"]),
        ("co\u00adop", ["coop"]),
        ("?! … 😀", []),
        ("", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert list(split_words(text)) == words


@given(st.text())
def test_words_are_never_empty_and_hold_no_space(text: str) -> None:
    words = list(split_words(text))
    assert all(word and word.split() == [word] for word in words)
    assert words == list(split_words(text + " ."))


def test_stemming_and_stop_words() -> None:
    assert Tokenizer("en")("The connected systems are connecting") == [
        "connect",
        "system",
        "connect",
    ]
    assert Tokenizer(None)("The systems") == ["the", "systems"]
    assert Tokenizer("zh")("检索系统") == ["检索", "索系", "系统"]
    assert Tokenizer("xx")("The systems") == ["the", "systems"]


def test_language_codes() -> None:
    codes = {"en-GB": "en", "zh-Hant": "zh", "nb": "no", "nn-NO": "no", "EN": "en", "swh": "swh",
             "eng": "en", "ger": "de", "pes-IR": "fa", "NOB": "no"}  # fmt: skip
    assert {code: checked_language(code) for code in codes} == codes
    assert set(THREE_LETTERS.values()) == {*SNOWBALL, *ANALYZERS} - {"ckb"}
    for wrong in ("english", "", "e", "en_GB", "1", "jp", "en-"):
        with pytest.raises(ConfigError, match="language"):
            checked_language(wrong)


def test_every_language_has_what_its_table_says() -> None:
    assert stemmer_name("en") == "english"
    assert stemmer_name("ja") is None and stemmer_name(None) is None
    assert stop_words("en") >= {"the", "what", "of"}
    assert stop_words("ja") == stop_words(None) == frozenset()
    assert all(stop_words(language) for language in ("en", "de", "fr", "es", "it", "ru"))
    assert set(FUNCTION_WORDS) | set(STOP_LISTS) <= set(SNOWBALL)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The archive is kept in the cellar of the town hall, and it is open to all."),
        ("de", "Das Archiv liegt im Keller des Rathauses und ist für alle offen."),
        ("es", "El archivo se guarda en el sótano de la casa y está abierto para todos."),
        ("no", "Arkivet ligger i kjelleren på rådhuset, og det er åpent for alle."),
        ("sv", "Arkivet ligger i källaren till rådhuset och det är öppet för alla som vill."),
        ("ru", "Архив находится в подвале и открыт для всех, но не по субботам."),
        ("hi", "यह संग्रह नगर भवन के तहखाने में है और सभी के लिए खुला है।"),
        ("ar", "يقع الأرشيف في قبو دار البلدية وهو مفتوح من الصباح إلى المساء."),
        (None, "档案馆位于市政厅的地下室，对所有人开放。"),
        (None, "Hifadhi iko katika ghorofa ya chini ya jengo, wazi kwa wote."),
        (None, "size = width + 10; return size"),
        (None, ""),
    ],
)
def test_the_guess(language: str | None, text: str) -> None:
    guess = guess_language([text])
    assert guess.language == language
    assert guess.share == (language is not None)


def test_a_quarter_of_the_texts_and_half_of_those_that_show_one_make_a_language() -> None:
    english, german, none = "it is in the house", "es ist auf der Straße", "Haus 1"
    assert guess_language([english, none, none, none]) == Guess("en", 0.25)
    assert guess_language([english, none, none, none, none]) == Guess(None, 0.2)
    assert guess_language([english, german, "el gato y el perro"]) == Guess(None, 1 / 3)
    assert guess_language([english * 100, german, german]) == Guess("de", 2 / 3)
    assert guess_language([none]) == Guess(None, 0.0)


def test_a_text_needs_its_share_of_function_words() -> None:
    words = int(1 / MIN_SHARE)
    assert guess_language(["the " + "x " * (words - 1)]).language == "en"
    assert guess_language(["the " + "x " * words]).language is None


def test_a_given_language_is_not_guessed() -> None:
    assert Language.known_or_guessed("en-US", Guess("de", 0.4)) == Language("en", "given")
    guessed = Language.known_or_guessed(None, Guess("de", 0.41))
    assert guessed == Language("de", "guessed, 41% of a sample")


@given(
    st.lists(st.lists(st.sampled_from("uvwxyz"), max_size=6), min_size=1, max_size=8),
    st.lists(st.sampled_from("uvwxyz?"), max_size=5),
    st.sampled_from([(1.2, 0.75), (0.9, 0.4)]),
)
def test_scores_are_those_of_a_slow_loop(documents, query, settings) -> None:
    k1, b = settings
    corpus = [Document(f"d{row}", " ".join(words)) for row, words in enumerate(documents)]
    bm25 = BM25(corpus, PLAIN, k1=k1, b=b)
    found = bm25.run([Query("q", " ".join(query))], k=100)["q"]
    words = [word for word in query if word != "?"]
    expected = slow_bm25(documents, words, k1, b) if any(documents) else [0.0] * len(documents)
    slow = {f"d{row}": score for row, score in enumerate(expected) if score > 0}
    assert found == pytest.approx(slow, rel=1e-5)
    places = [(-score, int(name[1:])) for name, score in found.items()]
    assert places == sorted(places)
    assert Counter(found) == Counter(bm25.run([Query("q", " ".join(query))], k=100)["q"])


def test_k_cuts_and_ties_go_by_place() -> None:
    corpus = [Document(name, "same words") for name in "zyx"]
    bm25 = BM25(iter(corpus), PLAIN)
    assert list(bm25.run([Query("q", "words")], k=2)["q"]) == ["z", "y"]


def test_queries_without_a_known_word() -> None:
    bm25 = BM25([Document("d", "one two")], PLAIN)
    queries = [Query("1", ""), Query("2", "three"), Query("3", "!"), Query("4", "three one")]
    assert {name: list(found) for name, found in bm25.run(queries).items()} == {
        "1": [], "2": [], "3": [], "4": ["d"]
    }  # fmt: skip


def test_title_and_text_are_searched() -> None:
    bm25 = BM25([Document("d", "text", "title"), Document("e", "", "alone")], PLAIN)
    run = bm25.run([Query(word, word) for word in ("title", "text", "alone")])
    assert [list(found) for found in run.values()] == [["d"], ["d"], ["e"]]


def test_settings_say_how_it_was_made() -> None:
    settings = BM25([Document("d", "one two")], Language("en", "given")).settings()
    assert settings["implementation"].startswith("bm25s ")
    assert (settings["k1"], settings["b"], settings["terms"]) == (1.2, 0.75, 2)
    assert (settings["language"], settings["language_origin"]) == ("en", "given")
    assert settings["stemmer"] == "english" and settings["stop_words"] > 30


def test_pairs_of_a_script_without_spaces_find_a_part_of_a_text() -> None:
    texts = ["本系统支持混合检索", "今天天气很好", "检查系统"]
    bm25 = BM25([Document(str(row), text) for row, text in enumerate(texts)], PLAIN)
    found = bm25.run([Query("q", "混合检索系统")])["q"]
    assert list(found) == ["0", "2"]
    assert len(list(itertools.chain.from_iterable(map(split_words, texts)))) == 8 + 5 + 3
