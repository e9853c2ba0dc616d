"""Split training files by length, so that batches of a file need little padding.

The length of a line is that of its longest text in tokens of the model, the special tokens
included: of its query, pos and neg, or of its text; a title counts with its text, as the trainer
may put it in front. A line goes to NAME_len-L-R.jsonl where L <= length < R, the last R
being inf, as split_data_by_length.py of FlagEmbedding names them; .gz stays .gz. Lines are not
changed. The documents that pairs name by pos_id go along, to NAME_len-L-R.docs.jsonl.

    python trainer/split_by_length.py train/*.jsonl.gz --out split/ --model BAAI/bge-m3
"""

from __future__ import annotations

import argparse
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from glob import escape
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tooling import (
    Line,
    give_report,
    ids_of,
    negatives_of,
    open_output,
    options,
    positives_of,
    query_of,
    read_documents,
    read_lines,
    showing,
    texts_of,
)

from m3search.cli.ending import run_script
from m3search.corpus import document_text
from m3search.errors import ConfigError
from m3search.records import Document
from m3search.training.data import DOCUMENTS, documents_beside

if TYPE_CHECKING:
    from m3search.model.tokenization import Tokenization

LENGTHS = (0, 500, 1000, 2000, 3000, 4000, 5000, 6000, 7000)
UNLIMITED = 1 << 40
BLOCK = 256
"""lines measured together"""


class Buckets:
    """Ranges of lengths: from each bound to below the next, the last without an end."""

    def __init__(self, bounds: Sequence[int]) -> None:
        if list(bounds) != sorted(set(bounds)) or not bounds or bounds[0] != 0:
            raise ConfigError(
                "--lengths",
                expected="0, then ever larger numbers",
                found=" ".join(map(str, bounds)),
                remedy=f"Give lengths such as {' '.join(map(str, LENGTHS))}.",
            )
        self._bounds = list(bounds)
        ends = [*map(str, bounds[1:]), "inf"]
        self.names = [f"{left}-{right}" for left, right in zip(bounds, ends, strict=True)]

    def name_of(self, length: int) -> str:
        """The range of a length, as file names have it."""
        return self.names[bisect_right(self._bounds, length) - 1]


def line_texts(path: Path, line: Line, documents: dict[str, Document]) -> list[str]:
    """The texts of a line as the trainer may encode them."""
    if "text" in line.fields and "query" not in line.fields:
        title = line.fields.get("title") or ""
        texts = [document_text(Document("", t, str(title))) for _, t in texts_of(path, line)]
    else:
        texts = [query_of(path, line), *negatives_of(path, line)]
        texts += positives_of(path, line, documents)
    return texts


def measure(texts: Sequence[Sequence[str]], tokenization: Tokenization) -> list[int]:
    """The length of the longest text of each line, in tokens."""
    different = dict.fromkeys(text for of_line in texts for text in of_line)
    ids = tokenization.encode(list(different), UNLIMITED).ids
    lengths = {text: len(row) for text, row in zip(different, ids, strict=True)}
    return [max(lengths[text] for text in of_line) for of_line in texts]


