"""The texts of a folder of training files by their languages, each text once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tooling import Line, read_lines, showing, texts_of, wrong_line

from m3search.errors import DataError
from m3search.lines import json_type

LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
FIRST, SECOND = ("query", "text"), ("title", "pos", "neg", "neg_titles")
"""fields in the language of the query, and in that of the passages"""
_SUBTAG = re.compile(r"[A-Z][a-z]{3}|[A-Z]{2}|[0-9]{3}")


class Text(NamedTuple):
    """A text and the language that its file or line names."""

    language: str
    text: str


class Pair(NamedTuple):
    """A text of a language with the English text that says the same."""

    language: str
    text: str
    english: str


def languages_of(tag: str) -> tuple[str, str]:
    """The languages of query and passages that a tag names.

    >>> languages_of("de"), languages_of("zh-Hant-en")
    (('de', 'de'), ('zh-Hant', 'en'))
    """
    names: list[str] = []
    for part in tag.split("-"):
        if names and _SUBTAG.fullmatch(part):
            names[-1] += f"-{part}"
        else:
            names.append(part)
    if len(names) > 2 or not all(names):
        raise ValueError(tag)
    return names[0], names[-1]


def training_files(folder: Path) -> list[Path]:
    """The files of JSON lines in a folder, by name."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing at this path"
        raise DataError(
            folder, expected="a folder", found=found, remedy="Give the folder of files."
        )
    files = sorted(path for path in folder.iterdir() if path.name.endswith(LINES))
    if not files:
        raise DataError(
            folder,
            expected="training files (.jsonl, .jsonl.gz, .jsonl.zst)",
            found="none",
            remedy="Give the folder that holds the files.",
        )
    return files


def read_texts(folder: Path) -> Iterator[Text]:
    """The texts of all files in order, one that a language has twice only the first time."""
    seen: set[int] = set()
    for path in showing(training_files(folder), "files", "texts"):
        for line in read_lines(path):
            first, second = line_languages(path, line)
            for language, names in ((first, FIRST), (second, SECOND)):
                for _, text in texts_of(path, line, names):
                    key = hash((language, text))
                    if text.strip() and key not in seen:
                        seen.add(key)
                        yield Text(language, text)


def read_parallel(files: Iterable[Path]) -> Iterator[Pair]:
    """The pairs of files whose queries are in other languages and say what their passages say."""
    for path in showing(files, "files", "pairs"):
        for line in read_lines(path):
            first, second = line_languages(path, line)
            if second == "en" and first != "en":
                texts = [text for _, text in texts_of(path, line, ("query", "pos"))]
                if len(texts) == 2:
                    yield Pair(first, texts[0], texts[1])


def line_languages(path: Path, line: Line) -> tuple[str, str]:
    """The languages of a line's query and passages, by its field or the name of its file."""
    tag = line.fields.get("lang")
    if tag is None:
        parts = path.name.split(".jsonl")[0].removesuffix(".docs").split(".")
        tag = parts[-1] if len(parts) > 1 else None
    if not isinstance(tag, str):
        found = "neither" if tag is None else json_type(tag)
        raise wrong_line(path, line, 'a language in "lang" or as in NAME.de.jsonl', found)
    try:
        return languages_of(tag)
    except ValueError:
        raise wrong_line(path, line, "a language, or two as in sw-en", repr(tag)) from None
