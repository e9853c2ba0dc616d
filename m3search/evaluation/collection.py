"""A set's folder, checked: what is judged exists, what is searched is judged."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3search.corpus import document_text, read_corpus, read_qrels, read_queries
from m3search.errors import DataError
from m3search.evaluation.languages import Guess, guess_language
from m3search.evaluation.layouts import find_set_files
from m3search.evaluation.suite import EvaluationSet
from m3search.records import Document, Qrels, Query

SAMPLE, SAMPLE_CHARACTERS, SHOWN = 1000, 2000, 3


@dataclass(frozen=True)
class Collection:
    """The queries and judgements of a set in memory; the corpus stays on disk."""

    corpus: Path
    documents: int
    queries: tuple[Query, ...]
    """those with judgements, in the order of their file"""
    qrels: Qrels
    unjudged: int
    """queries without a judgement, which are left out"""
    unknown: int
    """judgements of documents that are not in the corpus, where the set keeps them"""
    guess: Guess
    """the language of a sample of the corpus"""

    def read(self) -> Iterator[Document]:
        """The documents, streamed from the corpus file."""
        return read_corpus(self.corpus)

    def counts(self) -> dict[str, Any]:
        """Sizes for a report, JSON-ready."""
        grades = [judged.values() for judged in self.qrels.values()]
        return {
            "documents": self.documents,
            "queries": len(self.queries),
            "queries_without_judgement": self.unjudged,
            "queries_without_relevant": sum(max(of_query) <= 0 for of_query in grades),
            "judgements": sum(map(len, grades)),
            "judgements_of_unknown_documents": self.unknown,
        }


def load_collection(wanted: EvaluationSet) -> Collection:
    """The set's files read and checked against each other."""
    files = find_set_files(wanted)
    corpus_path, queries_path, qrels_path = files.corpus, files.queries, files.qrels
    qrels = read_qrels(qrels_path)
    asked = list(read_queries(queries_path))
    queries = tuple(query for query in asked if query.id in qrels)
    lost = qrels.keys() - {query.id for query in queries}
    if lost:
        raise DataError(
            qrels_path,
            expected=f"queries that are in {queries_path.name}",
            found=f"{len(lost)} others: {_some(lost)}",
            remedy="Add the queries, or take their judgements out.",
        )
    judged = {document for by_document in qrels.values() for document in by_document}
    sample = Sample()
    for document in read_corpus(corpus_path):
        judged.discard(document.id)
        sample.add(document_text(document)[:SAMPLE_CHARACTERS])
    if judged and wanted.unknown_documents == "error":
        raise DataError(
            qrels_path,
            expected=f"documents that are in {corpus_path.name}",
            found=f"{len(judged)} others: {_some(judged)}",
            remedy="Check that the files belong together, or count these as never found: "
            "--set unknown_documents=keep (of a recipe: development.unknown_documents).",
        )
    unknown = sum(name in judged for by_document in qrels.values() for name in by_document)
    guess = guess_language(sample.texts)
    unjudged = len(asked) - len(queries)
    return Collection(corpus_path, sample.seen, queries, qrels, unjudged, unknown, guess)


class Sample:
    """A uniform sample of a stream, the same every time (reservoir sampling)."""

    def __init__(self, size: int = SAMPLE) -> None:
        self.texts: list[str] = []
        self.seen = 0
        self._size = size
        self._random = random.Random(0)

    def add(self, text: str) -> None:
        """Takes the text in, or not, so that every one has the same chance."""
        self.seen += 1
        if len(self.texts) < self._size:
            self.texts.append(text)
            return
        place = self._random.randrange(self.seen)
        if place < self._size:
            self.texts[place] = text


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(map(repr, ordered[:SHOWN])) + (", ..." if len(ordered) > SHOWN else "")
