"""Judgements in BEIR's form, in TREC's or as JSON lines, and TREC runs."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from m3search.corpus.documents import pop_id
from m3search.errors import DataError
from m3search.lines import decode_line, display_name, parse_object, read_records, wrong_field
from m3search.records import Qrels, Run

QRELS_SCORE_NAMES = ("score", "relevance", "rel", "grade", "label")
QRELS_ID_FIELDS = (("qid", "query-id"), ("docid", "corpus-id"))
"""of JSON lines: those of the query, and of the document"""


class Judgement(NamedTuple):
    """How relevant a document is to a query."""

    query: str
    document: str
    grade: int


def read_qrels(path: str | Path) -> Qrels:
    """Grades by query and document, in the order of the file.

    BEIR: `query-id<TAB>corpus-id<TAB>score`, with or without that header. TREC: `query 0 document
    grade`. JSON lines: `qid`, `docid`, `relevance`, or BEIR's names. The first line decides which;
    a grade is an integer.
    """
    file = display_name(path)
    qrels: Qrels = {}
    read: Callable[[str, int, bytes], Judgement | None] | None = None

    def parse(number: int, line: bytes) -> None:
        nonlocal read
        if read is None:
            read = _json_judgement if line.lstrip()[:1] in (b"{", b"[") else _Columns()
        found = read(file, number, line)
        if found is None:
            return
        judged = qrels.setdefault(found.query, {})
        if found.document in judged:
            raise _repeated(file, number, found.document, found.query)
        judged[found.document] = found.grade

    for _ in read_records(path, parse, inside="qrels/test.tsv"):
        pass
    if not qrels:
        remedy = "Check how the file was made."
        raise DataError(file, expected="judgements", found="only a header", remedy=remedy)
    return qrels


class _Columns:
    """Judgements in as many columns as the first line has: three of BEIR, or four of TREC."""

    def __init__(self) -> None:
        self._width = 0

    def __call__(self, file: str, number: int, line: bytes) -> Judgement | None:
        """That of a line; None for a header."""
        fields = _judgement_fields(decode_line(file, number, line))
        three, four = "query<TAB>document<TAB>grade", "query 0 document grade"
        if self._width == 0:
            if len(fields) not in (3, 4):
                raise wrong_field(file, number, f"{three} or {four}", f"{len(fields)} columns")
            self._width = len(fields)
            if len(fields) == 3 and fields[2].lower() in QRELS_SCORE_NAMES:
                return None
        if len(fields) != self._width:
            wanted = three if self._width == 3 else four
            raise wrong_field(file, number, wanted, f"{len(fields)} columns")
        return Judgement(fields[0], fields[-2], _integer(file, number, "the grade", fields[-1]))


def _json_judgement(file: str, number: int, line: bytes) -> Judgement:
    fields = parse_object(file, number, line)
    query, document = (pop_id(file, number, fields, names) for names in QRELS_ID_FIELDS)
    name = next((name for name in QRELS_SCORE_NAMES if fields.get(name) is not None), None)
    if name is None:
        raise wrong_field(file, number, 'a grade in "relevance" or "score"', "none")
    if type(fields[name]) is not int:
        raise wrong_field(file, number, f'"{name}" to be an integer', repr(fields[name]))
    return Judgement(query, document, fields[name])


def _judgement_fields(line: str) -> list[str]:
    by_tab = line.strip().split("\t")
    return by_tab if len(by_tab) == 3 else line.split()


def _repeated(file: str, number: int, document: str, query: str) -> DataError:
    found = f"{document!r} a second time for query {query!r}"
    return wrong_field(file, number, "each document once for a query", found)


def _integer(file: str, number: int, what: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise wrong_field(file, number, f"{what} to be an integer", repr(text)) from error


def read_run(path: str | Path) -> Run:
    """Scores by query and document of a TREC run (query Q0 document rank score tag).

    The documents of a query come best first: score descending, then rank in the file, then id.
    An empty file is a run that found nothing for any query, as `write_run` writes it.
    """
    file, place = display_name(path), Path(path)
    if place.is_file() and place.stat().st_size == 0:
        return {}
    places: dict[str, dict[str, tuple[float, int, str]]] = {}

    def parse(number: int, line: bytes) -> None:
        fields = decode_line(file, number, line).split()
        if len(fields) != 6:
            wanted = "the six columns query Q0 document rank score tag"
            raise wrong_field(file, number, wanted, str(len(fields)))
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
        raise wrong_field(file, number, "the score to be a finite number", repr(text))
    return score


def write_run(path: str | Path, run: Run, tag: str = "m3search") -> None:
    """Writes a TREC run; ranks count from 1 by score descending, ties in the order given.

    The file appears whole or not at all, also where the process is killed; a pipe or a device is
    written to as it is. An id with white space has no place in this format.
    """
    target = Path(path)
    check_word(target, "the tag", tag)
    try:
        if target.exists() and not target.is_file():
            _write_lines(target, "w", target, run, tag)
            return
        place = target.resolve()  # a link stays a link
        unfinished = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
        try:
            _write_lines(unfinished, "x", target, run, tag)
            unfinished.replace(place)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            target,
            expected="a place to write to",
            found=error.strerror or str(error),
            remedy="Check the folder, its permissions and the free space.",
        ) from error


def _write_lines(place: Path, how: Literal["w", "x"], target: Path, run: Run, tag: str) -> None:
    with place.open(how, encoding="utf-8", newline="\n") as file:
        for query, scored in run.items():
            file.writelines(run_lines(target, query, scored, tag))
        file.flush()
        if how == "x":
            os.fsync(file.fileno())  # before the name: no power cut leaves it on an empty file


def run_lines(
    path: Path, query: str, scored: dict[str, float], tag: str = "m3search"
) -> Iterator[str]:
    """The lines of one query; `path` is where they go, for a DataError to name."""
    check_word(path, "a query id", query)
    for document, score in scored.items():
        check_word(path, "a document id", document)
        if not math.isfinite(score):
            found = f"{score} for {document!r} of query {query!r}"
            remedy = "Leave the document out of the run."
            raise DataError(path, expected="finite scores", found=found, remedy=remedy)
    best_first = sorted(scored.items(), key=lambda entry: -entry[1])
    for rank, (document, score) in enumerate(best_first, start=1):
        yield f"{query} Q0 {document} {rank} {float(score)!r} {tag}\n"


def check_word(path: Path, what: str, word: str) -> None:
    """DataError for a name that a TREC run, whose columns white space parts, cannot hold."""
    if word.split() != [word]:
        raise DataError(
            path,
            expected=f"{what} without white space, which parts the columns of a TREC run",
            found=repr(word),
            remedy="Give ids without white space, or use the JSON output.",
        )
