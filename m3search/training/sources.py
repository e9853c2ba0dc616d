"""The sources of a recipe in memory: passages with the questions that they answer, or texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from m3search.errors import ConfigError
from m3search.training.data import DOCUMENTS, Pair, documents_beside, read_pairs, read_texts
from m3search.training.recipe import Data, Source

_TRAINING = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json")


class Question(NamedTuple):
    """A query of a passage, and what is no answer to it."""

    text: str
    negatives: tuple[str, ...] = ()
    score: float | None = None
    """of a teacher, for the passage"""
    negative_scores: tuple[float, ...] = ()
    """of a teacher, for each negative, or none at all"""
    negative_titles: tuple[str, ...] = ()
    """of each negative, empty where it has none; or none at all"""

    def titles(self) -> dict[str, str]:
        """Negative -> its title, of those that have one."""
        pairs = zip(self.negatives, self.negative_titles, strict=False)
        return {text: title for text, title in pairs if title}


class Passage(NamedTuple):
    """A positive passage with every question that it answers; a plain text has none."""

    text: str
    title: str = ""
    questions: tuple[Question, ...] = ()

    def untitled(self) -> Passage:
        """The same without a title, also of negatives."""
        questions = (question._replace(negative_titles=()) for question in self.questions)
        return Passage(self.text, "", tuple(questions))


class Corpus(NamedTuple):
    """All passages of one source, in the order of its files."""

    source: Source
    files: tuple[str, ...]
    passages: tuple[Passage, ...]
    fingerprint: str
    """SHA-256 of the files read"""

    @property
    def name(self) -> str:
        """What it is called where several are listed: its file, or the glob of its files."""
        return self.files[0] if self.source.by_file else self.source.files

    @property
    def questions(self) -> int:
        """How many there are, over all passages."""
        return sum(len(passage.questions) for passage in self.passages)


def read_data(data: Data, *, texts: bool = False) -> list[Corpus]:
    """What all sources of a recipe stand for; texts: read the texts of every one alone."""
    folder = Path(data.folder).expanduser()
    read = (read_sources(folder, s, pairs=not (texts or s.texts)) for s in data.sources)
    return list(chain.from_iterable(read))


def read_sources(folder: Path, source: Source, *, pairs: bool = True) -> list[Corpus]:
    """What a source stands for: one for each file where it says `by_file`, else one for all."""
    if not source.by_file:
        return [read_source(folder, source, pairs=pairs)]
    files = _find(folder, source.files, documents=not pairs)
    return [_read(folder, source, [path], pairs) for path in files]


def read_source(folder: Path, source: Source, *, pairs: bool = True) -> Corpus:
    """The passages of all files of a source, with `pairs` false every text of them alone.

    ConfigError where no file matches the glob, DataError for a bad line.
    """
    return _read(folder, source, _find(folder, source.files, documents=not pairs), pairs)


def _read(folder: Path, source: Source, files: Sequence[Path], pairs: bool) -> Corpus:
    digest = hashlib.sha256()
    for path in files if not pairs else [*files, *_documents_beside(files)]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    if pairs:
        passages = group_by_passage(chain.from_iterable(map(read_pairs, files)))
    else:
        passages = _distinct(chain.from_iterable(map(read_texts, files)))
    if not source.titles:
        passages = [passage.untitled() for passage in passages]
    names = tuple(str(path.relative_to(folder)) for path in files)
    return Corpus(source, names, tuple(passages), digest.hexdigest())


def group_by_passage(pairs: Iterable[Pair]) -> list[Passage]:
    """Each distinct positive once, in order of appearance, with all its questions.

    A query that a file has twice for a passage is one question, with the negatives of both lines.
    """
    titles: dict[str, str] = {}
    found: dict[str, dict[str, list[tuple[Pair, int]]]] = {}
    for pair in pairs:
        for place, text in enumerate(pair.positives):
            titles[text] = titles.get(text) or pair.title
            found.setdefault(text, {}).setdefault(pair.query, []).append((pair, place))
    return [
        Passage(text, titles[text], tuple(_question(q, text, lines) for q, lines in asked.items()))
        for text, asked in found.items()
    ]


def _question(query: str, passage: str, lines: Sequence[tuple[Pair, int]]) -> Question:
    scored = [(pair.positive_scores, place) for pair, place in lines if pair.positive_scores]
    taught = bool(scored) and all(
        len(pair.negative_scores) == len(pair.negatives) for pair, _ in lines
    )
    negatives: dict[str, float] = {}
    titles: dict[str, str] = {}
    for pair, _ in lines:
        for text, title in zip(pair.negatives, pair.negative_titles, strict=False):
            titles[text] = titles.get(text) or title
        scores = pair.negative_scores if taught else (0.0,) * len(pair.negatives)
        negatives.update(zip(pair.negatives, scores, strict=True))
    negatives.pop(passage, None)
    return Question(
        query,
        tuple(negatives),
        scored[0][0][scored[0][1]] if taught else None,
        tuple(negatives.values()) if taught else (),
        tuple(titles.get(text, "") for text in negatives) if any(titles.values()) else (),
    )


def _distinct(texts: Iterable[tuple[str, str]]) -> list[Passage]:
    """Each text once, with the first title that it has anywhere."""
    titles: dict[str, str] = {}
    for title, text in texts:
        titles[text] = titles.get(text) or title
    return [Passage(text, title) for text, title in titles.items()]


def _find(folder: Path, pattern: str, *, documents: bool) -> list[Path]:
    """The files that match, with `documents` those that pairs refer to, too."""
    matches = sorted(folder.glob(pattern))
    files = [path for path in matches if path.is_file()]
    for place in (path for path in matches if path.is_dir()):
        files += sorted(path for path in place.iterdir() if path.name.endswith(_TRAINING))
    if not documents:
        files = [path for path in files if DOCUMENTS not in path.name]
    if files:
        return list(dict.fromkeys(files))  # a glob may match a folder and what is in it
    raise ConfigError(
        f"data.sources, files = {pattern!r}",
        expected=f"at least one file below {folder}",
        found="none",
        remedy="Check the glob, and data.folder (--set data.folder=...).",
    )


def _documents_beside(files: Sequence[Path]) -> Iterator[Path]:
    for path in files:
        beside = documents_beside(path)
        if beside is not None:
            yield beside
