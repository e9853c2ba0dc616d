"""What each way to store token vectors costs and keeps: bytes, cosines, nDCG@10, re-ranking time.

    python eval/benchmarks/token_codecs.py DATA/squad-en DATA/squad-it DATA/cmrc DATA/cacm

Every set is encoded once and indexed in each way. The table on stderr and the JSON on stdout have,
for each, the bytes of a document, the mean cosine of a vector and what is stored of it, nDCG@10 of
multi alone and of all modes less those of fp16 without pooling, and the milliseconds in which 200
candidates are scored, one after the other, the median over the queries of the first set.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import publish
from synthetic import Real, encode_set

from m3search.cli.ending import run_script
from m3search.corpus import read_qrels
from m3search.encoder import Encoder
from m3search.evaluation import evaluate
from m3search.index import Index
from m3search.records import Document, Encoded, Kind, ModelIdentity, Qrels
from m3search.search import EncodedQueries, Searcher
from m3search.stores.codecs import CODECS

MEASURE = "nDCG@10"
CANDIDATES = 200
QUERIES_TIMED = 100
POOLINGS = (1, 2, 3)


@dataclass(frozen=True)
class Held:
    """An encoder that knows its texts: the text of document 7 is "7"."""

    identity: ModelIdentity
    documents: Encoded

    def encode(self, texts: Sequence[str], kind: Kind = "document") -> Encoded:
        """The documents whose numbers the texts are; the last word counts."""
        numbers = [int(text.split()[-1]) for text in texts]
        return self.documents[numbers[0] : numbers[-1] + 1]

    def passages(self, text: str, tokens: int, overlap: int = 0) -> list[tuple[int, int]]:
        """One: a number is not cut."""
        return [(0, len(text))]


def main() -> None:
    """Measures as the command line asks, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", type=Path, nargs="+", help="BEIR folders")
    parser.add_argument("--model", help="a checkpoint; by default the embedded m3-mini")
    parser.add_argument("--codecs", nargs="+", default=list(CODECS), help="fp16 comes first")
    parser.add_argument("--kept", type=Path, default=Path("indexes/encoded"), help="for encodings")
    parser.add_argument("--out", type=Path, help="a file for the JSON")
    asked = parser.parse_args()
    encoder = Encoder.load(asked.model)
    ways = [(name, pooling) for name in asked.codecs for pooling in POOLINGS]
    rows: dict[str, dict[str, Any]] = {f"{name}, {pooling}": {} for name, pooling in ways}
    for number, folder in enumerate(asked.sets):
        real = encode_set(folder, encoder, asked.kept)
        for name, pooling in ways:
            found = measure(real, folder, name, pooling, timed=number == 0)
            rows[f"{name}, {pooling}"][folder.name] = found
    publish(asked, {"sets": rows, "summary": summarise(rows)}, table(summarise(rows)))


def measure(real: Real, folder: Path, codec: str, pooling: int, *, timed: bool) -> dict[str, Any]:
    """Bytes, quality and time of one way on one set."""
    documents = [Document(name, str(row)) for row, name in enumerate(real.document_ids)]
    with tempfile.TemporaryDirectory() as place:
        index = Index.build(
            Path(place) / "index",
            documents,
            Held(real.identity, real.documents),
            multi_codec=codec,
            multi_pooling=pooling,
        )
        searcher = Searcher(index)
        queries = EncodedQueries(tuple(real.query_ids), real.queries)
        runs = {
            "multi": searcher.run(queries, modes=("multi",)),
            "all": searcher.run(queries),
        }
        qrels: Qrels = read_qrels(next(iter(sorted((folder / "qrels").glob("test.tsv*")))))
        found = evaluate(runs, qrels, [MEASURE]).to_json()["rows"]
        check = index.manifest.codec_check
        return {
            "bytes_per_document": index.bytes_by_store()["multi"] / len(documents),
            "cosine": check.mean_cosine if check else None,
            "multi": found["multi"][MEASURE],
            "all": found["all"][MEASURE],
            **({"milliseconds": time_reranking(index, real.queries)} if timed else {}),
        }


def time_reranking(index: Index, queries: Encoded) -> float:
    """The median milliseconds in which 200 rows are scored for a query."""
    rng = np.random.default_rng(0)
    rows = [
        rng.choice(index.rows, min(CANDIDATES, index.rows), replace=False)
        for _ in range(QUERIES_TIMED)
    ]
    spent = []
    for number, chosen in enumerate(rows):
        query = queries[number % len(queries) : number % len(queries) + 1]
        started = time.perf_counter()
        index.scores("multi", query, chosen)
        spent.append(time.perf_counter() - started)
    return 1000 * statistics.median(spent)


def summarise(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Way -> means over the sets; quality in points, as the difference to fp16 without pooling."""
    summary = {}
    base = rows["fp16, 1"]
    for name, sets in rows.items():
        mean = statistics.mean
        summary[name] = {
            "bytes_per_document": mean(each["bytes_per_document"] for each in sets.values()),
            "share_of_bytes": mean(
                each["bytes_per_document"] / base[key]["bytes_per_document"]
                for key, each in sets.items()
            ),
            "cosine": mean(each["cosine"] for each in sets.values()),
            "multi": 100 * mean(each["multi"] - base[key]["multi"] for key, each in sets.items()),
            "all": 100 * mean(each["all"] - base[key]["all"] for key, each in sets.items()),
            "milliseconds": next(
                each["milliseconds"] for each in sets.values() if "milliseconds" in each
            ),
        }
    return summary


def table(summary: dict[str, dict[str, float]]) -> str:
    """For people."""
    lines = ["codec, pooling  bytes/doc  share  cosine  multi    all  ms/200"]
    for name, row in summary.items():
        lines.append(
            f"{name:<14} {row['bytes_per_document']:>10.0f} {row['share_of_bytes']:>6.2f} "
            f"{row['cosine']:>7.4f} {row['multi']:>+6.2f} {row['all']:>+6.2f} "
            f"{row['milliseconds']:>7.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
