"""Texts in all three modes as flat tensors without padding, and their scores with gradients.

The formulas are those of `m3search.scoring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from m3search.model.tokenization import Ids
from m3search.model.words import NO_WORDS, WordTable
from m3search.records import FloatArray, IntArray, Mode
from m3search.training.maxsim import best_matches

BLOCK = {"cpu": 1 << 22, "cuda": 1 << 25}
"""lexical weights of texts, with the zeros between them, held at a time"""


class Layout(NamedTuple):
    """What stands where in the flat tensors of N texts; known before any forward pass."""

    terms: Tensor
    """(T,) int64 vocabulary id of every token that can carry a lexical weight, text by text"""
    term_counts: Tensor
    """(N,) int64 of those tokens in each text"""
    vector_counts: Tensor
    """(N,) int64 token vectors of each text: all its tokens but the first"""
    words: Tensor
    """(W,) int64 column of every word, or its stem, that is a term, text by text"""
    word_counts: Tensor
    """(N,) int64 of those words in each text"""
    word_sizes: Tensor
    """(W,) int64 pieces of each word"""
    word_tokens: Tensor
    """(sum of word_sizes,) int64 places of these pieces among the T tokens, word by word"""
    word_factors: Tensor
    """(sum of word_sizes,) float32, how often the square of the weight of each of them counts"""

    @classmethod
    def of(
        cls,
        ids: Sequence[Ids],
        special_ids: Ids,
        device: torch.device,
        table: WordTable | None = None,
    ) -> Layout:
        """The layout of texts given as token ids, each of which begins with a special token.

        table: None where only pieces are terms.
        """
        lengths = np.array([len(row) for row in ids], np.int64)
        texts = np.repeat(np.arange(len(ids)), lengths)
        flat = np.concatenate([np.empty(0, np.int64), *ids]).astype(np.int64)
        kept = ~np.isin(flat, special_ids)
        found = table.find(flat) if table and len(flat) else NO_WORDS
        firsts = found.tokens[np.cumsum(found.sizes) - found.sizes]
        columns: tuple[IntArray | FloatArray, ...] = (
            flat[kept],
            np.bincount(texts[kept], minlength=len(ids)),
            lengths - 1,
            found.terms,
            np.bincount(texts[firsts], minlength=len(ids)),
            found.sizes,
            (np.cumsum(kept) - 1)[found.tokens],
            found.factors,
        )
        return cls(*(torch.from_numpy(column).to(device) for column in columns))

    def entries(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Column, weight and text of everything that can carry a lexical weight: the tokens, which
        have `weights` (T,), and the words, with the lengths of their pieces' weights."""
        terms, texts = self.terms, _owners(self.term_counts)
        if not len(self.words):
            return terms, weights, texts
        squares = self.word_factors * weights[self.word_tokens] ** 2
        sums = squares.new_zeros(len(self.words)).index_add(0, _owners(self.word_sizes), squares)
        lengths = torch.where(sums > 0, sums, 1).sqrt() * (sums > 0)  # no gradient of sqrt at 0
        return (
            torch.cat([terms, self.words]),
            torch.cat([weights, lengths]),
            torch.cat([texts, _owners(self.word_counts)]),
        )


class Representations(NamedTuple):
    """N texts, as the model makes them; a mode that is not trained has an empty tensor."""

    dense: Tensor
    """(N, dim) unit rows"""
    weights: Tensor
    """(T,) lexical weights, >= 0"""
    vectors: Tensor
    """(V, multi_dim) unit rows"""

    @classmethod
    def concatenate(cls, parts: Sequence[Representations]) -> Representations:
        """The texts of all parts, in order."""
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def as_leaves(self) -> Representations:
        """The same numbers as leaves that gather gradients."""
        return Representations(*(tensor.detach().requires_grad_() for tensor in self))


def score_mode(
    mode: Mode,
    queries: Representations,
    query_layout: Layout,
    passages: Representations,
    passage_layout: Layout,
) -> Tensor:
    """(Q, P) scores of every query with every passage in one mode."""
    if mode == "dense":
        return queries.dense @ passages.dense.T
    if mode == "sparse":
        return lexical_scores(query_layout, queries.weights, passage_layout, passages.weights)
    best = best_matches(queries.vectors, passages.vectors, passage_layout.vector_counts.tolist())
    counts = query_layout.vector_counts
    sums = best.new_zeros(len(counts), best.shape[1]).index_add(0, _owners(counts), best)
    return sums / counts[:, None]


def lexical_scores(
    query_layout: Layout, query_weights: Tensor, passage_layout: Layout, passage_weights: Tensor
) -> Tensor:
    """s_lex (Q, P): sum over the terms of both texts of the products of their weights.

    The weight of a term is the largest of its positions, that of a word is as `Layout.entries` has
    it. Only the terms of the queries get
    columns, never the vocabulary: a term that no query has matches nothing. Where the columns of
    all texts are more than `BLOCK` cells, they are made in blocks, and again for the gradient.
    """
    texts = ((query_layout, query_weights), (passage_layout, passage_weights))
    rows = sum(len(layout.term_counts) for layout, _ in texts)
    limit = BLOCK.get(query_weights.device.type, BLOCK["cpu"])
    columns = torch.unique(torch.cat([query_layout.terms, query_layout.words]))
    first, *others = columns.split(max(1, limit // max(1, rows)))
    if not others:
        return _scores_by(first, *texts)
    scores = query_weights.new_zeros([len(layout.term_counts) for layout, _ in texts])
    for terms in (first, *others):
        scores = scores + checkpoint(
            _scores_by, terms, *texts, use_reentrant=False, preserve_rng_state=False
        )
    return scores


def _scores_by(
    columns: Tensor, queries: tuple[Layout, Tensor], passages: tuple[Layout, Tensor]
) -> Tensor:
    """(Q, P) what the terms `columns`, sorted, add to the lexical scores."""

    def spread(layout: Layout, weights: Tensor) -> Tensor:
        rows, width = len(layout.term_counts), len(columns)
        terms, weights, texts = layout.entries(weights)
        places = torch.searchsorted(columns, terms).clamp_(max=max(0, width - 1))
        known = columns[places] == terms if width else places.bool()
        index = (texts * width + places)[known]
        table = weights.new_zeros(rows * width)
        return table.scatter_reduce(0, index, weights[known], reduce="amax").view(rows, width)

    return spread(*queries) @ spread(*passages).T


def active_terms(layout: Layout, weights: Tensor) -> Tensor:
    """(N,) tokens of each text with a lexical weight above 0."""
    counts = torch.zeros_like(layout.term_counts)
    return counts.index_add_(0, _owners(layout.term_counts), (weights > 0).long())


def _owners(counts: Tensor) -> Tensor:
    """(sum of counts,) the text that each element belongs to."""
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
