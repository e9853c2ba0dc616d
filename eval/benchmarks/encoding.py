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

from m3search.cli.ending import run_script
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
    read = islice(read_corpus(asked.corpus), asked.documents)
    texts = [document_text(document) for document in read]
    encoders = {name: Encoder.load(asked.model, dtype=name) for name in asked.precisions}
    first = next(iter(encoders.values()))
    tokens = sum(len(vectors) + 1 for vectors in first.encode(texts).multi)
    report = {
        "documents": len(texts),
        "tokens_per_document": round(tokens / len(texts), 1),
        "threads": torch.get_num_threads(),
        "device": str(first.device),
        "rows": compare(measure(encoders, texts, asked.rounds), len(texts), tokens),
    }
    print(json.dumps(report, indent=2))


def measure(encoders: dict[str, Encoder], texts: list[str], rounds: int) -> dict[str, float]:
    """Precision -> the median seconds in which its encoder encodes the texts."""
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for encoder in encoders.values():
        encoder.encode(texts[:64])  # the first call compiles and allocates
    for _ in range(rounds):
        for name, encoder in encoders.items():
            started = time.perf_counter()
            encoder.encode(texts)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(spent) for name, spent in seconds.items()}


def compare(seconds: dict[str, float], documents: int, tokens: int) -> dict[str, dict[str, float]]:
    """Precision -> what it encodes a second, and how many times as much as the first one."""
    base = next(iter(seconds))
    return {
        name: {
            "documents_per_second": round(documents / spent, 1),
            "tokens_per_second": round(tokens / spent),
            f"times_{base}": round(seconds[base] / spent, 2),
        }
        for name, spent in seconds.items()
    }


if __name__ == "__main__":
    run_script(main)
