"""Exact top-k by lexical weights: compiled posting lists beside scipy, and Lucene's impact search.

    python eval/benchmarks/sparse_search.py DATA/squad-en DATA/squad-it --documents 1000000 --lucene

The collection is synthetic, with the statistics of an encoding of the sets (synthetic.py), and the
queries are theirs, weighed by the rarity of their terms where the model says so. Every system
answers each query in turn, on one thread; the table on stderr and the JSON on stdout have the
median and the 99th percentile in milliseconds, and how many times as long as this index's a median
is. A few queries are answered by a loop over dictionaries, too, and the ranking has to be the same.

`recall` is the share of the k hits of this index that another one has, `recall_10` that of the ten
best. With --seismic (pip install pyseismic-lsr) Seismic answers, too, from memory, approximately.
All queries at once are answered by one thread and by as many as there are processors.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from measuring import publish
from scipy import sparse as sp
from synthetic import Synthetic, collection_options, encode_asked
from timing import folder_bytes, table, time_answers

from m3search.cli.ending import run_script
from m3search.records import IntArray
from m3search.stores.impacts import IMPACTS, Impacts
from m3search.stores.rarity import rarity
from m3search.stores.sparse import CscStore, CscWriter

AT_ONCE = 10_000
CHECKED = 5
ROUNDS = 5
Answer = Callable[[sp.csr_array], Any]


def main() -> None:
    """Measures as the command line asks, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    collection_options(parser, queries=200)
    parser.add_argument("-k", type=int, default=1000)
    parser.add_argument("--lucene", action="store_true", help="needs the extra m3search[bm25]")
    parser.add_argument("--seismic", action="store_true", help="needs the package pyseismic-lsr")
    asked = parser.parse_args()
    real, chosen = encode_asked(asked)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        parts = collection(Synthetic(real, asked.seed, asked.tokens), asked.documents)
        queries = [real.queries.sparse[[row]] for row in chosen]
        if real.identity.idf:
            queries = weigh(queries, parts)
        stores = {name: write(folder / name, parts, each) for name, each in IMPACTS.items()}
        finders: dict[str, Answer] = {
            f"m3search, {name}": answer_with(store, asked.k) for name, store in stores.items()
        }
        finders["scipy"] = answer_with_scipy(sp.csr_array(parts.T.tocsr()), asked.k)
        answers = dict(finders)
        if asked.lucene:
            from lucene_impacts import LuceneImpacts

            lucene = LuceneImpacts(folder / "lucene", parts, asked.k)
            answers["Lucene impacts"] = lucene.search
            finders["Lucene impacts, read"] = answers["Lucene impacts, read"] = lucene.answer
        if asked.seismic:
            from seismic_search import SETTINGS, Seismic

            seismic = Seismic(parts, asked.k)
            for name in SETTINGS:
                answers[f"Seismic, {name}"] = partial(seismic.search, setting=name)
                finders[f"Seismic, {name}"] = partial(seismic.rows, setting=name)
        check(stores["fp32"], queries[:CHECKED], asked.k)
        rows = time_answers(answers, queries)
        for name, shares in measure_recall(finders, queries).items():
            rows[name] |= shares
        together = answer_together(stores["fp32"], queries, asked.k)
        sizes = {name: folder_bytes(folder / name) for name in stores}
    result = {
        "rows": rows,
        "queries_per_second_together": together,
        "bytes_per_document": {n: s / asked.documents for n, s in sizes.items()},
    }
    publish(asked, {**result, **describe(parts, queries)}, table(rows))


def weigh(queries: Sequence[sp.csr_array], vectors: sp.csr_array) -> list[sp.csr_array]:
    """The queries (1, vocabulary), each weight times the rarity of its term among the vectors."""
    counts = np.bincount(vectors.indices, minlength=vectors.shape[1])
    rare = rarity(counts, vectors.shape[0])
    return [
        sp.csr_array(
            ((query.data * rare[query.indices]).astype(np.float32), query.indices, query.indptr),
            shape=query.shape,
        )
        for query in queries
    ]


