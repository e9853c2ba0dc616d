"""A set's folder, checked: what is judged exists, what is searched is judged."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from m3search.corpus import document_text, read_answers, read_corpus, read_qrels, read_queries
from m3search.errors import ConfigError, DataError
from m3search.evaluation.answers import judge_answers
from m3search.evaluation.languages import Guess, guess_language
from m3search.evaluation.layouts import SetFiles, find_set_files
from m3search.evaluation.measures import ANSWER_RECALL, reads_answers
from m3search.evaluation.suite import EvaluationSet
from m3search.records import Answers, Document, Qrels, Query, Run
from m3search.stores.files import checksum

SAMPLE, SAMPLE_CHARACTERS, SHOWN = 1000, 2000, 3


@dataclass(frozen=True)
class Collection:
    """The queries and judgements of a set in memory; the corpus stays on disk."""

    corpus: Path
    documents: int
    queries: tuple[Query, ...]
    """those with judgements, in the order of their file"""
    qrels: Qrels
    """empty for each query of a set that has answers in place of judgements"""
    unjudged: int
    """queries without a judgement, which are left out"""
    unknown: int
    """judgements of documents that are not in the corpus, where the set keeps them"""
    guess: Guess
    """the language of a sample of the corpus"""
    answers: Answers = field(default_factory=dict)
    """strings that answer the queries, where the set has these in place of judgements"""

    def judge(self, found: Iterable[Mapping[str, Iterable[str]]]) -> Qrels:
        """The judgements; of a set with answers, of the documents found: query id -> ids."""
        return judge_answers(self.read(), self.answers, found) if self.answers else self.qrels

    def read(self) -> Iterator[Document]:
        """The documents, streamed from the corpus file."""
        return read_corpus(self.corpus)

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of the corpus file, and of the queries and judgements as they were read."""
        asked = [[query.id, query.text] for query in self.queries]
        return {
            "corpus": checksum(self.corpus),
            "queries": sha256(json.dumps(asked).encode()).hexdigest(),
            "judgements": fingerprint_of_judgements(self.answers or self.qrels),
        }

    def counts(self) -> dict[str, Any]:
        """Sizes for a report, JSON-ready."""
        of_answers = [[1] * len(strings) for strings in self.answers.values()]
        grades = of_answers or [[*judged.values()] for judged in self.qrels.values()]
        return {
            "documents": self.documents,
            "queries": len(self.queries),
            "queries_without_judgement": self.unjudged,
            "queries_without_relevant": sum(max(of_query, default=0) <= 0 for of_query in grades),
            "judgements": sum(map(len, grades)),
            "judgements_of_unknown_documents": self.unknown,
        }


def fingerprint_of_judgements(judged: Qrels | Answers) -> str:
    """SHA-256 of judgements, or of answers, in whatever order they were read."""
    plain = {
        query: given if isinstance(given, dict) else list(given) for query, given in judged.items()
    }
    return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def load_collection(wanted: EvaluationSet) -> Collection:
    """The set's files read and checked against each other."""
    files = check_set(wanted)
    corpus_path, queries_path, qrels_path = files.corpus, files.queries, files.judgements
    answers = read_answers(qrels_path) if files.has_answers else {}
    qrels = {query: {} for query in answers} if files.has_answers else read_qrels(qrels_path)
    asked = list(read_queries(queries_path))
    queries = tuple(query for query in asked if query.id in qrels)
    _check_ids(queries_path, queries)
    lost = qrels.keys() - {query.id for query in queries}
    if lost:
        raise DataError(
            qrels_path,
            expected=f"queries that are in {queries_path.name}",
            found=f"{len(lost)} that it lacks: {_some(lost)}",
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
            found=f"{len(judged)} that it lacks: {_some(judged)}",
            remedy="Check that the files belong together, or count these as never found: "
            "--set unknown_documents=keep (of a recipe: development.unknown_documents).",
        )
    unknown = sum(name in judged for by_document in qrels.values() for name in by_document)
    guess = guess_language(sample.texts)
    unjudged = len(asked) - len(queries)
    return Collection(corpus_path, sample.seen, queries, qrels, unjudged, unknown, guess, answers)


def _check_ids(path: Path, queries: Iterable[Query]) -> None:
    """DataError for an id that no line of a report could hold."""
    for query in queries:
        if not query.id.isprintable() and re.search(r"[\t\r\n]", query.id):
            raise DataError(
                path,
                expected="ids of queries without tabs and ends of lines",
                found=repr(query.id),
                remedy="Give it another id, in the judgements, too.",
            )


def check_set(wanted: EvaluationSet) -> SetFiles:
    """The files of a set, which are there; ConfigError where its measures need others."""
    files = find_set_files(wanted)
    for name in wanted.measures:
        if reads_answers(name) != files.has_answers:
            other = f"{ANSWER_RECALL}@100" if files.has_answers else "nDCG@10"
            what = "answers" if files.has_answers else "judgements"
            raise ConfigError(
                f"measures of the set {wanted.name}",
                expected=f"measures of {what}, which are in {files.judgements.name}",
                found=name,
                remedy=f"For example --measures {other}.",
            )
    return files


def check_run(
    path: Path, run: Run, name: str, qrels: Qrels, read: Callable[[], Iterable[Document]]
) -> None:
    """DataError where a file's run has none of a set's queries, or none of the documents read.

    An empty one has found nothing, as a BM25 does for questions in another script.
    """
    if run and not run.keys() & qrels.keys():
        raise DataError(
            path,
            expected=f"queries of the set {name}",
            found="none of them",
            remedy="Give the run of this set; in run_files of a suite {set} is the set's name.",
        )
    named = {document for found in run.values() for document in found}
    judged = {document for grades in qrels.values() for document in grades}
    if named and named.isdisjoint(judged) and not any(each.id in named for each in read()):
        raise DataError(
            path,
            expected=f"documents of the set {name}",
            found=f"none of them, but {min(named)!r} and others",
            remedy="Give the run of this set, with the ids of its corpus.",
        )


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
