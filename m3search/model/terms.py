"""From lexical weights by position to the weights of terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import sparse as sp

from m3search.model.words import WordTable, word_weights
from m3search.records import BoolArray, FloatArray, IntArray


def lexical_matrix(
    ids: IntArray, weights: FloatArray, kept: BoolArray, columns: int, words: WordTable | None
) -> sp.csr_array:
    """Term weights of a batch: for each text and term the largest weight of its positions.

    ids, weights, kept (B, L) -> (B, columns) csr float32 with weights > 0 only. With `words`, the
    words or stems that it finds are terms, too, wherever they stand.
    """
    weights = np.where(kept, weights, 0).astype(np.float32)
    texts, positions = np.nonzero(weights > 0)
    values = weights[texts, positions]
    keys = texts.astype(np.int64) * columns + ids[texts, positions]
    if words is not None:
        more = _word_entries(ids, weights, columns, words)
        keys, values = np.concatenate([keys, more[0]]), np.concatenate([values, more[1]])
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    largest = np.maximum.reduceat(values, starts) if len(values) else values
    rows, terms = np.divmod(keys[starts], columns)
    pointers = np.searchsorted(rows, np.arange(len(ids) + 1))
    return sp.csr_array((largest, terms, pointers), shape=(len(ids), columns))


def named_weights(
    vector: sp.csr_array, names: Mapping[int, str], pieces: Callable[[Sequence[int]], list[str]]
) -> dict[str, float]:
    """The weights of a vector (1, columns) by the names of its terms, the heaviest first.

    pieces: names the terms that have none in `names`.
    """
    order = np.argsort(-vector.data, kind="stable")
    terms = vector.indices[order].tolist()
    found = [names.get(term, piece) for term, piece in zip(terms, pieces(terms), strict=True)]
    return dict(zip(found, vector.data[order].tolist(), strict=True))


def _word_entries(
    ids: IntArray, weights: FloatArray, columns: int, words: WordTable
) -> tuple[IntArray, FloatArray]:
    """Keys, text * columns + term, and weights of the words that weigh anything."""
    found = words.find(ids)
    values = word_weights(weights, found)
    texts = found.tokens[np.cumsum(found.sizes) - found.sizes] // ids.shape[1]
    weighing = values > 0
    return (texts * columns + found.terms)[weighing], values[weighing]
