"""What the data tools share: lines in with all their fields, files out whole, options, errors."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from m3search.corpus import document_text, read_corpus
from m3search.errors import ConfigError, DataError
from m3search.lines import display_name, json_type, parse_object, read_records
from m3search.records import Document
from m3search.stores.files import naming, write_whole
from m3search.training.data import DOCUMENTS, documents_beside

TEXT_FIELDS = ("query", "pos", "neg", "text")
LISTS = ("pos", "neg", "neg_titles")
"""fields that hold a list even of one text"""
T = TypeVar("T")


class Line(NamedTuple):
    """A line of a JSON-lines file."""

    number: int
    """from 1"""
    raw: bytes
    """as the file has it, with the end of the line"""
    fields: dict[str, Any]


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a file, plain, .gz or .zst; DataError with the line of a bad one."""
    file = display_name(path)

    def parse(number: int, raw: bytes) -> Line:
        whole = raw if raw.endswith(b"\n") else raw + b"\n"
        return Line(number, whole, parse_object(file, number, raw))

    return read_records(path, parse, inside="pairs.jsonl")


def texts_of(path: Path, line: Line, names: Sequence[str] = TEXT_FIELDS) -> list[tuple[str, str]]:
    """(field, text) of all texts in the named fields: `query`, `pos 1`, `pos 2`, ..."""
    found: list[tuple[str, str]] = []
    for name in names:
        value = line.fields.get(name)
        if value is None:
            continue
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            found += [(f"{name} {place}", text) for place, text in enumerate(value, start=1)]
        elif isinstance(value, str) and name not in LISTS:
            found.append((name, value))
        else:
            raise wrong_line(path, line, f"texts in {name}", json_type(value))
    return found


def ids_of(path: Path, line: Line, name: str) -> list[str]:
    """The document ids in a field such as `pos_id`: one, a list of them, or none."""
    value = line.fields.get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(each) in (str, int, float) for each in ids):
        raise wrong_line(path, line, f"an id or a list of ids in {name}", json_type(value))
    return list(map(str, ids))  # as the reader of documents does


def read_documents(path: Path) -> dict[str, Document]:
    """The documents that the pairs of a file may name, by id; none where no file lies beside."""
    beside = documents_beside(path)
    return {} if beside is None else {each.id: each for each in read_corpus(beside)}


def query_of(path: Path, line: Line) -> str:
    """The query of a pair; DataError where there is none."""
    query = line.fields.get("query")
    if isinstance(query, str) and query.strip():
        return query
    raise wrong_line(path, line, 'a text in "query"', "none")


def positives_of(path: Path, line: Line, documents: Mapping[str, Document]) -> list[str]:
    """The positives of a pair, of `pos` or of `pos_id`, each with its title in front."""
    title = line.fields.get("title") or ""
    if not isinstance(title, str):
        raise wrong_line(path, line, 'a text in "title"', json_type(title))
    texts = [text for _, text in texts_of(path, line, ("pos",))]
    found = [Document("", text, title) for text in texts]
    names = ids_of(path, line, "pos_id")
    if found and names:
        raise wrong_line(path, line, 'texts in "pos" or ids in "pos_id"', "both")
    if not found:
        lost = next((name for name in names if name not in documents), None)
        if lost is not None:
            where = f"{path.name.split('.jsonl')[0]}{DOCUMENTS}"
            raise wrong_line(path, line, f"a pos_id that a document in {where} has", repr(lost))
        found = [documents[name] for name in names]
    if not found:
        raise wrong_line(path, line, 'texts in "pos" or ids in "pos_id"', "none")
    return [document_text(document) for document in found]


def negatives_of(path: Path, line: Line) -> list[str]:
    """The negatives of a pair, each with its title in front."""
    texts = [text for _, text in texts_of(path, line, ("neg",))]
    titles = [title for _, title in texts_of(path, line, ("neg_titles",))] or [""] * len(texts)
    if len(titles) != len(texts):
        raise wrong_line(path, line, f"{len(texts)} texts in neg_titles", str(len(titles)))
    return [document_text(Document("", *pair)) for pair in zip(texts, titles, strict=True)]


