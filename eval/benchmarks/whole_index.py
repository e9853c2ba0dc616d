"""An index of any size, from encoded documents to answers: time, memory, bytes, and each stage.

    python eval/benchmarks/whole_index.py DATA/squad-en DATA/squad-it --documents 1000000 --lucene

The collection is synthetic, with the statistics of an encoding of the sets (synthetic.py), and the
queries are theirs, encoded before the clock runs. The JSON on stdout, and in short the table on
stderr, have: documents a second of the build without the making of the vectors, the memory that it
held at its peak beyond what the process had before, bytes of a document in each store; the median
and the 99th percentile of a whole search and of each of its stages, of searches with filters that
one of ten and one of a thousand documents match, the same for all queries, so that what they allow
is known from the query before, of searches with a filter for one of a thousand that is another for
each query, so that it is looked up, and of searches after one of a hundred documents was deleted;
and, with --lucene, those of Lucene's BM25 for 1,000 hits, on documents of the same words.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import torch
from measuring import peak_bytes, publish
from synthetic import NUMBERS, Clocked, Real, Synthetic, collection_options, encode_asked
from timing import WARM, table, time_answers

from m3search.cli.ending import run_script
from m3search.errors import ConfigError
from m3search.index import Index
from m3search.records import Document, Query
from m3search.search import EncodedQueries, Searcher
from m3search.stores.commit import check_model
from m3search.timings import Timings

MB = 1e6


def main() -> None:
    """Measures as the command line asks, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    collection_options(parser, queries=200)
    parser.add_argument("--depth", type=int, default=200)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--lucene", action="store_true", help="needs the extra m3search[bm25]")
    parser.add_argument("--index", type=Path, help="where it is made, gone on with, or is")
    parser.add_argument("--keep", action="store_true", help="delete nothing from that index")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    faiss.omp_set_num_threads(asked.threads)
    real, chosen = encode_asked(asked)
    source = Clocked(real, asked.seed, asked.tokens)
    with tempfile.TemporaryDirectory() as place:
        folder = asked.index or Path(place) / "index"
        result: dict[str, Any] = {}
        begun = folder.exists()
        if not begun or not Index.open(folder).manifest.complete:
            built = build(folder, source, asked.documents)
            if not begun:  # else these are the times of a part
                result["build"] = built
        index = Index.open(folder)
        check(index, real, asked.documents)
        result |= search(index, real, source, chosen, asked)
    publish(asked, result, table(result["rows"]))


def check(index: Index, real: Real, documents: int) -> None:
    """ConfigError unless the index is of so many documents, and of the model of the queries."""
    check_model(index.path, index.manifest.model, real.identity)
    if len(index) != documents:
        raise ConfigError(
            "--index",
            expected=f"an index of {documents:,} documents",
            found=f"one of {len(index):,}",
            remedy="Give another folder, or --documents.",
        )


def build(folder: Path, source: Clocked, count: int) -> dict[str, Any]:
    """Builds the index; what that cost."""
    started = time.perf_counter()
    peak = peak_bytes(
        lambda: Index.build(folder, source.documents(count), source), torch.device("cpu")
    )
    seconds = time.perf_counter() - started - source.seconds
    index = Index.open(folder)
    return {
        "documents_per_second": round(count / seconds, 1),
        "peak_mb": round(peak / MB),
        "bytes_per_document": {
            store: round(size / count, 1) for store, size in index.bytes_by_store().items()
        },
        "segments": [segment.rows for segment in index.manifest.segments],
    }


def search(
    index: Index, real: Real, source: Synthetic, chosen: Sequence[int], asked: argparse.Namespace
) -> dict[str, Any]:
    """The times of whole searches, beside Lucene's, and of their stages."""
    whole = Searcher(index.pinned())

    def ours(row: int, searcher: Searcher = whole, wanted: str | None = None) -> object:
        asking = EncodedQueries((str(row),), real.queries[row : row + 1])
        return searcher.run(asking, k=100, depth=asked.depth, filter=wanted)

    answers: dict[str, Callable[[int], object]] = {"m3search, all modes": ours}
    if asked.lucene:
        answers["Lucene BM25"] = answer_with_lucene(real, source, asked.documents)
    for name, wanted in (("1 of 10", f"n<{NUMBERS // 10}"), ("1 of 1,000", "n=7")):
        answers[f"m3search, a filter for {name}"] = partial(ours, wanted=wanted)
    answers["m3search, another filter for 1 of 1,000 each time"] = lambda row: ours(
        row, wanted=f"n={row % NUMBERS}"
    )
    if not asked.keep:  # the commit before stays open beside the one with deletes
        index.delete(f"d{number}" for number in range(0, asked.documents, 100))
        answers["m3search, 1 of 100 deleted"] = partial(ours, searcher=Searcher(index))
    rows = time_answers(answers, chosen)
    with Timings() as timings:
        for row in chosen[WARM:]:
            ours(row)
    stages = {
        name: {percentile: round(value, 3) for percentile, value in found.items()}
        for name, found in timings.milliseconds().items()
    }
    return {"rows": rows, "stages_ms": stages}


def answer_with_lucene(real: Real, source: Synthetic, count: int) -> Callable[[int], object]:
    """What Lucene's BM25 answers to a question in words."""
    from m3search.evaluation.bm25 import Language
    from m3search.evaluation.lucene import LuceneBM25

    documents = (Document(f"d{number}", source.text(number)) for number in range(count))
    lucene = LuceneBM25(documents, Language("en", "given"))
    return lambda row: lucene.run([Query("q", real.questions[row])], k=1000)


if __name__ == "__main__":
    run_script(main)
