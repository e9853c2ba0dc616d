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
from m3search.records import Mode
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

    @classmethod
    def of(cls, ids: Sequence[Ids], special_ids: Ids, device: torch.device) -> Layout:
        """The layout of texts given as token ids."""
        words = [row[~np.isin(row, special_ids)] for row in ids]
        return cls(
            torch.from_numpy(np.concatenate([np.empty(0, np.int64), *words])).to(device),
            torch.tensor([len(row) for row in words], dtype=torch.int64, device=device),
            torch.tensor([len(row) - 1 for row in ids], dtype=torch.int64, device=device),
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

    The weight of a term is the largest of its positions. Only the terms of the queries get
    columns, never the vocabulary: a term that no query has matches nothing. Where the columns of
    all texts are more than `BLOCK` cells, they are made in blocks, and again for the gradient.
    """
    texts = ((query_layout, query_weights), (passage_layout, passage_weights))
    rows = sum(len(layout.term_counts) for layout, _ in texts)
    limit = BLOCK.get(query_weights.device.type, BLOCK["cpu"])
    first, *others = torch.unique(query_layout.terms).split(max(1, limit // max(1, rows)))
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
        places = torch.searchsorted(columns, layout.terms).clamp_(max=max(0, width - 1))
        known = columns[places] == layout.terms if width else places.bool()
        index = (_owners(layout.term_counts) * width + places)[known]
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
