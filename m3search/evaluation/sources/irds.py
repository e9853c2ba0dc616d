"""Data sets of ir_datasets, by their ids."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from m3search.corpus.trec import Judgement
from m3search.errors import ConfigError
from m3search.evaluation.sources.source import Contents, Source, raise_lacking
from m3search.records import Document, Query

PARTS = ("docs", "queries", "qrels")


def find_irds(name: str) -> Source:
    """The data set with the id that follows `ir:`; ConfigError where there is none, or none with
    documents, queries and judgements."""
    try:
        import ir_datasets
    except ImportError as error:
        raise_lacking(name, "ir_datasets", error)
    identifier = name.removeprefix("ir:")
    try:
        found = ir_datasets.load(identifier)
    except KeyError as error:
        near = difflib.get_close_matches(identifier, [str(each) for each in ir_datasets.registry])
        also = f"Did you mean {' or '.join(f'ir:{each}' for each in near)}?"
        raise ConfigError(
            name,
            expected="an id of ir_datasets",
            found="none of that name",
            remedy=also if near else "They are listed at https://ir-datasets.com.",
        ) from error
    lacking = [part for part in PARTS if not getattr(found, f"has_{part}")()]
    if lacking:
        raise ConfigError(
            name,
            expected="documents, queries and judgements",
            found=f"no {' and no '.join(lacking)}",
            remedy="Name a part of it: they are listed at https://ir-datasets.com.",
        )
    return Source(name, f"ir_datasets, {identifier}", lambda: _contents(found))


def _contents(data: Any) -> Contents:
    return Contents(
        (_document(each) for each in data.docs_iter()),
        (Query(each.query_id, each.default_text()) for each in data.queries_iter()),
        _judgements(data),
    )


def _document(found: Any) -> Document:
    """With its title apart where it has one; else all that ir_datasets takes for its text."""
    fields = found._asdict()
    if isinstance(fields.get("title"), str) and isinstance(fields.get("text"), str):
        return Document(found.doc_id, found.text, found.title)
    return Document(found.doc_id, found.default_text())


def _judgements(data: Any) -> Iterator[Judgement]:
    """The highest grade of a document for a query: some data sets judge one several times."""
    grades: dict[tuple[str, str], int] = {}
    for each in data.qrels_iter():
        key, grade = (each.query_id, each.doc_id), int(each.relevance)
        grades[key] = max(grade, grades.get(key, grade))
    for (query, document), grade in grades.items():
        yield Judgement(query, document, grade)