def wrong_line(path: Path, line: Line, expected: str, found: str) -> DataError:
    """The error for a line that says something else than it should."""
    remedy = "Repair or remove the line."
    return DataError(path, line.number, expected=expected, found=found, remedy=remedy)


def plan_outputs(files: Iterable[Path], folder: Path) -> dict[Path, Path]:
    """Where each file goes: the same name in the folder; what was .zst becomes .gz."""
    planned: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    sources = {path.resolve(): path for path in files}
    for path in sources.values():
        name = path.name
        target = folder / (name.removesuffix(".zst") + ".gz" if name.endswith(".zst") else name)
        problem = ""
        if target.resolve() in sources:
            problem = f"{target}, which is read from"
        elif target in taken:
            problem = f"two files that both become {target}: {taken[target]} and {path}"
        if problem:
            remedy = "Write into another folder, or rename a file."
            raise ConfigError(
                "--out", expected="a place of its own for each file", found=problem, remedy=remedy
            )
        planned[path], taken[target] = target, path
    return planned


class _NothingWritten(Exception):  # noqa: N818 - no error: it takes the file back
    """Ends the writing of a file that no line came to."""


@contextmanager
def open_lines(path: Path) -> Iterator[io.BufferedIOBase]:
    """As `open_output`, for lines of which none may be left: then there is no file, as no tool and
    no training reads an empty one. stderr says so; `without_lines` tells the report."""
    try:
        with open_output(path) as file:
            yield file
            if file.tell() == 0:
                raise _NothingWritten
    except _NothingWritten:
        _remove(path)


def drop_empty(path: Path) -> list[str]:
    """Takes a file without a line away and says so; its name, for the report, or nothing."""
    if path.is_file() and not path.stat().st_size:
        _remove(path)
    return without_lines([path])


def _remove(path: Path) -> None:
    with naming(path):
        path.resolve().unlink(missing_ok=True)  # a link stays a link
    tqdm.write(f"{path}: no line is left for it, so no file is written", file=sys.stderr)


def without_lines(planned: Iterable[Path]) -> list[str]:
    """Those of the files that were not written, as no line was left for them."""
    return [str(path) for path in planned if not path.exists()]


@contextmanager
def open_output(path: Path) -> Iterator[io.BufferedIOBase]:
    """A file to write to, gzip where the name ends in .gz: there whole in the end, or not at all.

    Its folder is made. Equal content gives equal bytes.
    """
    if path.suffix == ".zst":
        raise ConfigError(
            "the output",
            expected="a name that ends in .gz, or plain text",
            found=f"{path}: zstd is read here, but not written",
            remedy="Choose a name that ends in .gz.",
        )
    with naming(path):
        path.resolve().parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as file:
        yield file


def check_new(folder: Path) -> None:
    """ConfigError unless the folder is not there yet, or is empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            "--out",
            expected="a new folder, or an empty one",
            found=f"{folder}, which holds something",
            remedy="Choose another, or remove what is there.",
        )


def write_object(file: io.BufferedIOBase, fields: Mapping[str, Any]) -> None:
    """One line of JSON; characters stand as they are, in any script."""
    file.write(json.dumps(fields, ensure_ascii=False).encode() + b"\n")


def showing(items: Iterable[T], unit: str, what: str = "") -> Iterator[T]:
    """The items, counted on stderr where that is a terminal."""
    return iter(tqdm(items, what or None, unit=f" {unit}", disable=None, leave=False))


def options(documentation: str | None) -> argparse.ArgumentParser:
    """A parser that explains with a script's documentation, with --report."""
    parser = argparse.ArgumentParser(
        description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="put the report, which goes to stdout, here too"
    )
    return parser


def share(text: str) -> float:
    """An argument above 0 and up to 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and up to 1")
    return value


def count(text: str) -> int:
    """An argument that is a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def give_report(report: Mapping[str, Any], path: Path | None) -> None:
    """The report as a line of JSON on stdout and, indented, in a file."""
    print(json.dumps(report, ensure_ascii=False))
    if path is not None:
        with open_output(path) as file:
            file.write(json.dumps(report, ensure_ascii=False, indent=2).encode() + b"\n")
