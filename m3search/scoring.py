"""The scores of the three modes, on encoded texts (arXiv 2402.03216v4, section 3.2).

Higher is better in all of them. Sums run in float64 and are rounded once to float32. These are the
definitions: posting lists, stored token vectors, the encoder and the training have ways of their
own to the same numbers, to the last bits or a few millionths, and are tested against these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse as sp

from m3search.errors import ConfigError
from m3search.records import Encoded, FloatArray, IntArray

PRODUCTS = 1 << 13
"""at a time: larger arrays are new pages of memory every time, which cost more than the products"""


def exact_scores(query: npt.ArrayLike, vectors: npt.ArrayLike) -> FloatArray:
    """s_dense = <q, p> of one query (dim,) with vectors (n, dim) -> (n,) float32.

    Every sum runs over one document alone; a matrix product does not promise the same bits
    whatever is scored beside it.

    >>> exact_scores([1.0, 0.0], [[0.6, 0.8], [0.0, 1.0]]).tolist()
    [0.6000000238418579, 0.0]
    """
    given, factors = np.asarray(vectors), np.asarray(query, dtype=np.float64)
    sums = np.empty(len(given))
    step = max(1, PRODUCTS // max(len(factors), 1))
    products = np.empty((step, len(factors)))
    for start in range(0, len(given), step):
        some = given[start : start + step]
        held = np.multiply(some, factors, out=products[: len(some)])
        np.add.reduce(held, axis=1, out=sums[start : start + step])
    return sums.astype(np.float32)


def dense_scores(queries: npt.ArrayLike, documents: npt.ArrayLike) -> FloatArray:
    """`exact_scores` of every query with every document.

    queries (n, dim), documents (m, dim) -> (n, m) float32 in [-1, 1].

    >>> dense_scores([[1.0, 0.0]], [[0.6, 0.8], [0.0, 1.0]]).tolist()
    [[0.6000000238418579, 0.0]]
    """
    lines = [exact_scores(query, documents) for query in np.asarray(queries)]
    return np.array(lines, dtype=np.float32).reshape(len(lines), len(np.asarray(documents)))


def sparse_scores(queries: sp.csr_array, documents: sp.csr_array) -> FloatArray:
    """Lexical matching s_lex = sum of w_q(t) * w_p(t) over the terms of both texts.

    queries (n, vocabulary), documents (m, vocabulary) -> (n, m) float32, >= 0.
    """
    product = queries.astype(np.float64) @ documents.astype(np.float64).T
    scores: FloatArray = product.toarray().astype(np.float32)
    return scores


def maxsim(query: npt.ArrayLike, document: npt.ArrayLike) -> float:
    """Late interaction s_mul = mean over query vectors of the best match in the document.

    query (n, dim), document (m, dim), unit rows -> a number in [-1, 1]; 0 where either is empty.

    >>> maxsim([[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [-1.0, 0.0]])
    0.5
    """
    vectors = np.asarray(document, np.float64)
    return float(maxsim_many(query, vectors, np.array([0, len(vectors)]))[0])


def maxsim_many(query: npt.ArrayLike, vectors: npt.ArrayLike, offsets: IntArray) -> FloatArray:
    """`maxsim` of one query with many documents whose vectors lie one after the other.

    query (n, dim); vectors (total, dim); offsets (documents + 1,), document i owning
    vectors[offsets[i]:offsets[i + 1]] -> (documents,) float32.
    """
    q, v = np.asarray(query), np.asarray(vectors)
    scores = np.zeros(len(offsets) - 1, dtype=np.float32)
    filled = offsets[1:] > offsets[:-1]
    if len(q) == 0 or not filled.any():
        return scores
    similarity = q.astype(np.float64) @ v.astype(np.float64).T
    best = np.maximum.reduceat(similarity, offsets[:-1][filled], axis=1)
    scores[filled] = best.mean(axis=0)
    return scores


def pair_scores(
    queries: Encoded, documents: Encoded, weights: Sequence[float]
) -> dict[str, list[float]]:
    """The scores of query i with document i, by the names and rules of FlagEmbedding.

    queries, documents: n each. weights: as `check_pair_weights` takes them. The two weighted sums
    are divided by the sum of the weights in them; one whose weights are all 0 is 0, where
    FlagEmbedding has nan.
    """
    w1, w2, w3 = np.asarray(weights, np.float64)
    dense = np.einsum("nd,nd->n", queries.dense, documents.dense)
    sparse = np.asarray(queries.sparse.multiply(documents.sparse).sum(axis=1)).reshape(-1)
    multi = np.array([maxsim(q, d) for q, d in zip(queries.multi, documents.multi, strict=True)])
    two, three = w1 + w2 or 1.0, w1 + w2 + w3 or 1.0
    named = {
        "colbert": multi,
        "sparse": sparse,
        "dense": dense,
        "sparse+dense": (w1 * dense + w2 * sparse) / two,
        "colbert+sparse+dense": (w1 * dense + w2 * sparse + w3 * multi) / three,
    }
    return {name: [float(score) for score in scores] for name, scores in named.items()}


def check_pair_weights(weights: Sequence[float]) -> None:
    """ConfigError unless they are three finite numbers from 0 up, not all 0."""
    if len(weights) != 3 or not all(math.isfinite(w) and w >= 0 for w in weights):
        found = repr(tuple(weights))
    elif not any(weights):
        found = "only zeros"
    else:
        return
    raise ConfigError(
        "weights",
        expected="three finite numbers from 0 up, for dense, sparse and multi, not all 0",
        found=found,
        remedy="The default is 1, 1, 1.",
    )
