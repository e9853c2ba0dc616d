"""Passages a second of `Encoder.encode`, by precision, on the documents of a corpus.

    python eval/benchmarks/encoding.py DATA/squad-en/corpus.jsonl.gz

Every precision encodes the same documents in each of the rounds, one after the other, so that
what else the machine does meets all of them; the median of the rounds counts. The JSON on stdout
holds, for each precision, the passages and tokens a second and the ratio to float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import islice
from pathlib import Path

import torch

from m3search.corpus import document_text, read_corpus
from m3search.encoder import Encoder


def main() -> None:
    """Measures as the command line asks, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path, help="JSON lines of documents")
    parser.add_argument("--model", help="a checkpoint; by default the embedded m3-mini")
    parser.add_argument("--documents", type=int, default=512, help="how many, from the start")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    asked = parser.parse_args()
    texts = [
        document_text(document) for document in islice(read_corpus(asked.corpus), asked.documents)
    ]
    encoders = {name: Encoder.load(asked.model, dtype=name) for name in asked.precisions}
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for encoder in encoders.values():
        encoder.encode(texts[:64])  # the first call compiles and allocates
    tokens = sum(len(vectors) + 1 for vectors in next(iter(encoders.values())).encode(texts).multi)
    for _ in range(asked.rounds):
        for name, encoder in encoders.items():
            started = time.perf_counter()
            encoder.encode(texts)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(rounds) for name, rounds in seconds.items()}
    base = medians[asked.precisions[0]]
    print(
        json.dumps(
            {
                "documents": len(texts),
                "tokens_per_document": round(tokens / len(texts), 1),
                "threads": torch.get_num_threads(),
                "device": str(next(iter(encoders.values())).device),
                "rows": {
                    name: {
                        "documents_per_second": round(len(texts) / median, 1),
                        "tokens_per_second": round(tokens / median),
                        f"times_{asked.precisions[0]}": round(base / median, 2),
                    }
                    for name, median in medians.items()
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
