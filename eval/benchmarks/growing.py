"""An index that grows by small commits: what a commit costs, and a query on what came of it.

    python eval/benchmarks/growing.py DATA/squad-en DATA/squad-it --documents 20000 --adds 10000

The collection is synthetic, with the statistics of an encoding of the sets (synthetic.py), and the
queries are theirs, encoded before the clock runs. To an index of so many documents the others are
added one by one, a commit each; to a copy of it, many in a commit. Then a tenth of the documents is
deleted or updated. The tables on stderr and the JSON on stdout have, of the commits, the median and
the 99th percentile in milliseconds without the making of vectors, the share of the time that merges
took, and the kilobytes written for a document. Every query, ten hits with their texts, is put to
these indexes and to the same ones compacted, in turn, in all modes and by multi alone, which has
shortcuts in large segments only: `times` is to the compacted one, and `same` the share of queries
with the same hits and scores as there.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any, cast

import numpy as np
from measuring import publish
from synthetic import Clocked, Real, collection_options, encode_asked
from timing import table, time_answers

from m3search.cli.ending import run_script
from m3search.encoder import Encoder
from m3search.index import Index
from m3search.records import MODES, Document, Encoded, Hit, Kind, Mode
from m3search.search import Searcher
from m3search.timings import Timings

Answer = Callable[[int], list[Hit]]
COMPARED = {
    "added, compacted": ("added one by one", "added in batches"),
    "changed, compacted": ("changed",),
    "deleted, compacted": ("deleted",),
}
"""the indexes that answer in turn: a compacted one, and others with the same documents"""
ASKED: dict[str, Sequence[Mode]] = {"": MODES, ", multi alone": ("multi",)}
"""modes of a query, by what their rows are called"""


class Asked:
    """An encoder of queries by number: the text of query 7 is "7"."""

    def __init__(self, real: Real) -> None:
        self.identity = real.identity
        self._queries = real.queries

    def require(self, modes: Sequence[Mode]) -> None:
        """All modes are there."""

    def encode(self, texts: Sequence[str], kind: Kind = "query") -> Encoded:
        """One query."""
        row = int(texts[0])
        return self._queries[row : row + 1]


def main() -> None:
    """Measures as the command line asks, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    collection_options(parser, queries=200)
    parser.set_defaults(documents=20_000)
    parser.add_argument("--adds", type=int, default=10_000, help="documents that are added")
    parser.add_argument("--at-once", type=int, default=100, help="of a commit, where they are many")
    parser.add_argument("--changed", type=float, default=0.1, help="share deleted or updated")
    parser.add_argument("--depth", type=int, default=200)
    parser.add_argument("--work", type=Path, help="a folder for the indexes, which are removed")
    asked = parser.parse_args()
    real, chosen = encode_asked(asked)
    with tempfile.TemporaryDirectory(dir=asked.work) as place:
        folder = Path(place)
        result: dict[str, Any] = {
            "commits": make_indexes(folder, Clocked(real, asked.seed, asked.tokens), asked)
        }
        result |= search(folder, real, chosen, asked.depth)
    shown = table(result["commits"]) + "\n\n" + table(result["queries"])
    publish(asked, result, shown)


def make_indexes(folder: Path, source: Clocked, asked: argparse.Namespace) -> dict[str, Any]:
    """Makes the indexes that are compared; what each kind of commit cost."""
    first, total = asked.documents, asked.documents + asked.adds
    Index.build(folder / "built", source.documents(first), source)
    commits = {}
    for name, at_once in (("added one by one", 1), ("added in batches", asked.at_once)):
        index = copy(folder, "built", name)
        parts = batches(islice(source.documents(total), first, None), at_once)
        commits[f"add {at_once}"] = time_commits(partial(index.add, encoder=source), parts, source)
    rng = np.random.default_rng(asked.seed)
    chosen = rng.permutation(total)[: round(asked.changed * total)].tolist()
    index = copy(folder, "added one by one", "changed")
    gone, moved = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    ids = batches((f"d{number}" for number in gone), asked.at_once)
    commits[f"delete {asked.at_once}"] = time_commits(index.delete, ids, source)
    updated = (Document(f"d{number}", str(total + number)) for number in moved)
    parts = batches(updated, asked.at_once)
    update = partial(index.add, encoder=source)
    commits[f"update {asked.at_once}"] = time_commits(update, parts, source)
    copy(folder, "added one by one", "added, compacted").compact()
    copy(folder, "changed", "changed, compacted").compact()
    copy(folder, "added, compacted", "deleted").delete(f"d{number}" for number in chosen)
    copy(folder, "deleted", "deleted, compacted").compact()
    return commits


def copy(folder: Path, name: str, other: str) -> Index:
    """An index made anew from the files of another."""
    shutil.copytree(folder / name, folder / other)
    return Index.open(folder / other)


def batches(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The values, so many at a time."""
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part


def time_commits(
    change: Callable[[list[Any]], object], parts: Iterable[list[Any]], source: Clocked
) -> dict[str, Any]:
    """What a commit of each part costs: milliseconds, the share of merges, kilobytes."""
    spent, merges, documents, before = [], [], 0, bytes_written()
    for part in parts:
        encoding, started = source.seconds, time.perf_counter()
        with Timings() as timings:
            change(part)
        spent.append(time.perf_counter() - started - (source.seconds - encoding))
        merges += timings.seconds.get("merge", [])
        documents += len(part)
    return {
        "commits": len(spent),
        "median_ms": round(1000 * float(np.median(spent)), 1),
        "p99_ms": round(1000 * float(np.percentile(spent, 99)), 1),
        "longest_ms": round(1000 * max(spent), 1),
        "merges": len(merges),
        "merge_share": round(sum(merges) / sum(spent), 3),
        "kb_a_document": round((bytes_written() - before) / documents / 1000, 1),
    }


def bytes_written() -> int:
    """Bytes that this process has given to the system to write. On Linux alone."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def search(folder: Path, real: Real, chosen: Sequence[int], depth: int) -> dict[str, Any]:
    """The times of queries on the indexes, and of their stages."""
    rows: dict[str, Any] = {}
    stages = {}
    for (base, others), (added, modes) in product(COMPARED.items(), ASKED.items()):
        indexes = {f"{name}{added}": Index.open(folder / name) for name in (base, *others)}
        answers = {name: answer_with(each, real, depth, modes) for name, each in indexes.items()}
        compacted = f"{base}{added}"
        found = time_answers(answers, chosen)
        for name, index in indexes.items():
            with Timings() as timings:
                hits = [answers[name](row) for row in chosen]
            equal = [
                answers[compacted](row) == line for row, line in zip(chosen, hits, strict=True)
            ]
            rows[name] = {
                **found[name],
                "same": round(sum(equal) / len(equal), 3),
                "segments": len(index.manifest.segments),
                "kb_a_document": kilobytes(index),
            }
            stages[name] = {
                stage: round(times["p50"], 3) for stage, times in timings.milliseconds().items()
            }
    return {"queries": rows, "stages_median_ms": stages}


def kilobytes(index: Index) -> float:
    """Of a document on disk."""
    return round(sum(index.bytes_by_store().values()) / len(index) / 1000, 1)


def answer_with(index: Index, real: Real, depth: int, modes: Sequence[Mode]) -> Answer:
    """Ten hits of a query by its number."""
    searcher = Searcher(index, cast(Encoder, Asked(real)))
    return lambda row: searcher.search(str(row), depth=depth, modes=modes)


if __name__ == "__main__":
    run_script(main)
