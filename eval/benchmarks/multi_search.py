"""Top-k by token vectors over a whole segment: its token lists beside a scan of all documents.

    python eval/benchmarks/multi_search.py DATA/squad-en DATA/squad-it --documents 100000

The collection is synthetic, with the statistics of an encoding of the sets (synthetic.py), and the
queries are theirs. All sides answer each query in turn; the table on stderr and the JSON on stdout
have medians and 99th percentiles in milliseconds, how many times as long as the lists' a median is,
and the share that is found of the best 10 and of the best k by MaxSim of the vectors before they
are stored in fewer bits. With --fast-plaid the package of that name indexes the same vectors, too,
with its defaults. It needs the torch that it is built for (2.11 for version 1.7.0.2110) and ends
with a segmentation fault beside another one. Its index of 2,000 documents takes a minute of one
thread, and the minutes grow faster than the documents.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import publish
from synthetic import Synthetic, collection_options, encode_asked
from timing import folder_bytes, table, time_answers

from m3search.cli.ending import run_script
from m3search.errors import ConfigError
from m3search.fusion import top_k
from m3search.records import FloatArray, IntArray
from m3search.scoring import maxsim_many
from m3search.stores.codecs import find_codec
from m3search.stores.multi import VectorStore
from m3search.stores.multi_writer import VectorWriter
from m3search.stores.token_lists import TokenLists, write_token_lists

AT_ONCE = 5_000
Answer = Callable[[FloatArray], IntArray]


def main() -> None:
    """Measures as the command line asks, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    collection_options(parser, queries=50)
    parser.add_argument("--codec", default="int4")
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--fast-plaid", action="store_true", help="needs the package fast-plaid")
    asked = parser.parse_args()
    real, chosen = encode_asked(asked)
    queries = [real.queries.multi[row] for row in chosen]
    source = Synthetic(real, asked.seed, asked.tokens)
    count, dim = asked.documents, real.identity.multi_dim
    codec = find_codec(asked.codec)
    exact = best_by_maxsim(source, count, queries, asked.k)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        seconds["vectors"] = write(folder, source, count, asked.codec)
        whole = VectorStore(folder, count, dim, codec)
        stored = folder_bytes(folder)
        started = time.perf_counter()
        write_token_lists(folder, whole.tokens, whole.count(), count)
        seconds["lists"] = time.perf_counter() - started
        listed = VectorStore(folder, count, dim, codec, TokenLists(folder, count, codec.width(dim)))
        sizes = {"vectors": stored, "lists": folder_bytes(folder) - stored}
        answers: dict[str, Answer] = {
            "token lists": lambda query: listed.retrieve([query], asked.k).rows[0],
            "all documents": lambda query: whole.retrieve([query], asked.k).rows[0],
        }
        if asked.fast_plaid:
            plaid = folder / "plaid"
            answers["fast-plaid"], spent = answer_with_plaid(plaid, source, count, asked.k)
            seconds["fast-plaid"], sizes["fast-plaid"] = spent, folder_bytes(plaid)
        rows = time_answers(answers, queries)
        for name, answer in answers.items():
            rows[name] |= recalls(answer, exact, queries)
    result = {
        "rows": rows,
        "seconds_to_build": {name: round(spent, 1) for name, spent in seconds.items()},
        "bytes_per_document": {name: round(size / count) for name, size in sizes.items()},
    }
    publish(asked, result, table(rows))


def best_by_maxsim(
    source: Synthetic, count: int, queries: Sequence[FloatArray], k: int
) -> list[IntArray]:
    """The k best of the first documents for each query, by their vectors in full."""
    best: list[tuple[IntArray, FloatArray]] = [
        (np.zeros(0, np.int64), np.zeros(0, np.float32))
    ] * len(queries)
    for start in range(0, count, AT_ONCE):
        rows = range(start, min(start + AT_ONCE, count))
        texts = source.multi(rows)
        vectors = np.concatenate(texts)
        offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
        for number, query in enumerate(queries):
            held = np.concatenate([best[number][0], rows])
            scores = np.concatenate([best[number][1], maxsim_many(query, vectors, offsets)])
            best[number] = top_k(held, scores, k)
    return [found for found, _ in best]


def write(folder: Path, source: Synthetic, count: int, codec: str) -> float:
    """Stores the token vectors of the first documents as a segment does; the seconds it took."""
    writer = VectorWriter(folder, find_codec(codec))
    seconds = 0.0
    for start in range(0, count, AT_ONCE):
        texts = source.multi(range(start, min(start + AT_ONCE, count)))
        started = time.perf_counter()
        writer.append(texts)
        seconds += time.perf_counter() - started
    started = time.perf_counter()
    writer.finish()
    return seconds + time.perf_counter() - started


def recalls(
    answer: Answer, exact: Sequence[IntArray], queries: Sequence[FloatArray]
) -> dict[str, float]:
    """The mean share of the best 10 and of all of the exact answers (k,)."""
    shares: dict[int, list[float]] = {10: [], len(exact[0]): []}
    for query, best in zip(queries, exact, strict=True):
        found = answer(query)
        for most, values in shares.items():
            values.append(len({*best[:most].tolist()} & {*found[:most].tolist()}) / most)
    return {f"recall@{most}": round(float(np.mean(values)), 4) for most, values in shares.items()}


def answer_with_plaid(folder: Path, source: Synthetic, count: int, k: int) -> tuple[Answer, float]:
    """What fast-plaid answers, with its defaults, on the CPU, and the seconds to index for it."""
    try:
        from fast_plaid import search
    except ImportError as error:
        raise ConfigError(
            "--fast-plaid",
            expected="the package fast-plaid, which this compares with",
            found=str(error),
            remedy="Install it (pip install fast-plaid usearch) and the torch it is built for.",
        ) from error
    index: Any = search.FastPlaid(index=str(folder), device="cpu")
    vectors = [torch.from_numpy(each) for each in source.multi(range(count))]
    started = time.perf_counter()
    index.create(documents_embeddings=vectors)
    seconds = time.perf_counter() - started

    def answer(query: FloatArray) -> IntArray:
        (hits,) = index.search(queries_embeddings=torch.from_numpy(query)[None], top_k=k)
        return np.array([row for row, _ in hits], dtype=np.int64)

    return answer, seconds


if __name__ == "__main__":
    run_script(main)
