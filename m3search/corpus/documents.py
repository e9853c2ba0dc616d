"""Documents and queries: JSON lines; for queries also `id<TAB>text` lines and TREC's topics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from m3search.corpus.seen_ids import SeenIds
from m3search.corpus.topics import Topics
from m3search.errors import ConfigError, DataError
from m3search.lines import (
    OnError,
    Report,
    decode_line,
    display_name,
    json_type,
    parse_object,
    read_records,
    wrong_field,
)
from m3search.records import NO_METADATA, Document, Query

ID_FIELDS = ("_id", "id", "docid")
DOCUMENT_TEXT_FIELDS = ("text", "contents")
QUERY_TEXT_FIELDS = ("text", "query")
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


def check_template(template: str, where: str = "title_template") -> str:
    """The template, if `document_text` can use it; `where` names the setting in an error."""
    if "{text}" not in template:
        raise ConfigError(
            where,
            expected="{text} somewhere in it",
            found=repr(template),
            remedy="For example: '{title} {text}'.",
        )
    document_text(Document("", "text", "title"), template)
    return template


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
    """The queries of a file in its order: JSON lines (`_id`, `text`), `id<TAB>text` lines, or
    TREC's topics (`<top>`, of which the title is the query).

    The name decides (`.tsv`), else the first line. Errors as in `read_corpus`.
    """
    file, seen = display_name(path), SeenIds()
    read: Callable[[str, int, bytes], Query | None] | None = None

    def parse(number: int, line: bytes) -> Query | None:
        nonlocal read
        if read is None:
            read = _query_reader(file, line)
            if read is _query_of_tabs and _is_query_header(line):
                return None
        query = read(file, number, line)
        if query is not None:
            _check_new(file, number, query.id, seen)
        return query

    found = read_records(path, parse, inside="queries.jsonl", on_error=on_error, report=report)
    return _queries(found, file, lambda: read)


def _query_reader(file: str, first: bytes) -> Callable[[str, int, bytes], Query | None]:
    """What reads the lines of a file of queries, one after the other; `first` is its first one."""
    start = first.lstrip()[:1]
    if start == b"<":
        return Topics()
    tabs = file.endswith((".tsv", ".tsv.gz", ".tsv.zst"))
    return _query_of_tabs if tabs or (b"\t" in first and start not in (b"{", b"[")) else _query


def _queries(
    found: Iterator[Query | None], file: str, reader: Callable[[], object]
) -> Iterator[Query]:
    yield from (query for query in found if query is not None)
    if isinstance(topics := reader(), Topics):
        topics.check_end(file)


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
    name = pop_id(file, number, fields)
    text = _pop_text(file, number, fields, DOCUMENT_TEXT_FIELDS)
    title = fields.pop("title", None)
    if title is None:
        title = ""
    if not isinstance(title, str):
        raise wrong_field(file, number, '"title" to be a string', json_type(title))
    return Document(name, text, title, fields or NO_METADATA)


def _query(file: str, number: int, line: bytes) -> Query:
    fields = parse_object(file, number, line)
    name = pop_id(file, number, fields)
    return Query(name, _pop_text(file, number, fields, QUERY_TEXT_FIELDS))


def _query_of_tabs(file: str, number: int, line: bytes) -> Query:
    name, tab, text = decode_line(file, number, line).rstrip("\r\n").partition("\t")
    if not tab or not name:
        raise wrong_field(file, number, "id<TAB>text", repr(line[:40].decode(errors="replace")))
    return Query(name, text)


def _is_query_header(line: bytes) -> bool:
    names = line.decode("utf-8", errors="replace").strip().lower().split("\t")
    return names[0] in (*ID_FIELDS, "qid", "query-id", "query_id") and names[1:] in (
        ["text"],
        ["query"],
    )


def pop_id(file: str, number: int, fields: dict[str, Any], names: Sequence[str] = ID_FIELDS) -> str:
    """The id in the first of the fields that has one, taken out of them; DataError for none."""
    name = next((name for name in names if fields.get(name) is not None), None)
    if name is None:
        *others, last = (f'"{name}"' for name in names)
        wanted = f"{', '.join(others)} or {last}" if others else last
        raise wrong_field(file, number, f"an id in {wanted}", "none")
    value = fields.pop(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        found = "an empty string" if value == "" else json_type(value)
        raise wrong_field(file, number, f'"{name}" to be a string or a number', found)
    if "\0" in value:  # measures and runs would take what stands before it for the id
        raise wrong_field(file, number, f'"{name}" without the character NUL', repr(value))
    return value


def _pop_text(file: str, number: int, fields: dict[str, Any], names: tuple[str, ...]) -> str:
    name = next((name for name in names if fields.get(name) is not None), None)
    if name is None:
        wanted = " or ".join(f'"{name}"' for name in names)
        found = f"only {', '.join(fields)}" if fields else "no such field"
        if null := next((name for name in names if name in fields), None):
            found = f'null in "{null}"'
        raise wrong_field(file, number, f"text in {wanted}", found)
    value = fields.pop(name)
    if not isinstance(value, str):
        raise wrong_field(file, number, f'"{name}" to be a string', json_type(value))
    return value
