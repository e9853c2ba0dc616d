"""Top-k by token vectors over a whole segment: its token lists beside a scan of all documents.

    python eval/benchmarks/multi_search.py DATA/squad-en DATA/squad-it --documents 100000

The collection is synthetic, with the statistics of an encoding of the sets (synthetic.py), and the
queries are theirs. Both answer each query in turn; the table on stderr and the JSON on stdout have
medians and 99th percentiles in milliseconds, how many times as long as the lists' a median is, and
the share of the best 10 and of the best k that the lists find. With --fast-plaid the package of
that name, where it is installed, indexes the same vectors, too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import publish
from synthetic import Synthetic, collection_options, encode_asked
from timing import folder_bytes, table, time_answers

from m3search.cli.ending import run_script
from m3search.records import FloatArray, IntArray
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
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(folder, source, count, asked.codec)
        whole = VectorStore(folder, count, dim, codec)
        stored = folder_bytes(folder)
        started = time.perf_counter()
        write_token_lists(folder, whole.tokens, whole.count(), count)
        built = time.perf_counter() - started
        listed = VectorStore(folder, count, dim, codec, TokenLists(folder, count, codec.width(dim)))
        answers: dict[str, Answer] = {
            "token lists": lambda query: listed.retrieve([query], asked.k).rows[0],
            "all documents": lambda query: whole.retrieve([query], asked.k).rows[0],
        }
        if asked.fast_plaid:
            answers["fast-plaid"] = answer_with_plaid(folder / "plaid", source, count, asked.k)
        rows = time_answers(answers, queries)
        for name, answer in answers.items():
            rows[name] |= recalls(answer, answers["all documents"], queries, asked.k)
        sizes = {"vectors": stored, "lists": folder_bytes(folder) - stored}
    result = {
        "rows": rows,
        "seconds_for_the_lists": round(built, 1),
        "bytes_per_document": {name: size / count for name, size in sizes.items()},
    }
    publish(asked, result, table(rows))


def write(folder: Path, source: Synthetic, count: int, codec: str) -> None:
    """The token vectors of the first documents, as a segment has them."""
    writer = VectorWriter(folder, find_codec(codec))
    for start in range(0, count, AT_ONCE):
        writer.append(source.multi(range(start, min(start + AT_ONCE, count))))
    writer.finish()


def recalls(
    answer: Answer, exact: Answer, queries: list[FloatArray], k: int
) -> dict[str, float | str]:
    """The mean share of the best 10 and of the best k."""
    shares: dict[int, list[float]] = {10: [], k: []}
    for query in queries:
        best, found = exact(query), answer(query)
        for most, values in shares.items():
            values.append(len({*best[:most].tolist()} & {*found[:most].tolist()}) / most)
    return {f"recall@{most}": round(float(np.mean(values)), 4) for most, values in shares.items()}


def answer_with_plaid(folder: Path, source: Synthetic, count: int, k: int) -> Answer:
    """What fast-plaid answers, with its defaults, on the CPU."""
    import torch
    from fast_plaid import search

    index: Any = search.FastPlaid(index=str(folder), device="cpu")
    vectors = [torch.from_numpy(each) for each in source.multi(range(count))]
    index.create(documents_embeddings=vectors)

    def answer(query: FloatArray) -> IntArray:
        (hits,) = index.search(queries_embeddings=torch.from_numpy(query)[None], top_k=k)
        return np.array([row for row, _ in hits], dtype=np.int64)

    return answer


if __name__ == "__main__":
    run_script(main)
