"""Make title-body pairs from raw texts, for training without labels.

    JSON lines     every line with text (or contents) is a document, title its title
    .txt, .md      every file is a document; front matter of Markdown may have a title
    a folder       all such files below it, in the order of their names

The query is the title, else the first Markdown heading, else the first sentence; it is taken out
of the body, so that a pair is not answered by repetition. The paper trains on such pairs first,
title-body among them (arXiv 2402.03216v4, section 3.1). Pairs with a query or a body out of bounds
are left out, and so are pairs whose query in the same language, or whose body, was seen before;
longer bodies are cut between words. The language of a line (lang or language) is kept.

    python trainer/title_body_pairs.py wiki.jsonl.gz docs/ --out pairs/wiki.jsonl.gz --lang en
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ngrams import normalise
from tooling import (
    count,
    give_report,
    open_lines,
    options,
    read_lines,
    showing,
    without_lines,
    write_object,
    wrong_line,
)

from m3search.cli.ending import run_script
from m3search.errors import DataError
from m3search.lines import check_file, json_type

PLAIN, MARKDOWN = (".txt", ".text"), (".md", ".markdown")
LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json")
SOURCES = ("title", "heading", "sentence")
"""where a query may come from, in the order in which they are tried"""
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*")
_UNDERLINE = re.compile(r" {0,3}=+[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SENTENCE = re.compile(r".+?(?:[.!?؟۔።]+[\"'”’»)]*(?=\s|\Z)|[।॥]|[。！？｡]+[」』”]*|(?=\n)|\Z)")


class RawText(NamedTuple):
    """A document as it was found."""

    text: str
    title: str = ""
    language: str | None = None
    markdown: bool = False


class Pair(NamedTuple):
    """A query and the body that belongs to it."""

    query: str
    body: str
    source: str
    """one of `SOURCES`"""


class Bounds(NamedTuple):
    """Lengths in characters, each included."""

    least_query: int = 3
    most_query: int = 300
    least_body: int = 50
    most_body: int | None = None
    """longer bodies are cut"""
    per_query: int = 1
    """pairs with one query, in a language"""


def find_files(places: Iterable[Path]) -> list[Path]:
    """The files, and those of a known kind in the folders."""
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = sorted(path for path in place.rglob("*") if path.is_file())
            found += [path for path in inside if path.name.endswith((*PLAIN, *MARKDOWN, *LINES))]
        else:
            found.append(place)
    return found


def read_texts(path: Path, language: str | None = None) -> Iterator[RawText]:
    """The documents of a file; `language` is that of documents that name none."""
    if path.suffix not in (*PLAIN, *MARKDOWN):
        yield from _read_lines(path, language)
        return
    check_file(path, "documents.jsonl")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            path,
            expected="UTF-8",
            found=f"byte 0x{error.object[error.start]:02x} at byte {error.start + 1}",
            remedy="Convert the file, for example with iconv -f LATIN1 -t UTF-8.",
        ) from error
    yield RawText(text, "", language, path.suffix in MARKDOWN)


def _read_lines(path: Path, language: str | None) -> Iterator[RawText]:
    for line in read_lines(path):
        found = {name: line.fields.get(name) for name in ("text", "title", "lang")}
        if found["text"] is None:
            found["text"] = line.fields.get("contents")
        found["lang"] = found["lang"] or line.fields.get("language") or language
        for name, value in found.items():
            if not isinstance(value, str) and (name == "text" or value is not None):
                raise wrong_line(path, line, f'a string in "{name}"', json_type(value))
        yield RawText(str(found["text"]), found["title"] or "", found["lang"])


def make_pair(raw: RawText, sources: Sequence[str] = SOURCES) -> Pair | None:
    """The pair of a document by the first source that it has, or None."""
    text, title = raw.text.strip(), " ".join(raw.title.split())
    if raw.markdown:
        text, title = _without_front_matter(text, title)
    for source in sources:
        if source == "title" and title:
            first, _, rest = text.partition("\n")
            repeats = normalise(first.lstrip("# ")) == normalise(title)
            return Pair(title, (rest if repeats else text).strip(), source)
        if source == "heading" and raw.markdown and (pair := _by_heading(text)):
            return pair
        if source == "sentence" and (found := _SENTENCE.match(text)):
            return Pair(found.group().strip(), text[found.end() :].strip(), source)
    return None


def _without_front_matter(text: str, title: str) -> tuple[str, str]:
    front = _FRONT.match(text)
    if front is None:
        return text, title
    named = _FRONT_TITLE.search(front.group(1))
    found = named.group(1).strip("\"'") if named else ""
    return text[front.end() :].strip(), title or found


def _by_heading(text: str) -> Pair | None:
    """The first heading, `# so` or underlined with ===, and all the rest; none in a code block."""
    lines = text.split("\n")
    fence = ""
    for place, line in enumerate(lines):
        if mark := _FENCE.match(line):
            if not fence:
                fence = mark.group(1)
            elif mark.group(1).startswith(fence):
                fence = ""
            continue
        if fence:
            continue
        heading = _HEADING.fullmatch(line)
        underlined = place + 1 < len(lines) and _UNDERLINE.fullmatch(lines[place + 1])
        query = heading.group(1) if heading else line if underlined else ""
        if query.strip():
            rest = lines[:place] + lines[place + (1 if heading else 2) :]
            return Pair(query.strip(), "\n".join(rest).strip(), "heading")
    return None


def cut_text(text: str, most: int) -> str:
    """The beginning of a text, cut behind a word where it has spaces."""
    if len(text) <= most:
        return text
    words = re.match(rf"(.{{1,{most}}})(?=\s)", text, re.DOTALL)
    return (words.group(1) if words else text[:most]).rstrip()


@dataclass
class Maker:
    """Pairs of documents, each once."""

    bounds: Bounds = field(default_factory=Bounds)
    sources: Sequence[str] = SOURCES
    counts: Counter[str] = field(default_factory=Counter)
    """documents by what became of them: a source of the query, or why there is no pair"""
    cut: int = 0
    """bodies"""
    _queries: Counter[bytes] = field(default_factory=Counter)
    _bodies: set[bytes] = field(default_factory=set)

    def make(self, raw: RawText) -> dict[str, Any] | None:
        """The training line of a document, or None."""
        pair = make_pair(raw, self.sources)
        problem = self._problem(raw, pair)
        self.counts[problem or (pair.source if pair else "")] += 1
        if problem or pair is None:
            return None
        body = cut_text(pair.body, self.bounds.most_body or len(pair.body))
        self.cut += body != pair.body
        language = {} if raw.language is None else {"lang": raw.language}
        return {"query": pair.query, "pos": [body], **language}

    def _problem(self, raw: RawText, pair: Pair | None) -> str:
        if pair is None:
            return "no query"
        if len(pair.query) < self.bounds.least_query:
            return "short query"
        if len(pair.query) > self.bounds.most_query:
            return "long query"
        if len(pair.body) < self.bounds.least_body:
            return "short body"
        query = _key(f"query {raw.language or ''}", pair.query)
        body = _key("body", cut_text(pair.body, self.bounds.most_body or len(pair.body)))
        if self._queries[query] >= self.bounds.per_query:
            return "repeated query"
        if body in self._bodies:
            return "repeated body"
        self._queries[query] += 1
        self._bodies.add(body)
        return ""


def _key(kind: str, text: str) -> bytes:
    plain = normalise(text) or text
    return hashlib.blake2b(f"{kind}\n{plain}".encode(), digest_size=16).digest()


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    usual = Bounds()
    parser = options(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE|DIR", help="raw texts")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".gz is packed")
    parser.add_argument("--lang", metavar="CODE", help="of documents that name no language")
    parser.add_argument(
        "--query",
        nargs="+",
        choices=SOURCES,
        default=list(SOURCES),
        help="where queries come from, the first that there is",
    )
    parser.add_argument(
        "--min-query",
        type=count,
        default=usual.least_query,
        metavar="N",
        help="characters; default %(default)s",
    )
    parser.add_argument(
        "--max-query", type=count, default=usual.most_query, metavar="N", help="default %(default)s"
    )
    parser.add_argument(
        "--min-body", type=count, default=usual.least_body, metavar="N", help="default %(default)s"
    )
    parser.add_argument(
        "--max-body", type=count, metavar="N", help="cut longer ones; default: none"
    )
    parser.add_argument(
        "--per-query", type=count, default=usual.per_query, metavar="N",
        help="pairs with one query, as paragraphs of one title; default %(default)s",
    )  # fmt: skip
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options and writes the pairs."""
    args = read_options(arguments)
    bounds = Bounds(args.min_query, args.max_query, args.min_body, args.max_body, args.per_query)
    maker = Maker(bounds, args.query)
    files = find_files(args.files)
    written = 0
    with open_lines(args.out) as output:
        for path in showing(files, "files"):
            for raw in read_texts(path, args.lang):
                line = maker.make(raw)
                if line is not None:
                    write_object(output, line)
                    written += 1
    give_report(
        {
            "files": len(files),
            "documents": maker.counts.total(),
            "pairs": written,
            "bodies_cut": maker.cut,
            "by": dict(sorted(maker.counts.items())),
            "without_lines": without_lines([args.out]),
        },
        args.report,
    )


if __name__ == "__main__":
    run_script(main)
