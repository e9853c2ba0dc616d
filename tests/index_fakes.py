"""A deterministic encoder without a model, and slow, obvious retrieval to compare with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from scipy import sparse as sp

from m3search.model.passages import cut_passages
from m3search.records import MODES, Encoded, Kind, Mode, ModelIdentity
from m3search.stores.codecs import decode_vectors, encode_vectors, find_codec

DIM, VOCABULARY, MULTI_DIM = 8, 40, 4
IDENTITY = ModelIdentity("fake", "f" * 64, DIM, VOCABULARY, MULTI_DIM, 64, "cls")


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


class FakeEncoder:
    """Vectors drawn from the hash of a text; equal texts have equal vectors."""

    def __init__(self, identity: ModelIdentity = IDENTITY) -> None:
        self.identity = identity
        self.encoded: list[str] = []

    def encode(
        self, texts: Sequence[str], kind: Kind = "document", *, progress: object = None
    ) -> Encoded:
        self.encoded += texts
        dense = np.zeros((len(texts), DIM), dtype=np.float32)
        sparse = np.zeros((len(texts), VOCABULARY), dtype=np.float32)
        multi = []
        for i, text in enumerate(texts):
            seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
            random = np.random.default_rng(seed)
            dense[i] = _unit(random.normal(size=DIM))
            terms = random.choice(VOCABULARY, size=len(text.split()) and 6, replace=False)
            sparse[i, terms] = random.random(len(terms)) + 0.1
            count = int(random.integers(0, 5))
            multi.append(_unit(random.normal(size=(count, MULTI_DIM))))
        truncated = np.array([len(text) > 200 for text in texts], dtype=bool)
        return Encoded(dense, sp.csr_array(sparse), multi, truncated)

    def require(self, modes: Sequence[str]) -> None:
        assert set(modes) <= set(MODES)

    def passages(self, text: str, tokens: int, overlap: int = 0) -> list[tuple[int, int]]:
        starts = np.array([word.start() for word in re.finditer(r"\S+", text)], np.int64)
        return cut_passages(text, starts, tokens, overlap)


TOLERANCE: dict[Mode, float] = {"dense": 1e-6, "sparse": 1e-6, "multi": 2e-5}
"""of scores to those below; queries are rounded to 16 bits where token vectors are levels"""


def slow_scores(mode: Mode, query: Encoded, texts: Encoded, codec: str) -> np.ndarray:
    """The scores (n,) of all texts for one query, by loops in Python's own floats."""
    scores = []
    for row in range(len(texts)):
        if mode == "dense":
            score = _dot(query.dense[0], texts.dense[row])
        elif mode == "sparse":
            score = _dot(query.sparse.toarray()[0], texts.sparse[[row]].toarray()[0])
        else:
            vectors = decode_vectors(encode_vectors(texts.multi[row], find_codec(codec)))
            best = [max(_dot(q, v) for v in vectors) for q in query.multi[0] if len(vectors)]
            score = sum(best) / len(best) if best else 0.0
        scores.append(score)
    return np.array(scores, dtype=np.float32)


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def slow_rank(scores: Sequence[float], k: int, allowed=None, positive=False) -> list[int]:
    """Rows by score descending, then row ascending."""
    rows = range(len(scores)) if allowed is None else np.flatnonzero(allowed).tolist()
    kept = [row for row in rows if scores[row] > 0 or not positive]
    return sorted(kept, key=lambda row: (-scores[row], row))[:k]
