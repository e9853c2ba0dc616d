"""The loss of M3 fine-tuning (arXiv 2402.03216v4, section 3.3), with or without a teacher.

All of it runs on scores (Q, P) of Q queries with the P passages of a batch, and every part is a
mean over queries: parts of a batch can be summed by their share of its queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from m3search.records import Mode
from m3search.training.recipe import Objective

_IMPOSSIBLE = -1e9
"""Score of a masked passage, far below any at any temperature: its softmax is exactly 0 in float32,
and unlike with -inf no product with it becomes NaN."""


class TeacherShares(NamedTuple):
    """What a reranker says of some passages of each query."""

    candidates: Tensor
    """(Q, G) int64 columns of the scores, best of the teacher first, -1 behind the last"""
    shares: Tensor
    """(Q, G) softmax of the teacher's scores over the candidates; zeros where it has none"""

    @classmethod
    def of(cls, candidates: Tensor, scores: Tensor) -> TeacherShares:
        """From (Q, G) columns, -1 where there is none, and the teacher's scores of them.

        Queries with fewer than two candidates are left to the plain contrastive loss.
        """
        known = (candidates >= 0) & ((candidates >= 0).sum(dim=1, keepdim=True) > 1)
        scores = scores.masked_fill(~known, -torch.inf)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        candidates = candidates.masked_fill(~known, -1).gather(1, order)
        return cls(candidates, scores.softmax(dim=1).nan_to_num(0.0))


@dataclass(frozen=True)
class Losses:
    """The loss of a batch and what it is made of, each a scalar."""

    total: Tensor
    modes: Mapping[Mode, Tensor]
    """contrastive loss of each mode, before its weight"""
    ensemble: Tensor | None
    """contrastive loss of the weighted sum of all modes; None where one mode is trained"""
    distillation: Tensor | None
    """weighted mean of the self-distillation losses; None while there is none"""
    distilled: Mapping[Mode, Tensor] = field(default_factory=dict)
    """self-distillation loss of each mode, before its weight; empty while there is none"""

    def named(self) -> dict[str, float]:
        """For the log: loss, loss_dense, ..., loss_distillation_dense, ..."""
        parts: dict[str, Tensor | None] = dict(self.modes.items())
        parts |= {"ensemble": self.ensemble, "distillation": self.distillation}
        parts |= {f"distillation_{mode}": part for mode, part in self.distilled.items()}
        named = {f"loss_{name}": float(part) for name, part in parts.items() if part is not None}
        return {"loss": float(self.total)} | named


def m3_loss(
    scores: Mapping[Mode, Tensor],
    targets: Tensor,
    masked: Tensor,
    objective: Objective,
    *,
    distil: bool,
    teacher: TeacherShares | None = None,
) -> Losses:
    """The fine-tuning loss over the modes that have scores.

    L = (sum of l_m * L_m over the n modes + L_ensemble) / (n + 1). With distillation L' = (sum of
    l_m * L'_m) / n, each L'_m the cross-entropy of the mode's softmax to the ensemble's, without a
    gradient through the teacher, and the total is (L + L') / 2. All scores are divided by the
    temperature. One mode alone has L = L_m.

    scores: (Q, P) by mode; targets (Q,) int64; masked (Q, P) bool marks passages that are no
    negatives of a query. teacher: a reranker's scores, used as `objective.teacher` says.
    """
    heads = {
        mode: (score / objective.temperature).masked_fill(masked, _IMPOSSIBLE)
        for mode, score in scores.items()
    }
    guided = teacher if objective.teacher != "none" else None
    losses = {m: _contrast(head, targets, objective.teacher, guided) for m, head in heads.items()}
    if len(heads) == 1:
        (only,) = losses.values()
        return Losses(only, losses, None, None)
    ensemble = _weigh(heads, objective.weights_of("ensemble"))
    joint = _contrast(ensemble, targets, objective.teacher, guided)
    weights = objective.weights_of("loss")
    total = (_weigh(losses, weights) + joint) / (len(heads) + 1)
    if not distil:
        return Losses(total, losses, joint, None)
    shares = ensemble.detach().softmax(dim=-1)
    distilled = {mode: _cross_entropy(shares, head) for mode, head in heads.items()}
    distillation = _weigh(distilled, weights) / len(heads)
    return Losses((total + distillation) / 2, losses, joint, distillation, distilled)


def _contrast(scores: Tensor, targets: Tensor, kind: str, teacher: TeacherShares | None) -> Tensor:
    """InfoNCE with the targets as positives, or what a teacher makes of it."""
    if teacher is None:
        return functional.cross_entropy(scores, targets)
    if kind == "kl":
        absent = teacher.candidates < 0
        group = scores.gather(1, teacher.candidates.clamp(min=0)).masked_fill(absent, _IMPOSSIBLE)
        return functional.cross_entropy(scores, targets) + _cross_entropy(teacher.shares, group)
    return _listwise(scores, targets, teacher)


def _listwise(scores: Tensor, targets: Tensor, teacher: TeacherShares) -> Tensor:
    """Each candidate in turn, the teacher's best first, against all passages but those before it.

    sum over i of share_i * InfoNCE(candidate i): the list-wise distillation of FlagEmbedding's
    `m3_kd_loss`, which needs candidates in the teacher's order. A query without a teacher has the
    plain InfoNCE.
    """
    untaught = (teacher.candidates < 0).all(dim=1)
    plain = functional.cross_entropy(scores, targets, reduction="none")
    total = torch.where(untaught, plain, torch.zeros_like(plain))
    for place in range(teacher.candidates.shape[1]):
        candidate, share = teacher.candidates[:, place], teacher.shares[:, place]
        loss = functional.cross_entropy(scores, candidate.clamp(min=0), reduction="none")
        total = total + torch.where(candidate >= 0, share * loss, torch.zeros_like(loss))
        # behind the last candidate of a query no place counts any more
        scores = scores.scatter(1, candidate.clamp(min=0)[:, None], _IMPOSSIBLE)
    return total.mean()


def _cross_entropy(shares: Tensor, scores: Tensor) -> Tensor:
    """Mean over queries of -sum of shares * log softmax(scores)."""
    return -(shares * scores.log_softmax(dim=-1)).sum(dim=-1).mean()


def _weigh(parts: Mapping[Mode, Tensor], weights: Mapping[Mode, float]) -> Tensor:
    return torch.stack([weights[mode] * part for mode, part in parts.items()]).sum(dim=0)
