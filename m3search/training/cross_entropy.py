"""Cross-entropy over a vocabulary without the logits of all tokens in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def linear_cross_entropy(
    states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, shares: Tensor, block: int
) -> tuple[Tensor, Tensor]:
    """Cross-entropies of states @ weight.T + bias to the labels in float32: their sum, and each.

    states (T, width); weight (V, width); bias (V,); labels (T,) int64. The sum counts each row as
    often as `shares` (T,) says, and has the gradient; the (T,) cross-entropies have none. Only
    `block` rows of logits exist at a time. Their gradients are made at once, where the logits are,
    so that these are neither kept nor made twice: what is kept has the shapes of states, weight and
    bias. Where autocast is on, matrices are multiplied in its precision; the softmax is in float32.
    """
    found: tuple[Tensor, Tensor] = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, labels, shares, block
    )
    return found


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        shares: Tensor,
        block: int,
    ) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[:3]
        gradients = [torch.zeros_like(each) for each in (states, weight, bias)]
        of_states, of_weight, of_bias = gradients
        losses = torch.zeros(len(labels), device=states.device)
        for start in range(0, len(labels), block):
            rows = slice(start, start + block)
            part, own = states[rows], labels[rows, None]
            logits = functional.linear(part, weight, bias).float()
            logits -= logits.logsumexp(dim=1, keepdim=True)
            losses[rows] = -logits.gather(1, own)[:, 0]
            if not any(wanted):
                continue
            share = logits.exp_().scatter_add_(1, own, own.new_full(own.shape, -1).float())
            share *= shares[rows, None]
            if wanted[0]:
                of_states[rows] = share @ weight
            if wanted[1]:
                of_weight += share.T @ part
            if wanted[2]:
                of_bias += share.sum(dim=0)
        ctx.save_for_backward(
            *(each if asked else None for each, asked in zip(gradients, wanted, strict=True))
        )
        ctx.mark_non_differentiable(losses)
        return (shares * losses).sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors
        return (*(None if each is None else upstream[0] * each for each in kept), None, None, None)
