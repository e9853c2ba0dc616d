"""The data types that flow through m3search; nothing here loads a model or a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from scipy import sparse as sp

Mode = Literal["dense", "sparse", "multi"]
MODES: tuple[Mode, ...] = get_args(Mode)
Kind = Literal["document", "query"]
Missing = Literal["exact", "zero", "min"]
"""score of a candidate in a first stage that did not return it: exact, 0, the list's minimum"""
Candidates = Literal["union", "dense"]
"""from the dense and sparse stages among the modes asked, or from the dense stage alone"""

Qrels = dict[str, dict[str, int]]
"""query id -> document id -> grade"""
Run = dict[str, dict[str, float]]
"""query id -> document id -> score"""
Answers = dict[str, tuple[str, ...]]
"""question id -> strings that answer it"""

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class Document(NamedTuple):
    """The unit that is retrieved. `metadata` holds every further field of its corpus line."""

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = NO_METADATA

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle and copy, which cannot take a read-only mapping."""
        return Document, (self.id, self.text, self.title, dict(self.metadata))


class Query(NamedTuple):
    """What is searched for; `id` names it in runs and qrels."""

    id: str
    text: str


WordTerms = Literal["none", "words", "stems"]
"""terms beside the pieces: none, words of several pieces, or the stems of words"""
DEFAULT_WEIGHTS = (1.0, 0.3, 1.0)
"""of dense, sparse and multi for passages (arXiv 2402.03216v4, section 4.1)"""


NEWER_DEFAULTS: Mapping[str, Any] = MappingProxyType({"word_terms": "none", "idf": False})
"""of what a file says of a model, that releases before did not know"""


def without_newer_defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a file is to say of a model: earlier releases read it, too, where it has nothing new."""
    return {
        name: value
        for name, value in fields.items()
        if name not in NEWER_DEFAULTS or value != NEWER_DEFAULTS[name]
    }


def word_terms_of(found: object) -> WordTerms | None:
    """What a file says of them; None for anything else. Older ones say whether words are terms."""
    if isinstance(found, bool):
        return "words" if found else "none"
    return next((terms for terms in get_args(WordTerms) if terms == found), None)


@dataclass(frozen=True)
class ModelIdentity:
    """Which encoder made some vectors, and how: two equal ones make the same vectors, and the same
    scores of them."""

    name: str
    """what `Encoder.load` takes: a folder, a hub name, or the name of an embedded model"""
    fingerprint: str
    """SHA-256 of the configuration, tokenizer and weights"""
    dim: int
    vocabulary: int
    """columns of the sparse mode: the pieces and, with `word_terms`, the numbers of words"""
    multi_dim: int
    max_length: int
    """tokens per text, special tokens included"""
    pooling: str
    mcls: bool = False
    fusion_weights: tuple[float, float, float] = DEFAULT_WEIGHTS
    """of dense, sparse and multi in a search that names none"""
    word_terms: WordTerms = "none"
    """what are terms beside the pieces"""
    idf: bool = False
    """whether a search multiplies lexical weights by how rare their terms are in the index"""


class Token(NamedTuple):
    """One token vector of a text: the vocabulary id, its piece, and where it stands."""

    id: int
    text: str
    start: int
    """characters [start, end) of the text; (0, 0) for a special token"""
    end: int
    row: int
    """row of the token's vector in `Encoded.multi`"""


@dataclass(frozen=True, eq=False)
class Encoded:
    """n texts in all three modes, from one forward pass of the encoder."""

    dense: FloatArray
    """(n, dim) float32, unit rows"""
    sparse: sp.csr_array
    """(n, vocabulary) float32, stored weights > 0, column indices sorted"""
    multi: list[FloatArray]
    """n arrays (vectors_i, multi_dim) float32, unit rows, no padding"""
    truncated: BoolArray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """(n,) whether the text was longer than the encoder's maximum length and was cut"""

    def __post_init__(self) -> None:
        n = self.dense.shape[0]
        if len(self.truncated) == 0 and n:
            object.__setattr__(self, "truncated", np.zeros(n, dtype=bool))
        sizes = {n, self.sparse.shape[0], len(self.multi), len(self.truncated)}
        if len(sizes) != 1:
            raise ValueError(
                f"the modes hold different numbers of texts: dense {n}, sparse "
                f"{self.sparse.shape[0]}, multi {len(self.multi)}, truncated {len(self.truncated)}"
            )

    def __len__(self) -> int:
        return int(self.dense.shape[0])

    def __getitem__(self, which: slice) -> Encoded:
        """The texts of a slice, as views where numpy gives views."""
        return Encoded(
            self.dense[which], self.sparse[which], self.multi[which], self.truncated[which]
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Encoded]) -> Encoded:
        """The texts of all parts in order; at least one part is needed, it may be empty."""
        return cls(
            np.concatenate([part.dense for part in parts]),
            sp.csr_array(sp.vstack([part.sparse for part in parts], format="csr")),
            [vectors for part in parts for vectors in part.multi],
            np.concatenate([part.truncated for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class Hits:
    """The best rows for each query: what every store, fusion and reranker returns."""

    rows: IntArray
    """(n_queries, k) int64, -1 where fewer than k were found"""
    scores: FloatArray
    """(n_queries, k) float32, descending, -inf beside row -1"""

    @classmethod
    def stack(cls, found: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]], k: int) -> Hits:
        """One line per query from (rows, scores) already in order, cut or padded to k."""
        pairs = [(np.asarray(rows)[:k], np.asarray(scores)[:k]) for rows, scores in found]
        all_rows = np.full((len(pairs), k), -1, dtype=np.int64)
        all_scores = np.full((len(pairs), k), -np.inf, dtype=np.float32)
        for line, (rows, scores) in enumerate(pairs):
            all_rows[line, : len(rows)] = rows
            all_scores[line, : len(scores)] = scores
        return cls(all_rows, all_scores)

    def __len__(self) -> int:
        return int(self.rows.shape[0])


class Passage(NamedTuple):
    """The part of a document that was found, in an index of passages."""

    number: int
    """of those of the document, from 0"""
    start: int
    """characters [start, end) of the document's text"""
    end: int


class Hit(NamedTuple):
    """One answer to a query, with the exact score of each mode beside the weighted sum."""

    rank: int
    score: float
    document: Document
    scores: dict[Mode, float]
    passage: Passage | None = None
    """the best of the document, whose scores these are; None where rows are whole documents"""

    @property
    def text(self) -> str:
        """What was found: the text of the document, or of its best passage."""
        text = self.document.text
        return text if self.passage is None else text[self.passage.start : self.passage.end]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: rank, id, score, scores by mode, title, text, metadata; the passage, if any,
        by number, start and end."""
        fields = {
            "rank": self.rank,
            "id": self.document.id,
            "score": self.score,
            "scores": dict(self.scores),
            "title": self.document.title,
            "text": self.document.text,
            "metadata": dict(self.document.metadata),
        }
        if self.passage is not None:
            fields["passage"] = self.passage._asdict()
        return fields
