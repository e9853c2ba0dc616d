"""What BM25 knows of a language: its Snowball stemmer, its stop words, and how to guess it.

The guess is a count: in which language's commonest function words a text is richest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import bm25s.stopwords
import Stemmer

from m3search.errors import ConfigError

PUNCTUATION = ".,;:!?\"'()[]«»„“”‘’…،؛؟।"

ISO_639_1 = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy
da de dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu
hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb
lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om
or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv
sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""
"""codes of two letters; those of three are too many to list"""

THREE_LETTERS = {
    "ara": "ar", "arb": "ar", "arm": "hy", "baq": "eu", "ben": "bn", "bul": "bg", "cat": "ca",
    "ces": "cs", "chi": "zh", "cmn": "zh", "cze": "cs", "dan": "da", "deu": "de", "dut": "nl",
    "ekk": "et", "ell": "el", "eng": "en", "epo": "eo", "est": "et", "eus": "eu", "fas": "fa",
    "fin": "fi", "fra": "fr", "fre": "fr", "ger": "de", "gle": "ga", "glg": "gl", "gre": "el",
    "hin": "hi", "hun": "hu", "hye": "hy", "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko",
    "lav": "lv", "lit": "lt", "lvs": "lv", "nep": "ne", "nld": "nl", "nno": "no", "nob": "no",
    "nor": "no", "npi": "ne", "per": "fa", "pes": "fa", "pol": "pl", "por": "pt", "ron": "ro",
    "rum": "ro", "rus": "ru", "sot": "st", "spa": "es", "srp": "sr", "swe": "sv", "tam": "ta",
    "tel": "te", "tha": "th", "tur": "tr", "ukr": "uk", "ydd": "yi", "yid": "yi", "zho": "zh",
}  # fmt: skip
"""the codes of ISO 639-2 and 639-3 for languages of two letters that a BM25 knows"""

MIN_SHARE = 0.06
"""share of function words in a text from which it counts as of their language"""
MIN_TEXTS = 0.25
"""share of texts that must show a language for the whole to count as in it"""

SNOWBALL = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german",
    "el": "greek", "en": "english", "eo": "esperanto", "es": "spanish", "et": "estonian",
    "eu": "basque", "fa": "persian", "fi": "finnish", "fr": "french", "ga": "irish",
    "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian", "it": "italian",
    "lt": "lithuanian", "ne": "nepali", "nl": "dutch", "no": "norwegian", "pl": "polish",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "st": "sesotho",
    "sv": "swedish", "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip

STOP_LISTS = {
    "da": "DANISH", "de": "GERMAN", "en": "EN_PLUS", "es": "SPANISH", "fr": "FRENCH",
    "it": "ITALIAN", "nl": "DUTCH", "no": "NORWEGIAN", "pt": "PORTUGUESE", "ru": "RUSSIAN",
    "sv": "SWEDISH", "tr": "TURKISH",
}  # fmt: skip

FUNCTION_WORDS = {
    "ar": "في من على إلى أن التي الذي عن مع هذا هذه كان كانت ما لا أو بعد بين وقد",
    "ca": "de la el i a que en els les per un una amb del al és és van dels més aquest",
    "cs": "a v se na je že s z do o i ve k jako za by pro byl jsou po která který",
    "da": "og i af at en den det er på til med for der et som de ikke har blev efter",
    "de": "der die und in den von zu das mit des auf für ist im dem nicht ein eine als auch",
    "el": "και το της του η την στο των με από για που είναι ο τα να στην οι τον ως",
    "en": "the of and in to a is was that for as with by on are from at this it be i you he not",
    "es": "de la que el en y a los se del las un por con una para su al es lo",
    "fa": "و در به از که این را با است آن برای یک بود شد خود تا بر های می شده",
    "fi": "ja on oli että se ei myös hän joka sekä mutta kuin ovat ole tai kun jonka sen",
    "fr": "de la le et les des en un du une que est pour dans par qui au sur il plus",
    "hi": "के में की है और से का को पर ने एक यह था कि भी हैं लिए इस तथा नहीं",
    "hu": "a az és hogy is nem egy volt meg mint csak de ez vagy el már még ki pedig",
    "id": "yang dan di dari dengan pada untuk ini dalam adalah ke itu oleh tidak sebagai juga",
    "it": "di e il la che in a per un è del una della con nel non si da le al",
    "nl": "de het een van en in is op te dat voor met zijn die aan er door ook niet als",
    "no": "og i av å en den det er på til med for som et de ikke har ble etter fra",
    "pl": "w i z na się do nie że jest to od o przez po oraz jak są dla był za",
    "pt": "de a o que e do da em um para com uma os no se na por mais as dos",
    "ro": "de și în a la cu din pe care un o este că pentru au fost mai nu sau al",
    "ru": "в и на с по не что из к для от был как это а его у за во до",
    "sv": "och i av att en den det är på till med för som ett de inte har var efter från",
    "tr": "ve bir bu ile için da de olarak olan daha en çok gibi ise sonra kadar ne o",
}


@dataclass(frozen=True)
class Guess:
    """A language and the share of the sampled texts that are in it, 0 to 1."""

    language: str | None
    """None in a mixed corpus, and in one of a language that is not in the tables"""
    share: float


def guess_language(texts: Iterable[str]) -> Guess:
    """The language of at least a quarter of the texts, and of half of those that show one.

    Short texts may hold no function word at all, so not every text shows its language.
    """
    known = {language: frozenset(words.split()) for language, words in FUNCTION_WORDS.items()}
    found = Counter(_language_of(text, known) for text in texts)
    texts_in_all = found.total()
    del found[None]
    language, count = max(found.items(), key=lambda entry: (entry[1], entry[0]), default=(None, 0))
    share = count / max(texts_in_all, 1)
    clear = share >= MIN_TEXTS and 2 * count >= found.total()
    return Guess(language if clear else None, share)


def _language_of(text: str, known: Mapping[str, frozenset[str]]) -> str | None:
    words = [word.strip(PUNCTUATION) for word in text.lower().split()]
    hits = {
        language: sum(word in function_words for word in words)
        for language, function_words in known.items()
    }
    best = max(hits, key=lambda language: (hits[language], language))
    return best if words and hits[best] / len(words) >= MIN_SHARE else None


def checked_language(code: str, where: str = "language") -> str:
    """The primary part of a language code: `en` of `en-GB` and of `eng`; `nb` and `nn` are `no`.

    ConfigError, with `where`, unless its form is that of ISO 639: two letters that stand for a
    country, such as jp, would be a language without stemmer, stop words or an analyser. Other codes
    of three letters are taken as they come.
    """
    primary = code.split("-")[0].lower()
    known = primary in ISO_639_1.split() or re.fullmatch("[a-z]{3}", primary)
    if not known or not re.fullmatch(r"\w+(-\w+)*", code):
        raise ConfigError(
            where,
            expected="a code of ISO 639 such as en, zh or pt-BR",
            found=repr(code),
            remedy="Leave it out to have it guessed.",
        )
    return ({"nb": "no", "nn": "no"} | THREE_LETTERS).get(primary, primary)


def stop_words(language: str | None) -> frozenset[str]:
    """The words that BM25 leaves out; none for a language without a list of bm25s.

    FUNCTION_WORDS is too short a list for this: with it Polish and Persian came out worse.
    """
    name = STOP_LISTS.get(language or "")
    return frozenset(getattr(bm25s.stopwords, f"STOPWORDS_{name}", ()) if name else ())


def stemmer_name(language: str | None) -> str | None:
    """The Snowball algorithm for a language, or None where there is none."""
    name = SNOWBALL.get(language or "")
    return name if name in Stemmer.algorithms() else None
