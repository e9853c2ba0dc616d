"""Top-k by dense vectors in one large segment: its clusters beside a scan of all vectors.

    python eval/benchmarks/dense_search.py DATA/squad-en DATA/squad-it --documents 1000000

The collection is synthetic, with the statistics of an encoding of the sets (synthetic.py), and the
queries are theirs. Both answer each query in turn, on one thread and on all; the table on stderr
and the JSON on stdout have medians and 99th percentiles in milliseconds, how many times as long as
the clusters' a median is, and the share of the k best that the clusters find, beside the one that
the index measured itself. Where FAISS has a GPU, CUDA_VISIBLE_DEVICES= keeps it out.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from measuring import publish
from synthetic import Synthetic, collection_options, encode_asked
from timing import folder_bytes, table, time_answers

from m3search.cli.ending import run_script
from m3search.records import FloatArray
from m3search.stores.clusters import Clusters, write_clusters
from m3search.stores.dense import FlatStore, FlatWriter

AT_ONCE = 10_000


def main() -> None:
    """Measures as the command line asks, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    collection_options(parser, queries=200)
    parser.add_argument("-k", type=int, default=100)
    asked = parser.parse_args()
    real, chosen = encode_asked(asked)
    queries = [real.queries.dense[[row]] for row in chosen]
    with tempfile.TemporaryDirectory() as place:
        folder, count = Path(place), asked.documents
        write(folder, Synthetic(real, asked.seed, asked.tokens), count)
        flat = FlatStore(folder, count, real.identity.dim)
        exact_bytes = folder_bytes(folder)
        _, details = write_clusters(folder, flat.matrix)
        clusters = Clusters(folder, count, real.identity.dim, details)
        near = FlatStore(folder, count, real.identity.dim, clusters)
        rows: dict[str, Any] = {}
        for threads in sorted({1, os.cpu_count() or 1}):
            answers: dict[str, Callable[[FloatArray], object]] = {
                f"clusters, {threads} threads": on_threads(near, asked.k, threads),
                f"all vectors, {threads} threads": on_threads(flat, asked.k, threads),
            }
            rows |= time_answers(answers, queries)
        found = np.mean([share(near, flat, query, asked.k) for query in queries])
        sizes = {"vectors": exact_bytes, "clusters": folder_bytes(folder) - exact_bytes}
    result = {
        "rows": rows,
        f"recall@{asked.k}": round(float(found), 4),
        "measured_when_written": details,
        "bytes_per_document": {name: round(size / count) for name, size in sizes.items()},
    }
    publish(asked, result, f"{table(rows)}\nrecall@{asked.k} of the clusters: {found:.4f}")


def write(folder: Path, source: Synthetic, count: int) -> None:
    """The dense vectors of the first documents, as a segment has them."""
    writer = FlatWriter(folder, source.identity.dim)
    for start in range(0, count, AT_ONCE):
        writer.append(source.dense(range(start, min(start + AT_ONCE, count))))
    writer.finish()


def on_threads(store: FlatStore, k: int, threads: int) -> Callable[[FloatArray], object]:
    """What the store answers when FAISS has so many threads."""

    def answer(query: FloatArray) -> object:
        faiss.omp_set_num_threads(threads)
        return store.retrieve(query, k)

    return answer


def share(near: FlatStore, flat: FlatStore, query: FloatArray, k: int) -> float:
    """Of the k best of one query, the share that is found."""
    best, found = (set(store.retrieve(query, k).rows[0].tolist()) for store in (flat, near))
    return len(best & found) / len(best)


if __name__ == "__main__":
    run_script(main)
