"""Which of PyTorch's ways to attention a training pass takes; they differ in nothing but speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

SHORT = {torch.bfloat16: 256, torch.float32: 96}
"""tokens up to which matrix products of whole heads are faster on a CPU, forward and backward, than
the fused attention, whose backward pass goes through small blocks one after the other: for 48
tokens half of a step's time (eval/benchmarks/training_attention.py). They hold a table of length^2
for each head, which in texts of this length is small beside the other activations."""


@contextmanager
def attention_for(backbone: PreTrainedModel, length: int) -> Iterator[None]:
    """Within it, the backbone attends in the way that is fastest for a pass over `length` tokens.

    Nothing changes on a GPU, in an encoder that has no fused attention, and with activation
    checkpointing, which repeats a forward pass when the next one has long been set up.
    """
    device = next(backbone.parameters()).device
    half = torch.is_autocast_enabled(device.type)
    short = length <= SHORT[torch.bfloat16 if half else torch.float32]
    fused = backbone.config._attn_implementation == "sdpa"
    repeated = any(getattr(module, "gradient_checkpointing", False) for module in backbone.modules())
    if device.type != "cpu" or not short or not fused or repeated:
        yield
        return
    backbone.set_attn_implementation("eager")
    try:
        yield
    finally:
        backbone.set_attn_implementation("sdpa")