class Splitter:
    """Files split into a folder."""

    def __init__(self, tokenization: Tokenization, buckets: Buckets, folder: Path) -> None:
        self._tokenization, self._buckets, self._folder = tokenization, buckets, folder

    def split(self, path: Path) -> dict[str, Any]:
        """Writes the parts of a file; how many lines each has."""
        documents = read_documents(path)
        named: dict[str, set[str]] = {}
        counts: Counter[str] = Counter()
        longest = total = 0
        with ExitStack() as parts:
            files: dict[str, BufferedIOBase] = {}
            for line, length in showing(self._measured(path, documents), "lines", path.name):
                bucket = self._buckets.name_of(length)
                if bucket not in files:
                    files[bucket] = parts.enter_context(open_output(self._part(path, bucket)))
                files[bucket].write(line.raw)
                counts[bucket] += 1
                named.setdefault(bucket, set()).update(ids_of(path, line, "pos_id"))
                longest, total = max(longest, length), total + length
            if documents:
                self._write_documents(path, parts, named)
        lines = counts.total()
        return {
            "lines": lines,
            "longest": longest,
            "mean": round(total / lines, 1),
            "by_length": {name: counts[name] for name in self._buckets.names if counts[name]},
        }

    def _measured(self, path: Path, documents: dict[str, Document]) -> Iterator[tuple[Line, int]]:
        remaining = read_lines(path)
        while block := list(islice(remaining, BLOCK)):
            texts = [line_texts(path, line, documents) for line in block]
            yield from zip(block, measure(texts, self._tokenization), strict=True)

    def _write_documents(self, path: Path, parts: ExitStack, named: dict[str, set[str]]) -> None:
        beside = documents_beside(path)
        assert beside is not None
        files = {
            bucket: parts.enter_context(open_output(self._part(beside, bucket)))
            for bucket, names in named.items()
            if names
        }
        for line in read_lines(beside):
            name = next(line.fields[n] for n in ("_id", "id", "docid") if line.fields.get(n))
            for bucket, file in files.items():
                if str(name) in named[bucket]:
                    file.write(line.raw)

    def _part(self, path: Path, bucket: str) -> Path:
        name = split_name(path)
        ending = DOCUMENTS if DOCUMENTS in path.name else ".jsonl"
        packed = ".gz" if path.suffix in (".gz", ".zst") else ""
        return self._folder / f"{name}_len-{bucket}{ending}{packed}"


def split_name(path: Path) -> str:
    """The name of a file without what ends it: NAME of NAME.jsonl.gz and of NAME.docs.jsonl."""
    return path.name.split(".jsonl")[0].removesuffix(".docs")


def check_folder(folder: Path, files: Iterable[Path]) -> None:
    """ConfigError where parts of a file would lie among parts of an earlier run."""
    names: dict[str, Path] = {}
    for path in files:
        name = split_name(path)
        old = sorted(folder.glob(f"{escape(name)}_len-*")) if folder.is_dir() else []
        if name in names:
            found = f"two files of the name {name}: {names[name]} and {path}"
        elif old:
            found = f"{old[0]}, which an earlier run made"
        else:
            names[name] = path
            continue
        raise ConfigError(
            "--out",
            expected="a folder for one split of each file",
            found=found,
            remedy="Give a new folder, or rename or remove a file.",
        )


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = options(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="training files")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the parts")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="whose tokenizer counts: m3-mini (the default), a folder, a hub name",
    )
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        default=list(LENGTHS),
        metavar="N",
        help=f"where the ranges begin; default {' '.join(map(str, LENGTHS))}",
    )
    args = parser.parse_args(arguments)
    try:
        args.buckets = Buckets(args.lengths)
    except ConfigError as error:
        parser.error(str(error))
    return args


def _load_tokenization(model: str | None) -> tuple[str, Tokenization]:
    from m3search.model.checkpoint import load_tokenizer
    from m3search.model.resolve import resolve
    from m3search.model.tokenization import Tokenization

    name, folder = resolve(model)
    return name, Tokenization(load_tokenizer(folder))


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options and splits the files."""
    args = read_options(arguments)
    started = time.perf_counter()
    files = [path for path in dict.fromkeys(args.files) if DOCUMENTS not in path.name]
    buckets = args.buckets
    check_folder(args.out, files)
    name, tokenization = _load_tokenization(args.model)
    splitter = Splitter(tokenization, buckets, args.out)
    reports = {str(path): splitter.split(path) for path in showing(files, "files")}
    total: Counter[str] = Counter()
    for each in reports.values():
        total.update(each["by_length"])
    report = {
        "model": name,
        "lines": total.total(),
        "by_length": {bucket: total[bucket] for bucket in buckets.names},
        "seconds": round(time.perf_counter() - started, 1),
        "files": reports,
    }
    give_report(report, args.report)


if __name__ == "__main__":
    run_script(main)