def measure_recall(
    finders: Mapping[str, Answer], queries: Sequence[sp.csr_array]
) -> dict[str, dict[str, float]]:
    """System -> share of the hits of the first one, on the mean, of all and of the ten best."""
    hits = {name: [find(query) for query in queries] for name, find in finders.items()}
    exact = [rows[rows >= 0] for rows in next(iter(hits.values()))]
    recall: dict[str, dict[str, float]] = {}
    for name, lines in hits.items():
        pairs = list(zip(exact, lines, strict=True))
        of_all = float(np.mean([_share(best, rows) for best, rows in pairs]))
        of_ten = float(np.mean([_share(best[:10], rows[:10]) for best, rows in pairs]))
        recall[name] = {"recall": round(of_all, 4), "recall_10": round(of_ten, 4)}
    return recall


def _share(wanted: IntArray, found: IntArray) -> float:
    return float(np.isin(wanted, found).mean()) if len(wanted) else 1.0


def collection(source: Synthetic, count: int) -> sp.csr_array:
    """The lexical weights (count, vocabulary)."""
    blocks = [
        source.sparse(range(start, min(start + AT_ONCE, count)))
        for start in range(0, count, AT_ONCE)
    ]
    return sp.csr_array(sp.vstack(blocks, format="csr"))


def write(folder: Path, vectors: sp.csr_array, impacts: Impacts) -> CscStore:
    """The store of all vectors, one segment."""
    folder.mkdir()
    writer = CscWriter(folder, vectors.shape[1], impacts)
    writer.append(vectors)
    writer.finish()
    rows, vocabulary = vectors.shape
    return CscStore(folder, rows, vocabulary, impacts)


def answer_with(store: CscStore, k: int) -> Answer:
    """What this index does."""
    return lambda query: store.retrieve(query, k).rows[0]


def answer_together(store: CscStore, queries: list[sp.csr_array], k: int) -> dict[str, float]:
    """Threads -> queries a second where all are asked at once, the median of some rounds."""
    asked = sp.csr_array(sp.vstack(queries, format="csr"))
    counts = sorted({1, os.cpu_count() or 1})
    seconds: dict[int, list[float]] = {threads: [] for threads in counts}
    for _ in range(ROUNDS):
        for threads in counts:
            faiss.omp_set_num_threads(threads)
            started = time.perf_counter()
            store.retrieve(asked, k)
            seconds[threads].append(time.perf_counter() - started)
    count = len(queries)
    return {str(n): round(count / float(np.median(spent)), 1) for n, spent in seconds.items()}


def answer_with_scipy(lists: sp.csr_array, k: int) -> Answer:
    """The product of a query with the posting lists (vocabulary, documents), and its k highest."""

    def answer(query: sp.csr_array) -> IntArray:
        scores = sp.csr_array(query @ lists)
        most = min(k, scores.nnz)
        kept = np.argpartition(-scores.data, most - 1)[:most] if most else np.zeros(0, np.int64)
        order = kept[np.argsort(-scores.data[kept], kind="stable")]
        return np.asarray(scores.indices[order], dtype=np.int64)

    return answer


def check(store: CscStore, queries: list[sp.csr_array], k: int) -> None:
    """RuntimeError unless the index ranks as a loop over dictionaries does."""
    table = store.table
    ends = pairwise(table.indptr.tolist())
    spans = dict(zip(table.terms.tolist(), ends, strict=True))
    for query in queries:
        total: dict[int, float] = {}
        pairs = sorted(zip(query.indices.tolist(), query.data.tolist(), strict=True))
        for term, weight in pairs:
            span = slice(*spans.get(term, (0, 0)))
            postings = zip(store.rows[span].tolist(), store.codes[span].tolist(), strict=True)
            for row, held in postings:
                total[row] = total.get(row, 0.0) + weight * held
        scores = {row: float(np.float32(score)) for row, score in total.items()}
        best = sorted(scores, key=lambda row: (-scores[row], row))[:k]
        found = store.retrieve(query, k).rows[0]
        if found[found >= 0].tolist() != best:
            raise RuntimeError("the index and a loop over dictionaries rank differently")


def describe(vectors: sp.csr_array, queries: list[sp.csr_array]) -> dict[str, Any]:
    """What was searched."""
    frequencies = np.bincount(vectors.indices, minlength=vectors.shape[1])
    touched = [int(frequencies[query.indices].sum()) for query in queries]
    return {
        "documents": vectors.shape[0],
        "terms_per_document": round(vectors.nnz / vectors.shape[0], 1),
        "terms_per_query": round(float(np.mean([query.nnz for query in queries])), 1),
        "postings_per_query": int(np.median(touched)),
    }


if __name__ == "__main__":
    run_script(main)
