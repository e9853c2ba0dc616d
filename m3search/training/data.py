"""Training files in: FlagEmbedding's JSONL, pairs that name a document, plain texts, and columns.

A line of pairs has `query` and `pos`, and may have `neg`, `pos_scores`, `neg_scores` (a teacher's),
`title`, `neg_titles` (one for each of `neg`), `prompt` and `type`. In place of `pos`, never beside
it, it may have `pos_id` (one id or a list of them): the document of that id in the file beside it,
`NAME.docs.jsonl` for `NAME.jsonl`. A line of texts has `text`, and may have `title`. A file whose
name ends in `.tsv`, compressed or not, has two columns, a query and its passage.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from m3search.corpus import read_corpus
from m3search.errors import DataError
from m3search.lines import (
    COMPRESSED_SUFFIXES,
    decode_line,
    find_file,
    json_type,
    parse_object,
    read_records,
)
from m3search.records import Document

TYPES = ("normal", "symmetric_class", "symmetric_clustering", "symmetric_sts", "only_1neg")
"""what `type` may say; one whose two sides are alike has its prompt before both"""
_BOTH_PROMPTED = ("symmetric_clustering", "symmetric_sts")
DOCUMENTS = ".docs.jsonl"
_ALONE = "a text alone, which only stage retromae reads, and others from sources with texts = true"
Documents = Mapping[str, Document]


class Pair(NamedTuple):
    """One line of pairs."""

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    title: str = ""
    """title of the positives, empty where the file has none"""
    positive_scores: tuple[float, ...] = ()
    """of a teacher, one for each positive, or none at all"""
    negative_scores: tuple[float, ...] = ()
    """of a teacher, one for each negative, or none at all"""
    negative_titles: tuple[str, ...] = ()
    """of each negative, empty where it has none; or none at all"""


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of one file, plain, .gz or .zst; DataError with the line of a bad one."""
    if _has_columns(path):
        return read_records(path, partial(_parse_columns, path), inside="pairs.tsv")
    documents = _read_documents(path)
    return read_records(path, partial(_parse_pair, path, documents), inside="pairs.jsonl")


def read_texts(path: Path) -> Iterator[tuple[str, str]]:
    """(title, text) of all texts of one file, of texts or of pairs, each pair's query included."""
    if _has_columns(path):
        for pair in read_pairs(path):
            yield from (("", text) for text in (pair.query, *pair.positives))
        return
    for texts in read_records(path, partial(_parse_texts, path), inside="texts.jsonl"):
        yield from texts


def documents_beside(path: Path) -> Path | None:
    """The file of the documents that the pairs of a file may name, if there is one."""
    return find_file(path.parent, path.name.split(".jsonl")[0] + DOCUMENTS)


def _has_columns(path: Path) -> bool:
    return any(path.name.endswith(".tsv" + suffix) for suffix in COMPRESSED_SUFFIXES)


def _parse_columns(path: Path, number: int, line: bytes) -> Pair:
    columns = [text.strip() for text in decode_line(str(path), number, line).split("\t")]
    if len(columns) != 2 or not all(columns):
        empty = columns.count("")
        raise DataError(
            path,
            number,
            expected="two columns with a tab between them, a query and its passage",
            found=f"{len(columns)} columns, {empty} of them empty",
            remedy="Repair or remove the line.",
        )
    query, passage = columns
    return Pair(query, (passage,))


def _read_documents(path: Path) -> Documents:
    beside = documents_beside(path)
    return {} if beside is None else {document.id: document for document in read_corpus(beside)}


def _parse_pair(path: Path, documents: Documents, number: int, line: bytes) -> Pair:
    record = parse_object(str(path), number, line)
    title = record.get("title") or ""
    problem = _problem_of_both(record)
    if "pos" not in record and "pos_id" in record:
        found = [_referred(path, documents, number, name) for name in _ids_of(record)]
        record = record | {"pos": [document.text for document in found]}
        title = title or (found[0].title if found else "")
    problem = problem or _problem(record)
    if problem:
        raise DataError(
            path,
            number,
            expected='{"query": text, "pos": [text, ...], "neg": [text, ...]}',
            found=problem,
            remedy="Repair or remove the line.",
        )
    kind, prompt = record.get("type") or "normal", record.get("prompt") or ""
    before = prompt if kind in _BOTH_PROMPTED else ""
    negatives = 1 if kind == "only_1neg" else None
    return Pair(
        prompt + record["query"],
        tuple(before + text for text in record["pos"]),
        tuple(before + text for text in (record.get("neg") or ())[:negatives]),
        title,
        tuple(map(float, record.get("pos_scores") or ())),
        tuple(map(float, (record.get("neg_scores") or ())[:negatives])),
        tuple((record.get("neg_titles") or ())[:negatives]),
    )


