"""Files of documents, queries, judgements and runs, read as streams and written whole.

Corpus and queries are JSON lines; judgements are BEIR or TREC qrels; runs are TREC runs.
`.gz`, `.zst` and `-` (standard input) are read as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

from m3search.errors import ConfigError, DataError
from m3search.lines import (
    OnError,
    Report,
    SeenIds,
    decode_line,
    display_name,
    json_type,
    parse_object,
    read_records,
)
from m3search.records import NO_METADATA, Document, Qrels, Query, Run

ID_FIELDS = ("_id", "id", "docid")
DOCUMENT_TEXT_FIELDS = ("text", "contents")
QUERY_TEXT_FIELDS = ("text", "query")
QRELS_SCORE_NAMES = ("score", "relevance", "rel", "grade", "label")
TITLE_TEMPLATE = "{title}\n{text}"


def document_text(document: Document, template: str = TITLE_TEMPLATE) -> str:
    """What is encoded of a document; where title or text is missing, the other one alone.

    >>> document_text(Document("1", "Tea is a drink.", "Tea"))
    'Tea\\nTea is a drink.'
    """
    if not document.title:
        return document.text
    if not document.text:
        return document.title
    try:
        return template.format(title=document.title, text=document.text)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ConfigError(
            "title template",
            expected="{title} and {text} as the only fields",
            found=repr(template),
            remedy="Write a literal brace as {{ or }}.",
        ) from error


def read_corpus(
    path: str | Path, *, on_error: OnError = "stop", report: Report | None = None
) -> Iterator[Document]:
    """The documents of a JSON-lines file in its order.

    Fields: `_id`, `id` or `docid`; `text` or `contents`; `title` if there is one; all others become
    metadata. A wrong line stops the reading; with `on_error="skip"` it goes to `report` instead.
    """
    file, seen = display_name(path), SeenIds()

    def parse(number: int, line: bytes) -> Document:
        document = _document(file, number, line)
        _check_new(file, number, document.id, seen)
        return document

    return read_records(path, parse, on_error=on_error, report=report)


def read_queries(
    path: str | Path, *, on_error: OnError = "stop", report: Report | None = None
) -> Iterator[Query]:
    """The queries of a file in its order: JSON lines (`_id`, `text`) or `id<TAB>text` lines.

    The name decides (`.tsv`), else the first line. Errors as in `read_corpus`.
    """
    file, seen = display_name(path), SeenIds()
    tabs = file.endswith((".tsv", ".tsv.gz", ".tsv.zst"))
    first = True

    def parse(number: int, line: bytes) -> Query | None:
        nonlocal tabs, first
        if first:
            first = False
            tabs = tabs or (b"\t" in line and line.lstrip()[:1] not in (b"{", b"["))
            if tabs and _is_query_header(line):
                return None
        query = (_query_of_tabs if tabs else _query)(file, number, line)
        _check_new(file, number, query.id, seen)
        return query

    found = read_records(path, parse, inside="queries.jsonl", on_error=on_error, report=report)
    return (query for query in found if query is not None)


def _check_new(file: str, number: int, name: str, seen: SeenIds) -> None:
    """Only good lines come here, so that a line that was left out blocks no later one."""
    if first := seen.add(name, number):
        raise DataError(
            file,
            number,
            expected="an id of its own",
            found=f"{name!r}, which line {first} has",
            remedy="Give the line another id, or drop one of the two.",
        )


def _document(file: str, number: int, line: bytes) -> Document:
    fields = parse_object(file, number, line)
    name = _pop_id(file, number, fields)
    text = _pop_text(file, number, fields, DOCUMENT_TEXT_FIELDS)
    title = fields.pop("title", None)
    if title is None:
        title = ""
    if not isinstance(title, str):
        raise _wrong_field(file, number, '"title" to be a string', json_type(title))
    return Document(name, text, title, MappingProxyType(fields) if fields else NO_METADATA)


def _query(file: str, number: int, line: bytes) -> Query:
    fields = parse_object(file, number, line)
    name = _pop_id(file, number, fields)
    return Query(name, _pop_text(file, number, fields, QUERY_TEXT_FIELDS))


def _query_of_tabs(file: str, number: int, line: bytes) -> Query:
    name, tab, text = decode_line(file, number, line).rstrip("\r\n").partition("\t")
    if not tab or not name:
        raise _wrong_field(file, number, "id<TAB>text", repr(line[:40].decode(errors="replace")))
    return Query(name, text)


def _is_query_header(line: bytes) -> bool:
    names = line.decode("utf-8", errors="replace").strip().lower().split("\t")
    return names[0] in (*ID_FIELDS, "qid", "query-id", "query_id") and names[1:] in (
        ["text"],
        ["query"],
    )


def _pop_id(file: str, number: int, fields: dict[str, Any]) -> str:
    name = next((name for name in ID_FIELDS if fields.get(name) is not None), None)
    if name is None:
        raise _wrong_field(file, number, 'an id in "_id", "id" or "docid"', "none")
    value = fields.pop(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        found = "an empty string" if value == "" else json_type(value)
        raise _wrong_field(file, number, f'"{name}" to be a string or a number', found)
    return value


def _pop_text(file: str, number: int, fields: dict[str, Any], names: tuple[str, ...]) -> str:
    name = next((name for name in names if fields.get(name) is not None), None)
    if name is None:
        wanted = " or ".join(f'"{name}"' for name in names)
        found = f"only {', '.join(fields)}" if fields else "no such field"
        raise _wrong_field(file, number, f"text in {wanted}", found)
    value = fields.pop(name)
    if not isinstance(value, str):
        raise _wrong_field(file, number, f'"{name}" to be a string', json_type(value))
    return value


def _wrong_field(file: str, number: int, expected: str, found: str) -> DataError:
    return DataError(file, number, expected=expected, found=found, remedy="Correct the line.")


def read_qrels(path: str | Path) -> Qrels:
    """Grades by query and document, in the order of the file.

    BEIR: `query-id<TAB>corpus-id<TAB>score`, with or without that header. TREC: `query 0 document
    grade`. The first line decides which; a grade is an integer.
    """
    file = display_name(path)
    qrels: Qrels = {}
    width = 0

    def parse(number: int, line: bytes) -> None:
        nonlocal width
        fields = _judgement_fields(decode_line(file, number, line))
        if width == 0:
            width = 4 if len(fields) == 4 else 3
            if len(fields) == 3 and fields[2].lower() in QRELS_SCORE_NAMES:
                return
        if len(fields) != width:
            wanted = "query<TAB>document<TAB>grade" if width == 3 else "query 0 document grade"
            raise _wrong_field(file, number, wanted, f"{len(fields)} columns")
        query, document = fields[0], fields[-2]
        judged = qrels.setdefault(query, {})
        if document in judged:
            raise _repeated(file, number, document, query)
        judged[document] = _integer(file, number, "the grade", fields[-1])

    for _ in read_records(path, parse, inside="qrels/test.tsv"):
        pass
    if not qrels:
        remedy = "Check how the file was made."
        raise DataError(file, expected="judgements", found="only a header", remedy=remedy)
    return qrels


def _judgement_fields(line: str) -> list[str]:
    by_tab = line.strip().split("\t")
    return by_tab if len(by_tab) == 3 else line.split()


def _repeated(file: str, number: int, document: str, query: str) -> DataError:
    found = f"{document!r} a second time for query {query!r}"
    return _wrong_field(file, number, "each document once for a query", found)


def _integer(file: str, number: int, what: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise _wrong_field(file, number, f"{what} to be an integer", repr(text)) from error


def read_run(path: str | Path) -> Run:
    """Scores by query and document of a TREC run (query Q0 document rank score tag).

    The documents of a query come best first: score descending, then rank in the file, then id.
    """
    file = display_name(path)
    places: dict[str, dict[str, tuple[float, int, str]]] = {}

    def parse(number: int, line: bytes) -> None:
        fields = decode_line(file, number, line).split()
        if len(fields) != 6:
            wanted = "the six columns query Q0 document rank score tag"
            raise _wrong_field(file, number, wanted, str(len(fields)))
        query, _, document, rank, score, _ = fields
        found = places.setdefault(query, {})
        if document in found:
            raise _repeated(file, number, document, query)
        place = _integer(file, number, "the rank", rank)
        found[document] = (-_finite_score(file, number, score), place, document)

    for _ in read_records(path, parse, inside="run.trec"):
        pass
    return {
        query: {document: -score for score, _, document in sorted(found.values())}
        for query, found in places.items()
    }


def _finite_score(file: str, number: int, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise _wrong_field(file, number, "the score to be a finite number", repr(text))
    return score


def write_run(path: str | Path, run: Run, tag: str = "m3search") -> None:
    """Writes a TREC run; ranks count from 1 by score descending, ties in the order given.

    The file appears whole or not at all. An id with white space has no place in this format.
    """
    target = Path(path)
    _check_word(target, "the tag", tag)
    unfinished = target.with_name(target.name + ".part")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            for query, scored in run.items():
                file.writelines(_run_lines(target, query, scored, tag))
        unfinished.replace(target)
    except OSError as error:
        raise DataError(
            target,
            expected="a place to write to",
            found=error.strerror or str(error),
            remedy="Check the folder, its permissions and the free space.",
        ) from error
    finally:
        if unfinished.exists():
            unfinished.unlink()


def _run_lines(path: Path, query: str, scored: dict[str, float], tag: str) -> Iterator[str]:
    _check_word(path, "a query id", query)
    for document, score in scored.items():
        _check_word(path, "a document id", document)
        if not math.isfinite(score):
            found = f"{score} for {document!r} of query {query!r}"
            remedy = "Leave the document out of the run."
            raise DataError(path, expected="finite scores", found=found, remedy=remedy)
    best_first = sorted(scored.items(), key=lambda entry: -entry[1])
    for rank, (document, score) in enumerate(best_first, start=1):
        yield f"{query} Q0 {document} {rank} {float(score)!r} {tag}\n"


def _check_word(path: Path, what: str, word: str) -> None:
    if word.split() != [word]:
        raise DataError(
            path,
            expected=f"{what} without white space, which parts the columns of a TREC run",
            found=repr(word),
            remedy="Give ids without white space, or use the JSON output.",
        )
