"""Why a document was found: the terms that matched, and the best match of each query token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse as sp

from m3search.corpus import document_text
from m3search.errors import ConfigError
from m3search.records import Encoded, FloatArray, Hit, Token

if TYPE_CHECKING:
    from m3search.encoder import Encoder
    from m3search.index import Index


class TermMatch(NamedTuple):
    """A term of both texts. The products of all of them sum to the sparse score."""

    term: str
    query_weight: float
    document_weight: float
    product: float


class TokenMatch(NamedTuple):
    """A query token and the document token nearest to it.

    The mean of all similarities is the multi score, to a few millionths. `document` is "" where the
    stored vectors do not stand for single tokens.
    """

    query: str
    document: str
    similarity: float


@dataclass(frozen=True)
class Explanation:
    """One document's answer to one query, taken apart."""

    terms: list[TermMatch]
    """largest product first"""
    tokens: list[TokenMatch]
    """in the order of the query"""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: terms and tokens as lists of objects."""
        return {
            "terms": [match._asdict() for match in self.terms],
            "tokens": [match._asdict() for match in self.tokens],
        }


def explain_hit(index: Index, encoder: Encoder, text: str, query: Encoded, hit: Hit) -> Explanation:
    """Why a hit of the index answers `text`; `query` is the text encoded (n = 1).

    ConfigError where the index no longer holds the document, or holds another text by its id.
    """
    document = hit.document
    row = int(index.rows_of([document.id])[0])
    if row < 0:
        raise ConfigError(
            "document",
            expected="the id of a document in the index",
            found=repr(document.id),
            remedy="Explain a hit of this index.",
        )
    (held,) = index.documents([row])
    if (held.title, held.text) != (document.title, document.text):
        raise ConfigError(
            "document",
            expected=f"the title and text that the index holds for {document.id!r}",
            found="others: it was replaced since",
            remedy="Search again, and explain the hit that is found now.",
        )
    query_tokens = encoder.tokens(text, "query")
    template = index.manifest.title_template
    found = document_text(document._replace(text=hit.text), template)
    document_tokens = encoder.tokens(found, "document")
    if hit.passage is not None:
        row += hit.passage.number
    return Explanation(
        match_terms(index, query, encoder.terms(text, "query"), row),
        match_tokens(query.multi[0], query_tokens, index.vectors(row), document_tokens),
    )


def match_terms(
    index: Index, query: Encoded, terms: Mapping[int, str], row: int
) -> list[TermMatch]:
    """The terms that the query shares with the document at `row`, largest product first.

    terms: of the query, as `Encoder.terms` names them.
    """
    matches = []
    for term, weight in zip(query.sparse.indices.tolist(), query.sparse.data.tolist(), strict=True):
        found = float(index.scores("sparse", _only(query, term), np.array([row]))[0])
        if found > 0:
            name = terms.get(term, f"term {term}")
            matches.append(TermMatch(name, weight, found, weight * found))
    return sorted(matches, key=lambda match: (-match.product, match.term))


def _only(query: Encoded, term: int) -> Encoded:
    """The query reduced to one term of weight 1: its sparse score is the document's weight."""
    width = query.sparse.shape[1]
    one = sp.csr_array((np.ones(1, np.float32), ([0], [term])), shape=(1, width))
    return Encoded(query.dense, one, query.multi)


def match_tokens(
    query_vectors: FloatArray,
    query_tokens: Sequence[Token],
    vectors: FloatArray,
    tokens: Sequence[Token],
) -> list[TokenMatch]:
    """For each query token the document token of the largest inner product.

    query_vectors (n, dim), vectors (m, dim), unit rows; tokens as `Encoder.tokens` gives them.
    """
    if not len(query_vectors) or not len(vectors):
        return []
    similarity = query_vectors.astype(np.float64) @ vectors.astype(np.float64).T
    best = similarity.argmax(axis=1)
    asked = {token.row: token.text for token in query_tokens}
    # a row stands for a token only where none was pooled away
    found = {token.row: token.text for token in tokens} if len(tokens) == len(vectors) else {}
    return [
        TokenMatch(asked.get(i, ""), found.get(int(column), ""), float(similarity[i, column]))
        for i, column in enumerate(best)
    ]