def _ids_of(record: Mapping[str, Any]) -> list[Any]:
    names = record["pos_id"]
    return names if isinstance(names, list) else [names]


def _referred(path: Path, documents: Documents, number: int, name: Any) -> Document:
    key = str(name) if type(name) in (int, float) else name  # as the reader of documents does
    if isinstance(key, str) and key in documents:
        return documents[key]
    where = f"{path.name.split('.jsonl')[0]}{DOCUMENTS}"
    raise DataError(
        path,
        number,
        expected=f"a pos_id that a document in {where} has",
        found=repr(name) if documents else f"{name!r}, and no such file",
        remedy="Put the file of the documents beside this one, or repair the line.",
    )


def _problem(record: Mapping[str, Any]) -> str:
    """What is wrong with a parsed line of pairs, or nothing."""
    kind = record.get("type")
    if problem := _problem_of_query(record):
        return problem
    if problem := _problem_of_list(record, "pos") or _problem_of_list(record, "neg"):
        return problem
    if not record.get("pos"):
        return "an empty pos" if "pos" in record else "no pos"
    for key in ("title", "prompt"):
        if record.get(key) is not None and not isinstance(record[key], str):
            return f"a {key} that is {json_type(record[key])}"
    if kind is not None and kind not in TYPES:
        return f"type {kind!r}, not one of {', '.join(TYPES)}"
    return ""


def _problem_of_both(record: Mapping[str, Any]) -> str:
    """Of a line whose positives are told twice, so that one of them would not be read."""
    twice = "pos" in record and record.get("pos_id") is not None
    return "pos and pos_id, which stands in place of pos" if twice else ""


def _problem_of_query(record: Mapping[str, Any]) -> str:
    query = record.get("query")
    if query is None:
        return _ALONE if isinstance(record.get("text"), str) else "no query"
    if not isinstance(query, str):
        return f"{json_type(query)} as query"
    return "" if query.strip() else "an empty query"


def _problem_of_list(record: Mapping[str, Any], key: str) -> str:
    """Of the texts in `pos` or `neg`, and of what belongs to them."""
    texts = record.get(key) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return f"{key} that is not a list of texts"
    if not all(text.strip() for text in texts):
        return f"an empty text in {key}"
    problem = _problem_of_scores(record, key, len(texts))
    return problem or (_problem_of_titles(record, len(texts)) if key == "neg" else "")


def _problem_of_scores(record: Mapping[str, Any], key: str, count: int) -> str:
    scores = record.get(f"{key}_scores") or []
    if not isinstance(scores, list) or any(type(score) not in (int, float) for score in scores):
        return f"{key}_scores that is not a list of numbers"
    if scores and len(scores) != count:
        return f"{len(scores)} {key}_scores for {count} texts in {key}"
    if not all(map(math.isfinite, scores)):
        return f"{key}_scores that are not all finite"
    return ""


def _problem_of_titles(record: Mapping[str, Any], count: int) -> str:
    titles = record.get("neg_titles") or []
    if not isinstance(titles, list) or not all(isinstance(title, str) for title in titles):
        return "neg_titles that is not a list of texts"
    if titles and len(titles) != count:
        return f"{len(titles)} neg_titles for {count} texts in neg"
    return ""


def _parse_texts(path: Path, number: int, line: bytes) -> list[tuple[str, str]]:
    record = parse_object(str(path), number, line)
    problem = _problem_of_texts(record)
    if problem:
        raise DataError(
            path,
            number,
            expected='{"text": text} or {"query": text, "pos": [text, ...]}',
            found=problem,
            remedy="Repair or remove the line.",
        )
    title = record.get("title") or ""
    if record.get("text") is not None:
        return [(title, record["text"])]
    # documents that are named are in a file of their own
    positives, negatives = record.get("pos") or (), record.get("neg") or ()
    titles = record.get("neg_titles") or [""] * len(negatives)
    return [
        ("", record["query"]),
        *((title, text) for text in positives),
        *zip(titles, negatives, strict=True),
    ]


def _problem_of_texts(record: Mapping[str, Any]) -> str:
    """What is wrong with a parsed line of texts or pairs, or nothing."""
    text, title = record.get("text"), record.get("title")
    if text is None and "query" in record:
        problem = _problem_of_both(record)
        if "pos_id" in record and "pos" not in record:
            record = {**record, "pos": ["a document"] * len(_ids_of(record))}
        return problem or _problem(record)
    if not isinstance(text, str):
        return f"{json_type(text)} as text"
    if title is not None and not isinstance(title, str):
        return f"a title that is {json_type(title)}"
    return "" if text.strip() else "an empty text"
