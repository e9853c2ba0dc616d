"""Scores of a batch with gradients, and the loss of M3 (arXiv 2402.03216v4, section 3.3).

The formulas are those of `m3search.scoring`; here they run on padded torch tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from m3search.training.recipe import Objective

_IMPOSSIBLE = -1e4
"""Score of a masked passage: its softmax is exactly 0 in float32 and no term becomes NaN."""


class Scores(NamedTuple):
    """Query by passage scores (Q, P) of each mode, before the temperature."""

    dense: Tensor
    sparse: Tensor
    multi: Tensor


class Losses(NamedTuple):
    """The parts of the loss, each a scalar; distillation parts are zero while it is off."""

    total: Tensor
    dense: Tensor
    sparse: Tensor
    multi: Tensor
    ensemble: Tensor
    distillation: Tensor


def lexical_scores(
    query_ids: Tensor, query_weights: Tensor, passage_ids: Tensor, passage_weights: Tensor
) -> Tensor:
    """s_lex (Q, P) from token ids and weights, without a vocabulary-wide matrix.

    ids (Q, L), (P, M) int64; weights of the same shapes, 0 where a position does not count. The
    batch's own ids are numbered 0..U-1, each text becomes a (U,) vector of its largest weights.
    """
    union, inverse = torch.unique(
        torch.cat([query_ids.reshape(-1), passage_ids.reshape(-1)]), return_inverse=True
    )
    q_index, p_index = inverse[: query_ids.numel()], inverse[query_ids.numel() :]

    def spread(index: Tensor, weights: Tensor) -> Tensor:
        table = weights.new_zeros(len(weights), len(union))
        return table.scatter_reduce(1, index.view_as(weights), weights, reduce="amax")

    return spread(q_index, query_weights) @ spread(p_index, passage_weights).T


def multi_scores(
    query: Tensor, query_mask: Tensor, passages: Tensor, passage_mask: Tensor
) -> Tensor:
    """s_mul (Q, P): mean over query vectors of the best match among a passage's real vectors.

    query (Q, L, dim), passages (P, M, dim); masks (Q, L), (P, M) bool. A padded vector never wins:
    it is -inf before the maximum (the reference gives it 0).
    """
    scores = []
    counts = query_mask.sum(dim=1).to(query.dtype)
    for vectors, mask in zip(torch.split(passages, 8), torch.split(passage_mask, 8), strict=True):
        similarity = torch.einsum("qld,pmd->qplm", query, vectors)
        best = similarity.masked_fill(~mask[None, :, None, :], -torch.inf).amax(dim=-1)
        kept = best.masked_fill(~query_mask[:, None, :], 0.0)
        scores.append(kept.sum(dim=-1) / counts[:, None])
    return torch.cat(scores, dim=1)


def m3_loss(
    scores: Scores, targets: Tensor, masked: Tensor, objective: Objective, distil: bool
) -> Losses:
    """The fine-tuning loss.

    L = (l1*L_dense + l2*L_sparse + l3*L_multi + L_ensemble) / 4 with InfoNCE losses; with
    distillation L' = (l1*L'_dense + l2*L'_sparse + l3*L'_multi) / 3, each L' the cross-entropy to
    the ensemble's softmax (no gradient through the teacher), and the total is (L + L') / 2.

    targets (Q,) int64; masked (Q, P) bool marks passages that are no negatives of a query.
    """
    heads = [(score / objective.temperature).masked_fill(masked, _IMPOSSIBLE) for score in scores]
    ensemble = _weigh(heads, objective.ensemble_weights)
    contrastive = [functional.cross_entropy(head, targets) for head in heads]
    joint = functional.cross_entropy(ensemble, targets)
    weights = objective.loss_weights
    total = (_weigh(contrastive, weights) + joint) / 4
    distillation = torch.zeros_like(joint)
    if distil:
        teacher = ensemble.detach().softmax(dim=-1)
        parts = [-(teacher * head.log_softmax(dim=-1)).sum(dim=-1).mean() for head in heads]
        distillation = _weigh(parts, weights) / 3
        total = (total + distillation) / 2
    dense, sparse, multi = contrastive
    return Losses(total, dense, sparse, multi, joint, distillation)


def _weigh(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([w * part for w, part in zip(weights, parts, strict=True)]).sum(dim=0)
