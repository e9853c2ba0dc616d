"""Passages a second of `Encoder.encode`, by precision, beside FlagEmbedding with the same weights.

    python eval/benchmarks/encoding.py DATA/*/corpus.jsonl.gz --documents 2000 --flagembedding

The documents are drawn from all corpora alike, so that lengths and languages are mixed; every one
is encoded in all three modes. The systems encode the same documents in each of the rounds, one
after the other, so that what else the machine does meets all of them; the median of the rounds
counts. FlagEmbedding runs with its defaults, but for the lengths, which are m3search's, and for
the modes, of which it makes the dense one alone by default. With --openvino that backend encodes
them, too, in the same precisions. The JSON on stdout has, for each system, documents and tokens a
second and the ratio to the first one.

    python eval/benchmarks/encoding.py DATA/*/corpus.jsonl.gz --documents 2000 --untrained \
        --precisions bfloat16 --flagembedding --peak 989    # an H100 or H200: its bf16 TFLOP/s

With --untrained the checkpoint has the shape of BAAI/bge-m3 and random weights. --peak is what the
device could do by its data sheet: the share of it is that of the products of the layers.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from measuring import no_flagembedding, publish
from timing import table
from untrained import operations, write_untrained

from m3search.cli.ending import run_script
from m3search.corpus import document_text, read_corpus
from m3search.encoder import Encoder
from m3search.model.backend import Backend
from m3search.model.resolve import resolve

FIRST = 64
"""documents that each system encodes before the clock runs"""
READ = 20_000
"""documents of a corpus that are drawn from"""
Encode = Callable[[list[str]], object]


def main() -> None:
    """Measures as the command line asks, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path, nargs="+", help="JSON lines of documents")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", help="a checkpoint; by default the embedded m3-mini")
    model.add_argument("--untrained", action="store_true", help="random weights, a large model")
    parser.add_argument("--documents", type=int, default=512, help="how many, of all together")
    parser.add_argument("--max-length", type=int, help="tokens; by default those of the model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument(
        "--openvino", action="store_true", help="needs the extra m3search[openvino]"
    )
    parser.add_argument("--flagembedding", action="store_true", help="needs that package")
    parser.add_argument(
        "--peak", type=float, help="of the device in all of the precisions, in TFLOP/s"
    )
    parser.add_argument("--out", type=Path, help="a file for the JSON")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.untrained:
            write_untrained(Path(folder))
        run(asked, folder if asked.untrained else asked.model)


def run(asked: argparse.Namespace, model: str | None) -> None:
    """Measures a checkpoint."""
    texts = draw(asked.corpus, asked.documents, asked.seed)
    loaded = load_encoders(asked, model)
    first = next(iter(loaded.values()))
    systems: dict[str, Encode] = {name: one.encode for name, one in loaded.items()}
    if asked.flagembedding:
        systems["FlagEmbedding"] = encode_with_flag(first)
    lengths = [len(vectors) + 1 for vectors in first.encode(texts).multi]
    seconds = measure(systems, texts, asked.rounds)
    rows = compare(seconds, len(texts), sum(lengths))
    if asked.peak:
        done = operations(first.model, lengths) / 1e12
        for name, spent in seconds.items():
            rows[name]["share_of_peak"] = round(done / spent / asked.peak, 3)
    result = {
        "sets": [path.parent.name for path in asked.corpus],
        "tokens": {
            "mean": round(float(np.mean(lengths)), 1),
            "median": float(np.median(lengths)),
            "longest": max(lengths),
        },
        "rows": rows,
    }
    publish(asked, result, table(rows))


def load_encoders(asked: argparse.Namespace, model: str | None) -> dict[str, Encoder]:
    """m3search by precision and, if asked, by backend."""
    backends: list[Backend] = ["torch", "openvino"] if asked.openvino else ["torch"]
    return {
        f"m3search, {name}" + (" by OpenVINO" if backend == "openvino" else ""): Encoder.load(
            model, dtype=name, max_length=asked.max_length, backend=backend
        )
        for backend in backends
        for name in asked.precisions
    }


def draw(corpora: list[Path], documents: int, seed: int) -> list[str]:
    """So many texts, from each of the corpora as many, in any order."""
    rng = np.random.default_rng(seed)
    texts = []
    for path, share in zip(
        corpora, np.array_split(np.arange(documents), len(corpora)), strict=True
    ):
        held = [document_text(document) for document in islice(read_corpus(path), READ)]
        chosen = rng.permutation(len(held))[: len(share)]
        texts += [held[row] for row in chosen]
    rng.shuffle(texts)
    return texts


def encode_with_flag(encoder: Encoder) -> Encode:
    """FlagEmbedding's own encoder on the same checkpoint, in its default precision and batches."""
    try:
        from FlagEmbedding import BGEM3FlagModel
    except ImportError as error:
        raise no_flagembedding(error) from error
    identity = encoder.identity
    with quiet():
        model: Any = BGEM3FlagModel(
            str(resolve(identity.name)[1]),
            devices=str(encoder.device),
            pooling_method=identity.pooling,
            colbert_dim=identity.multi_dim,
            passage_max_length=identity.max_length,
        )

    def encode(texts: list[str]) -> object:
        with quiet():
            return model.encode_corpus(texts, return_sparse=True, return_colbert_vecs=True)

    return encode


@contextlib.contextmanager
def quiet() -> Any:
    """Without the bars and warnings of others."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def measure(systems: Mapping[str, Encode], texts: list[str], rounds: int) -> dict[str, float]:
    """System -> the median seconds in which it encodes the texts."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for encode in systems.values():
        encode(texts[:FIRST])  # the first call compiles and allocates
    for _ in range(rounds):
        for name, encode in systems.items():
            started = time.perf_counter()
            encode(texts)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(spent) for name, spent in seconds.items()}


def compare(seconds: Mapping[str, float], documents: int, tokens: int) -> dict[str, dict[str, Any]]:
    """System -> what it encodes a second, and how many times as much as the first one."""
    base = next(iter(seconds.values()))
    return {
        name: {
            "documents_per_second": round(documents / spent, 1),
            "tokens_per_second": round(tokens / spent),
            "speed": round(base / spent, 2),
        }
        for name, spent in seconds.items()
    }


if __name__ == "__main__":
    run_script(main)
