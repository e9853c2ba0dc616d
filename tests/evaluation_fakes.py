"""Tiny evaluation sets, and encoders, an index and a searcher made up for them."""

from __future__ import annotations

import gzip
import json
import shutil
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse as sp

from m3search.candidates import QueryScores, Scored
from m3search.errors import ArtifactError
from m3search.evaluation import Engine, EvaluationSet, evaluate_sets
from m3search.evaluation.cache import Cache
from m3search.records import MODES, Document, Encoded, Mode, ModelIdentity
from m3search.search import EncodedQueries
from m3search.timings import stage

TEXTS = {"d1": "red fox", "d2": "blue whale", "d3": "red panda", "d4": "green tree"}

QUERIES = {"q1": "red animal", "q2": "whale", "q3": "not judged"}

JUDGED = {"q1": {"d1": 2, "d3": 1}, "q2": {"d2": 1}}

VOCABULARY = 100
IDENTITY = ModelIdentity("fake", "f" * 64, 4, VOCABULARY, 2, 512, "cls")


def make_set(
    folder: Path,
    texts: dict[str, str] = TEXTS,
    queries: dict[str, str] = QUERIES,
    judged: dict[str, dict[str, int]] = JUDGED,
    split: str = "test",
) -> Path:
    (folder / "qrels").mkdir(parents=True)
    lines = "\n".join(json.dumps({"_id": name, "text": text}) for name, text in texts.items())
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    lines = "\n".join(json.dumps({"_id": name, "text": text}) for name, text in queries.items())
    (folder / "queries.jsonl").write_text(lines)
    rows = [
        f"{query}\t{document}\t{grade}"
        for query, grades in judged.items()
        for document, grade in grades.items()
    ]
    (folder / "qrels" / f"{split}.tsv").write_text(
        "\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n"
    )
    return folder


def forget_searches(cache: Path) -> None:
    """Takes what was found out of the entries of a cache, so that they are searched anew."""
    for folder in cache.glob("*/searches"):
        shutil.rmtree(folder)


@dataclass
class FakeEncoder:
    identity: ModelIdentity = IDENTITY
    precision: str = "cpu float32"
    modes: tuple[Mode, ...] = MODES


@dataclass
class FakeManifest:
    documents: int
    complete: bool = True
    truncated: int = 3
    fingerprint: str = "9" * 64


@dataclass
class FakeIndex:
    documents: list[Document]
    manifest: FakeManifest
    exact: bool = False

    def verify(self) -> list[str]:
        return []

    def bytes_by_store(self) -> dict[str, int]:
        return {"dense": 1_500_000, "sparse": 500_000}


@dataclass
class Log:
    """What an evaluation asked for."""

    built: list[Path] = field(default_factory=list)
    opened: list[Path] = field(default_factory=list)
    encoded: list[int] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    lengths: list[int | None] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    damaged: bool = False
    cause: BaseException | None = None
    fails: Exception | None = None
    exact: list[bool] = field(default_factory=list)
    """of the index, at each search"""

    def terms(self, text: str) -> set[int]:
        """A number for each word; by its letters, as another process may have encoded it."""
        return {zlib.crc32(word.encode()) % VOCABULARY for word in text.split()}

    def engine(self) -> Engine:
        return Engine(self.build, self.open, lambda index, _: FakeSearcher(index, self))

    def build(
        self, path, documents, encoder, *, title_template, multi_codec, progress
    ) -> FakeIndex:
        self.built.append(path)
        self.templates.append(title_template)
        if (path / "ids").exists():
            raise ArtifactError(str(path), expected="no index", found="one", remedy="None.")
        path.mkdir(exist_ok=True)
        found = list(documents)
        if self.fails is not None:
            raise self.fails
        (path / "ids").write_text(json.dumps([list(each[:3]) for each in found]))
        progress(len(found))
        return FakeIndex(found, FakeManifest(len(found)))

    def open(self, path: Path) -> FakeIndex:
        self.opened.append(path)
        if self.damaged:
            raise ArtifactError(
                str(path), expected="sound", found="damage", remedy="None."
            ) from self.cause
        if not (path / "ids").exists():
            return FakeIndex([], FakeManifest(0, complete=False))
        found = [Document(*each) for each in json.loads((path / "ids").read_text())]
        return FakeIndex(found, FakeManifest(len(found)))

    def encoders(self, length: int | None) -> FakeEncoder:
        self.lengths.append(length)
        return FakeEncoder(replace(IDENTITY, max_length=length or 512))


