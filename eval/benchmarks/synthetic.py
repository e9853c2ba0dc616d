"""Collections of any size with the statistics of a real one, the same for the same seed.

A document of them is a mixture of two neighbours in a real corpus, of one file and so of one
language: about 65 % of the terms and tokens of the one and 35 % of those of the other, fewer where
real documents are longer than asked; weights and vectors are moved a little. So terms are as
frequent, weights and lengths as spread and token vectors as clustered as an encoder makes them.
Document `i` depends on the seed and on `i` alone.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from scipy import sparse as sp

from m3search.corpus import document_text, read_corpus, read_queries
from m3search.encoder import Encoder
from m3search.records import Document, Encoded, FloatArray, Kind, ModelIdentity

SHARE = 0.65
"""of the first document's terms and tokens; of the second's the rest"""
REACH = 40
"""documents between the two at most"""
TERM_NOISE = 0.1
"""standard deviation of the logarithm of a weight"""
TOKEN_NOISE, DENSE_NOISE = 0.3, 0.5
"""length of what is added to a unit vector"""
NUMBERS = 1000
"""values of a field, of which each document has one"""


@dataclass(frozen=True)
class Real:
    """Encoded documents and queries of real corpora."""

    identity: ModelIdentity
    document_ids: list[str]
    documents: Encoded
    query_ids: list[str]
    queries: Encoded
    texts: list[str]
    """of the documents"""
    questions: list[str]


def collection_options(parser: argparse.ArgumentParser, *, queries: int) -> None:
    """The options of a benchmark over a synthetic collection; `encode_asked` reads them."""
    parser.add_argument("sets", type=Path, nargs="+", help="BEIR folders to take statistics from")
    parser.add_argument("--model", help="a checkpoint; by default the embedded m3-mini")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=120, help="of a document, on the mean")
    parser.add_argument("--of-a-set", type=int, default=2000, help="real documents of each")
    parser.add_argument("--queries", type=int, default=queries)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=Path("indexes/encoded"), help="for encodings")
    parser.add_argument("--out", type=Path, help="a file for the JSON")


def encode_asked(asked: argparse.Namespace) -> tuple[Real, list[int]]:
    """What a synthetic collection is made of, and which of its queries are asked."""
    real = encode_sets(asked.sets, Encoder.load(asked.model), asked.of_a_set, asked.kept)
    order = np.random.default_rng(asked.seed).permutation(len(real.queries))
    return real, order[: asked.queries].tolist()


def encode_set(folder: Path, encoder: Encoder, kept: Path) -> Real:
    """All documents and queries of a BEIR folder; see `encode_sets`."""
    return encode_sets([folder], encoder, None, kept)


def encode_sets(
    folders: Sequence[Path], encoder: Encoder, documents: int | None, kept: Path
) -> Real:
    """Up to that many documents and queries of each BEIR folder.

    kept: a folder where the encodings stand for the next call with the same texts and model.
    """
    corpora = [list(islice(read_corpus(_only(folder, "corpus")), documents)) for folder in folders]
    asked = [list(islice(read_queries(_only(folder, "queries")), documents)) for folder in folders]
    held = [each for corpus in corpora for each in corpus]
    queries = [each for lines in asked for each in lines]
    texts, questions = [document_text(each) for each in held], [each.text for each in queries]
    return Real(
        encoder.identity,
        [each.id for each in held],
        _kept(kept, texts, encoder, "document"),
        [each.id for each in queries],
        _kept(kept, questions, encoder, "query"),
        texts,
        questions,
    )


def _only(folder: Path, name: str) -> Path:
    return next(iter(sorted(folder.glob(f"{name}.jsonl*"))))


def _kept(folder: Path, texts: Sequence[str], encoder: Encoder, kind: Kind) -> Encoded:
    """The encoded texts, from a file in the folder if they are there."""
    model = (encoder.identity.fingerprint, encoder.identity.max_length)
    key = hashlib.sha256(repr((model, kind, texts)).encode()).hexdigest()[:16]
    path = folder / f"{key}.npz"
    if not path.exists():
        encoded = encoder.encode(texts, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        lengths = np.array([len(vectors) for vectors in encoded.multi])
        np.savez(
            path,
            dense=encoded.dense,
            indptr=encoded.sparse.indptr,
            terms=encoded.sparse.indices,
            weights=encoded.sparse.data,
            width=encoded.sparse.shape[1],
            lengths=lengths,
            multi=np.concatenate(encoded.multi).astype(np.float16),
        )
    held = np.load(path)
    shape = (len(held["dense"]), int(held["width"]))
    sparse = sp.csr_array((held["weights"], held["terms"], held["indptr"]), shape=shape)
    ends = np.cumsum(held["lengths"])[:-1]
    multi = [part.astype(np.float32) for part in np.split(held["multi"], ends)]
    return Encoded(held["dense"], sparse, multi)


class Synthetic:
    """Documents by number, and an encoder of them: the text of document 7 is "7"."""

    def __init__(self, real: Real, seed: int = 0, tokens: int | None = None) -> None:
        """tokens: of a document, on the mean; as many as real ones have where these are fewer."""
        mean = float(np.mean([len(vectors) for vectors in real.documents.multi]))
        thinned = 1.0 if tokens is None else min(1.0, tokens / mean)
        self.identity = real.identity
        self._shares = (SHARE * thinned, (1 - SHARE) * thinned)
        self._real = real.documents
        self._words = [text.split() for text in real.texts]
        self._seed = seed

    def documents(self, count: int) -> Iterator[Document]:
        """The first documents; a field `n` has one of NUMBERS values."""
        return (
            Document(f"d{number}", str(number), "", {"n": number % NUMBERS})
            for number in range(count)
        )

    def text(self, number: int) -> str:
        """The words of a document, for systems that read words."""
        rng, first, second = self._draw(number, "text")
        words = []
        for row, share in zip((first, second), self._shares, strict=True):
            kept = rng.random(len(self._words[row])) < share
            words += [word for word, taken in zip(self._words[row], kept, strict=True) if taken]
        return " ".join(words)

    def encode(self, texts: Sequence[str], kind: Kind = "document") -> Encoded:
        """The documents whose numbers the texts are; the last word counts."""
        numbers = [int(text.split()[-1]) for text in texts]
        return Encoded(self.dense(numbers), self.sparse(numbers), self.multi(numbers))

    def passages(self, text: str, tokens: int, overlap: int = 0) -> list[tuple[int, int]]:
        """One: a number is not cut."""
        return [(0, len(text))]

    def sparse(self, numbers: Sequence[int]) -> sp.csr_array:
        """Lexical weights (n, vocabulary)."""
        real, counts, terms, weights = self._real.sparse, [0], [], []
        for number in numbers:
            rng, first, second = self._draw(number, "sparse")
            found: dict[int, float] = {}
            for row, share in zip((second, first), reversed(self._shares), strict=True):
                span = slice(real.indptr[row], real.indptr[row + 1])
                held = np.flatnonzero(rng.random(span.stop - span.start) < share)
                noise = np.exp(TERM_NOISE * rng.standard_normal(len(held)))
                values = (real.data[span][held] * noise).tolist()
                found.update(zip(real.indices[span][held].tolist(), values, strict=True))
            line = sorted(found)
            terms += line
            weights += [found[term] for term in line]
            counts.append(len(terms))
        content = (np.array(weights, np.float32), np.array(terms, np.int32), np.array(counts))
        return sp.csr_array(content, shape=(len(numbers), real.shape[1]))

    def dense(self, numbers: Sequence[int]) -> FloatArray:
        """Dense vectors (n, dim)."""
        real = self._real.dense
        vectors = np.empty((len(numbers), real.shape[1]), dtype=np.float32)
        for i, number in enumerate(numbers):
            rng, first, second = self._draw(number, "dense")
            mixed = SHARE * real[first] + (1 - SHARE) * real[second]
            vectors[i] = mixed / np.linalg.norm(mixed) + _noise(rng, 1, len(mixed), DENSE_NOISE)
        return _unit(vectors)

    def multi(self, numbers: Sequence[int]) -> list[FloatArray]:
        """Token vectors of each document (tokens, multi_dim)."""
        texts = []
        for number in numbers:
            rng, first, second = self._draw(number, "multi")
            kept = [
                self._real.multi[row][rng.random(len(self._real.multi[row])) < share]
                for row, share in zip((first, second), self._shares, strict=True)
            ]
            vectors = np.concatenate(kept)
            count, dim = vectors.shape
            texts.append(_unit(vectors + _noise(rng, count, dim, TOKEN_NOISE)))
        return texts

    def _draw(self, number: int, what: str) -> tuple[np.random.Generator, int, int]:
        """Random numbers for one thing of a document, and the two real ones that it is made of."""
        rng = np.random.default_rng([self._seed, number])
        first = int(rng.integers(len(self._real.dense)))
        second = (first + int(rng.integers(1, REACH))) % len(self._real.dense)
        own = np.random.default_rng([self._seed, number, *what.encode()])
        return own, first, second


class Clocked(Synthetic):
    """Synthetic documents, and the seconds in which they were made."""

    seconds = 0.0

    def encode(self, texts: Sequence[str], kind: Kind = "document") -> Encoded:
        """As Synthetic does."""
        started = time.perf_counter()
        encoded = super().encode(texts, kind)
        self.seconds += time.perf_counter() - started
        return encoded


def _noise(rng: np.random.Generator, count: int, dim: int, length: float) -> FloatArray:
    noise: FloatArray = (length / dim**0.5) * rng.standard_normal((count, dim), dtype=np.float32)
    return noise


def _unit(vectors: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)
