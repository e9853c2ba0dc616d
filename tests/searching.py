"""An encoder and an index small enough to check by eye, for the tests of search and explain.

The index scores with plain loops over plain lists and shares no code with the package's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from scipy import sparse as sp

from m3search.corpus import document_text
from m3search.model.passages import cut_passages
from m3search.records import (
    DEFAULT_WEIGHTS,
    MODES,
    Document,
    Encoded,
    Hits,
    Kind,
    Mode,
    ModelIdentity,
    Token,
)
from m3search.search import Searcher
from m3search.stores.filter import Filter

DIM, VOCABULARY = 4, 997
IDENTITY = ModelIdentity("word-hash", "f" * 64, DIM, VOCABULARY, DIM, 512, "cls")
WORD = re.compile(r"\w+")
TEXTS = [
    "late interaction keeps a vector for each token",
    "dense retrieval keeps one vector for each text",
    "sparse retrieval keeps a weight for each term",
    "cats sleep late",
    "tea and rice",
    "late late late",
]


def word_id(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.lower().encode()).digest()[:4], "big") % VOCABULARY


def word_vector(word: str) -> np.ndarray:
    generator = np.random.default_rng(word_id(word))
    return unit(generator.integers(-3, 4, DIM).astype(np.float32))


def unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector / length if length else np.eye(1, DIM, dtype=np.float32)[0]


class WordEncoder:
    """Each word is a term of weight 1 + its count and a vector; the last vector is a marker."""

    precision = "cpu float32"
    modes = MODES

    def __init__(self, identity: ModelIdentity = IDENTITY) -> None:
        self.identity = identity
        self.encoded: list[str] = []

    def encode(
        self,
        texts: Sequence[str],
        kind: Kind = "document",
        *,
        batch_tokens: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Encoded:
        self.encoded += texts
        dense = np.zeros((len(texts), DIM), np.float32)
        sparse = np.zeros((len(texts), VOCABULARY), np.float32)
        multi = []
        for row, text in enumerate(texts):
            words = [word.group() for word in WORD.finditer(text)]
            vectors = [word_vector(word) for word in [*words, "</s>"]]
            dense[row] = unit(np.mean(vectors, axis=0))
            for word in words:
                sparse[row, word_id(word)] += 1 / len(words)
            multi.append(np.array(vectors, np.float32))
            if progress:
                progress(1)
        longer = [len(vectors) >= self.identity.max_length for vectors in multi]
        return Encoded(dense, sp.csr_array(sparse), multi, np.array(longer, dtype=bool))

    def passages(self, text: str, tokens: int, overlap: int = 0) -> list[tuple[int, int]]:
        starts = np.array([word.start() for word in WORD.finditer(text)], np.int64)
        return cut_passages(text, starts, tokens, overlap)

    def require(self, modes: Sequence[str]) -> None:
        assert set(modes) <= set(MODES)

    def knows(self, text: str) -> bool:
        return any(word.group() != "unknown" for word in WORD.finditer(text))

    def token_weights(self, tokens: Sequence[Token], terms: Mapping[int, float]) -> list[float]:
        return [terms.get(token.id, 0.0) for token in tokens]

    def terms(self, text: str, kind: Kind = "document") -> dict[int, str]:
        return {token.id: token.text for token in self.tokens(text, kind)}

    def tokens(self, text: str, kind: Kind = "document") -> list[Token]:
        found = [
            Token(word_id(word.group()), word.group(), word.start(), word.end(), row)
            for row, word in enumerate(WORD.finditer(text))
        ]
        return [*found, Token(0, "</s>", 0, 0, len(found))]


class LoadedEncoder(WordEncoder):
    """Stands where the real encoder does, so that no test loads torch."""

    loads: ClassVar[list[str]] = []
    before_encoding: ClassVar[Callable[[Sequence[str]], None]] = staticmethod(lambda texts: None)

    @classmethod
    def load(
        cls,
        name: str | None = None,
        *,
        max_length: int | None = None,
        mcls: bool = False,
        modes: Sequence[str] = MODES,
        pooling: str | None = None,
        backend: str = "torch",
    ) -> LoadedEncoder:
        cls.loads.append(str(name) if backend == "torch" else f"{name} by {backend}")
        known = {None: IDENTITY, "word-hash": IDENTITY}
        identity = known.get(name, replace(IDENTITY, name=str(name), fingerprint="0" * 64))
        return cls(replace(identity, max_length=max_length or 512, mcls=mcls))

    def encode(self, texts: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        type(self).before_encoding(texts)
        return super().encode(texts, *args, **kwargs)


@dataclass
class ListIndex:
    """All vectors of all documents in memory, scored one pair at a time."""

    texts: list[Document]
    encoded: Encoded
    deleted: frozenset[int] = frozenset()
    has_passages: ClassVar[bool] = False
    manifest: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(
            model=IDENTITY, fusion_weights=DEFAULT_WEIGHTS, title_template="{title}\n{text}"
        )
    )

    def __len__(self) -> int:
        return len(self.texts) - len(self.deleted)

    def pinned(self) -> ListIndex:
        return self

    def as_stored(self, encoded: Encoded) -> Encoded:
        return encoded

    def with_rarity(self, queries: Encoded, allowed: np.ndarray | None = None) -> Encoded:
        return queries

    def score(self, mode: Mode, query: Encoded, row: int) -> float:
        if mode == "dense":
            pairs = zip(query.dense[0], self.encoded.dense[row], strict=True)
            return sum(float(a) * float(b) for a, b in pairs)
        if mode == "sparse":
            asked, held = query.sparse.toarray()[0], self.encoded.sparse.toarray()[row]
            return sum(float(a) * float(b) for a, b in zip(asked, held, strict=True) if a and b)
        total = 0.0
        for a in query.multi[0]:
            total += max(float(a.astype(np.float64) @ b) for b in self.encoded.multi[row])
        return total / len(query.multi[0])

    def scores(self, mode: Mode, query: Encoded, rows: Sequence[int]) -> np.ndarray:
        assert len(query) == 1
        return np.array([self.score(mode, query, int(row)) for row in rows], np.float32)

    def retrieve(
        self, mode: Mode, queries: Encoded, k: int, allowed: np.ndarray | None = None
    ) -> Hits:
        lines = []
        for i in range(len(queries)):
            line = []
            for row in range(len(self.texts)):
                if row in self.deleted or (allowed is not None and not allowed[row]):
                    continue
                score = float(np.float32(self.score(mode, queries[i : i + 1], row)))
                if mode != "sparse" or score > 0:
                    line.append((row, score))
            line.sort(key=lambda pair: (-pair[1], pair[0]))
            lines.append(([row for row, _ in line[:k]], [score for _, score in line[:k]]))
        return Hits.stack(lines, k)

    def documents(self, rows: Sequence[int]) -> list[Document]:
        return [self.texts[int(row)] for row in rows]

    def ids(self, rows: Sequence[int]) -> list[str]:
        return [self.texts[int(row)].id for row in rows]

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        known = {document.id: row for row, document in enumerate(self.texts)}
        return np.array([known.get(name, -1) for name in ids])

    def select(self, wanted: Filter | None) -> np.ndarray | None:
        if wanted is None:
            return None
        (condition,) = wanted.conditions
        assert condition.operator == "="
        held = [document.metadata.get(condition.field) for document in self.texts]
        return np.array([value == condition.values[0] for value in held], bool)

    def vectors(self, row: int) -> np.ndarray:
        return self.encoded.multi[row]


def make_index(texts: Sequence[str | Document], deleted: Sequence[int] = ()) -> ListIndex:
    documents = [
        text if isinstance(text, Document) else Document(f"d{row}", text)
        for row, text in enumerate(texts)
    ]
    encoded = WordEncoder().encode([document_text(document) for document in documents])
    return ListIndex(documents, encoded, frozenset(deleted))


def make_searcher(texts: list[Any] = TEXTS, **index: Any) -> Searcher:
    return Searcher(make_index(texts, **index), WordEncoder())
