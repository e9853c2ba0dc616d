"""AdamW over the parameters of a model, and its learning rate over the steps."""

from __future__ import annotations

import math

import torch
from torch import nn

from m3search.training.recipe import Recipe

_HEADS = ("sparse_linear.", "colbert_linear.")


def make_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; heads have their own learning rate, biases and norms no weight decay.

    Parameters without a gradient are left out.
    """
    options = recipe.optimiser
    groups = []
    for is_head in (False, True):
        for decays in (False, True):
            chosen = [
                parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
                and name.startswith(_HEADS) == is_head
                and (parameter.ndim > 1) == decays
            ]
            rate = options.head_learning_rate if is_head else options.learning_rate
            decay = options.weight_decay if decays else 0.0
            if chosen:
                groups.append(
                    {"params": chosen, "base_lr": rate, "lr": rate, "weight_decay": decay}
                )
    return torch.optim.AdamW(groups, fused=True)


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Linear warm-up to 1 over the first steps, then linear decay.

    The last step still has 1 / (steps - warm-up steps); the one after it would have 0.
    """
    total = recipe.optimiser.steps
    warmup = math.ceil(recipe.optimiser.warmup_ratio * total)
    if step < warmup:
        return (step + 1) / warmup
    return (total - step) / max(1, total - warmup)
