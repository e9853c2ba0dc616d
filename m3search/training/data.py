"""Training pairs: FlagEmbedding's JSONL in, passages with their queries out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from m3search.errors import ConfigError, DataError
from m3search.lines import json_type, parse_object, read_records
from m3search.training.recipe import Source


class Pair(NamedTuple):
    """One line of a training file."""

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    title: str
    """title of the positives, empty where the file has none"""


class Passage(NamedTuple):
    """A positive passage with every query that it answers."""

    text: str
    title: str
    queries: tuple[str, ...]
    negatives: tuple[str, ...]


class Corpus(NamedTuple):
    """All passages of one source, in the order of its files."""

    source: Source
    files: tuple[str, ...]
    passages: tuple[Passage, ...]
    fingerprint: str
    """SHA-256 of the files read"""


def read_source(folder: Path, source: Source) -> Corpus:
    """The passages of all files that match the glob; ConfigError where none does."""
    files = sorted(path for path in folder.glob(source.files) if path.is_file())
    if not files:
        raise ConfigError(
            f"data.sources, files = {source.files!r}",
            expected=f"at least one file below {folder}",
            found="none",
            remedy="Check the glob, and data.folder (--set data.folder=...).",
        )
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    passages = group_by_passage(chain.from_iterable(map(read_pairs, files)))
    return Corpus(
        source,
        tuple(str(path.relative_to(folder)) for path in files),
        tuple(passages),
        digest.hexdigest(),
    )


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of one file, plain, .gz or .zst; DataError with the line of a bad one."""
    return read_records(path, partial(_parse, path), inside="pairs.jsonl")


def group_by_passage(pairs: Iterable[Pair]) -> list[Passage]:
    """Each distinct positive once, in order of appearance, with all its queries and negatives."""
    found: dict[str, tuple[str, dict[str, None], dict[str, None]]] = {}
    for pair in pairs:
        for text in pair.positives:
            _, queries, negatives = found.setdefault(text, (pair.title, {}, {}))
            queries[pair.query] = None
            negatives.update(dict.fromkeys(pair.negatives))
    return [
        Passage(text, title, tuple(queries), tuple(n for n in negatives if n != text))
        for text, (title, queries, negatives) in found.items()
    ]


def _parse(path: Path, number: int, line: bytes) -> Pair:
    record = parse_object(str(path), number, line)
    problem = _problem(record)
    if problem:
        raise DataError(
            path,
            number,
            expected='{"query": text, "pos": [text, ...], "neg": [text, ...]}',
            found=problem,
            remedy="Repair or remove the line.",
        )
    return Pair(
        record["query"],
        tuple(record["pos"]),
        tuple(record.get("neg") or ()),
        record.get("title") or "",
    )


def _problem(record: dict[str, Any]) -> str:
    """What is wrong with a parsed line, or nothing."""
    query, title = record.get("query"), record.get("title")
    if not isinstance(query, str) or not query.strip():
        return "no query text"
    for key in ("pos", "neg"):
        texts = record.get(key) or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return f"{key} that is not a list of texts"
        if not all(text.strip() for text in texts):
            return f"an empty text in {key}"
    if not record.get("pos"):
        return "an empty pos"
    if title is not None and not isinstance(title, str):
        return f"a title that is {json_type(title)}"
    return ""
