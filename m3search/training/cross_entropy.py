"""Cross-entropy over a vocabulary without the logits of all tokens in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def linear_cross_entropy(
    states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, block: int
) -> Tensor:
    """Mean cross-entropy of states @ weight.T + bias to the labels, a float32 scalar; 0 of no row.

    states (T, width); weight (V, width); bias (V,); labels (T,) int64. Only `block` rows of logits
    exist at a time. Their gradients are made at once, where the logits are, so that these are
    neither kept nor made twice: what is kept has the shapes of states, weight and bias. Where
    autocast is on, matrices are multiplied in its precision; the softmax is in float32.
    """
    mean: Tensor = _LinearCrossEntropy.apply(states, weight, bias, labels, block)  # type: ignore[no-untyped-call]
    return mean


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, block: int
    ) -> Tensor:
        wanted = ctx.needs_input_grad[:3]
        gradients = [torch.zeros_like(each) for each in (states, weight, bias)]
        of_states, of_weight, of_bias = gradients
        total = torch.zeros((), device=states.device)
        scale = 1 / max(1, len(labels))
        for start in range(0, len(labels), block):
            rows = slice(start, start + block)
            part, own = states[rows], labels[rows, None]
            logits = functional.linear(part, weight, bias).float()
            logits -= logits.logsumexp(dim=1, keepdim=True)
            total -= logits.gather(1, own).sum()
            if not any(wanted):
                continue
            share = logits.exp_().scatter_add_(1, own, own.new_full(own.shape, -1).float())
            share *= scale
            if wanted[0]:
                of_states[rows] = share @ weight
            if wanted[1]:
                of_weight += share.T @ part
            if wanted[2]:
                of_bias += share.sum(dim=0)
        ctx.save_for_backward(
            *(each if asked else None for each, asked in zip(gradients, wanted, strict=True))
        )
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors
        return (*(None if each is None else upstream[0] * each for each in kept), None, None)