@dataclass
class FakeSearcher:
    """The score in every mode is the number of common words, of documents that have any.

    The first query is longer than the model reads.
    """

    index: FakeIndex
    log: Log

    def encode(self, queries) -> EncodedQueries:
        found = list(queries)
        self.log.encoded.append(len(found))
        with stage("encode"):
            count = len(found)
            terms = np.zeros((count, VOCABULARY), np.float32)
            for row, query in enumerate(found):
                terms[row, list(self.log.terms(query.text))] = 1
            dense = np.eye(count, 4, dtype=np.float32)
            vectors = [np.eye(1, 2, dtype=np.float32)] * count
            encoded = Encoded(dense, sp.csr_array(terms), vectors, np.arange(count) == 0)
            return EncodedQueries(tuple(query.id for query in found), encoded)

    def candidates(self, queries, *, stages, modes, depth, reach):
        assert isinstance(queries, EncodedQueries)
        self.log.searches.append({"stages": stages, "modes": modes, "depth": depth})
        self.log.exact.append(self.index.exact)
        for name in [
            *(f"retrieve {mode}" for mode in stages),
            *(f"score {mode}" for mode in modes),
        ]:
            with stage(name):
                pass
        held = [self.log.terms(each.text) for each in self.index.documents]
        for row, name in enumerate(queries.ids):
            asked = set(queries.encoded.sparse[[row]].indices.tolist())
            common = np.array([len(asked & terms) for terms in held], np.float32)
            found = np.flatnonzero(common)
            counts = common[found]
            ranks = np.argsort(np.argsort(-counts, kind="stable"), kind="stable") + 1
            scored = Scored(
                np.arange(len(found)), dict.fromkeys(modes, counts), dict.fromkeys(stages, ranks)
            )
            yield QueryScores(name, [self.index.documents[row].id for row in found], scored)


@dataclass
class WordEncoder:
    """Counts of known words in all three modes, as m3search's own index stores them."""

    words: list[str]
    precision: str = "cpu float32"
    modes: tuple[Mode, ...] = MODES
    texts: list[str] = field(default_factory=list)
    """all that were encoded"""

    @property
    def identity(self) -> ModelIdentity:
        size = len(self.words) + 1
        return ModelIdentity("words", "w" * 64, size, size, size, 512, "cls")

    def require(self, modes) -> None:
        """It has them all."""

    def encode(self, texts, kind="document", *, progress=None, **_: object) -> Encoded:
        self.texts += texts
        size = len(self.words) + 1
        multi, dense = [], np.zeros((len(texts), size), dtype=np.float32)
        dense[:, -1] = 1e-3
        for row, text in enumerate(texts):
            known = [self.words.index(word) for word in text.split() if word in self.words]
            dense[row, known] = 1
            multi.append(np.eye(size, dtype=np.float32)[[*known, size - 1]])
        if progress is not None:
            progress(len(texts))
        weights = sp.csr_array(np.where(dense > 0.5, dense, 0).astype(np.float32))
        return Encoded(dense / np.linalg.norm(dense, axis=1, keepdims=True), weights, multi)


WORDS = sorted({word for text in TEXTS.values() for word in text.split()})


def evaluate(wanted: EvaluationSet, cache: Cache | None, **changes: Any) -> tuple[Any, list[str]]:
    """The result of a set with m3search's own index, and the texts that were encoded for it."""
    encoder = WordEncoder(WORDS)
    for name, value in changes.items():
        setattr(encoder, name, value)
    experiment = evaluate_sets([wanted], lambda _: encoder, cache=cache, latencies=True)
    return experiment.sets[0], encoder.texts
