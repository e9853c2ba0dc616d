"""Training pairs: FlagEmbedding's JSONL in, passages with their queries out."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from m3search.errors import ConfigError, DataError
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
    passages: list[Passage] = []
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        passages.extend(group_by_passage(read_pairs(path)))
    return Corpus(
        source,
        tuple(str(path.relative_to(folder)) for path in files),
        tuple(passages),
        digest.hexdigest(),
    )


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of one .jsonl or .jsonl.gz file; DataError with the line of a bad one."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _parse(path, number, line)


def group_by_passage(pairs: Iterator[Pair]) -> list[Passage]:
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
    expected = '{"query": text, "pos": [text, ...], "neg": [text, ...]}'
    remedy = "Repair or remove the line."
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(
            path, number, expected=expected, found=f"no JSON ({error})", remedy=remedy
        ) from error
    problem = _problem(record)
    if problem:
        raise DataError(path, number, expected=expected, found=problem, remedy=remedy)
    return Pair(
        record["query"],
        tuple(record["pos"]),
        tuple(record.get("neg") or ()),
        record.get("title") or "",
    )


def _problem(record: Any) -> str:
    """What is wrong with a parsed line, or nothing."""
    if not isinstance(record, dict):
        return f"a {type(record).__name__}"
    if not isinstance(record.get("query"), str) or not record["query"].strip():
        return "no query text"
    for key, needed in (("pos", True), ("neg", False)):
        texts = record.get(key) or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return f"{key} is not a list of texts"
        if needed and not any(text.strip() for text in texts):
            return f"an empty {key}"
    return "" if isinstance(record.get("title") or "", str) else "a title that is not text"
