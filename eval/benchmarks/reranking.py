"""Scoring the candidates of a query by MaxSim: this index's stores beside FlagEmbedding and PyLate.

    python eval/benchmarks/reranking.py DATA/squad-en --threads 1

The vectors are those of real passages of 96 to 160 tokens, drawn with repetition to --candidates a
query, and of real queries. FlagEmbedding scores pairs by its `colbert_score`, one after the other
as its `compute_score` does; PyLate by `rank.rerank`, where it is installed (--pylate). Each has the
vectors at hand as it wants them; this index reads its own from disk. The table on stderr and the
JSON on stdout have medians and 99th percentiles in milliseconds, how many times as long as the
default codec's a median is, and the largest difference of a score to MaxSim in float64.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from measuring import no_flagembedding, publish
from synthetic import encode_set
from timing import table, time_answers

from m3search.cli.ending import run_script
from m3search.encoder import Encoder
from m3search.records import FloatArray, IntArray
from m3search.scoring import maxsim
from m3search.stores.codecs import CODECS, find_codec
from m3search.stores.manifest import DEFAULT_LAYOUT
from m3search.stores.multi import VectorStore
from m3search.stores.multi_writer import VectorWriter

TOKENS = (96, 160)


class Task(NamedTuple):
    """A query and its candidates, by number."""

    query: FloatArray
    rows: IntArray


Answer = Callable[[Task], Any]


def main() -> None:
    """Measures as the command line asks, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", type=Path, help="a BEIR folder")
    parser.add_argument("--model", help="a checkpoint; by default the embedded m3-mini")
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pylate", action="store_true", help="needs the package pylate")
    parser.add_argument("--kept", type=Path, default=Path("indexes/encoded"), help="for encodings")
    parser.add_argument("--out", type=Path, help="a file for the JSON")
    asked = parser.parse_args()
    real = encode_set(asked.set, Encoder.load(asked.model), asked.kept)
    torch.set_num_threads(asked.threads)
    faiss.omp_set_num_threads(asked.threads)  # what the stores take, too
    texts = [each for each in real.documents.multi if TOKENS[0] <= len(each) <= TOKENS[1]]
    rng = np.random.default_rng(asked.seed)
    tasks = [
        Task(real.queries.multi[row], rng.integers(len(texts), size=asked.candidates))
        for row in rng.permutation(len(real.queries))[: asked.queries].tolist()
    ]
    with tempfile.TemporaryDirectory() as place:
        names = [DEFAULT_LAYOUT.multi_codec, *CODECS]
        answers: dict[str, Answer] = {
            f"m3search, {name}": store_of(Path(place) / name, texts, name)
            for name in dict.fromkeys(names)
        }
        answers["FlagEmbedding"] = answer_with_flag(texts)
        if asked.pylate:
            answers["PyLate"] = answer_with_pylate(texts)
        rows = time_answers(answers, tasks)
        for name, answer in answers.items():
            rows[name]["off_by"] = round(largest_error(answer, tasks[0], texts), 4)
    tokens = float(np.mean([len(each) for each in texts]))
    publish(asked, {"rows": rows, "tokens_per_candidate": round(tokens, 1)}, table(rows))


def store_of(folder: Path, texts: list[FloatArray], codec: str) -> Answer:
    """What this index does."""
    folder.mkdir()
    writer = VectorWriter(folder, find_codec(codec))
    writer.append(texts)
    writer.finish()
    store = VectorStore(folder, len(texts), texts[0].shape[1], find_codec(codec))
    return lambda task: store.scores(task.query, task.rows)


def answer_with_flag(texts: list[FloatArray]) -> Answer:
    """FlagEmbedding's own function, a pair at a time."""
    try:
        from FlagEmbedding.inference.embedder.encoder_only.m3 import M3Embedder
    except ImportError as error:
        raise no_flagembedding(error) from error
    score: Any = M3Embedder.colbert_score  # uses nothing of the model
    return lambda task: [float(score(None, task.query, texts[row])) for row in task.rows]


def answer_with_pylate(texts: list[FloatArray]) -> Answer:
    """PyLate's re-ranking; its scores are sums over the query's tokens."""
    from pylate import rank

    held = [torch.from_numpy(each) for each in texts]

    def answer(task: Task) -> FloatArray:
        found = rank.rerank(
            documents_ids=[list(range(len(task.rows)))],
            queries_embeddings=[torch.from_numpy(task.query)],
            documents_embeddings=[[held[row] for row in task.rows]],
        )
        scores = np.zeros(len(task.rows), np.float32)
        for hit in found[0]:
            scores[hit["id"]] = hit["score"] / len(task.query)
        return scores

    return answer


def largest_error(answer: Answer, task: Task, texts: list[FloatArray]) -> float:
    """Of the scores of one task, to MaxSim of the vectors that were given."""
    exact = [maxsim(task.query, texts[row]) for row in task.rows]
    return float(np.abs(np.array(answer(task)) - exact).max())


if __name__ == "__main__":
    run_script(main)
