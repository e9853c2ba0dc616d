"""What makes a forward and backward pass fast and changes nothing of what it computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from m3search.model.attention import ready_attention
from m3search.model.layout import count_positions
from m3search.model.tokenization import Ids
from m3search.records import BoolArray

MULTIPLE = 8
"""tokens. On a CPU oneDNN compiles its kernels anew for every shape, which takes longer than a
small pass; GPUs multiply matrices of such sizes faster."""

SHORT = 128
"""tokens up to which, in bfloat16 on a CPU, matrix products of whole heads are faster forward and
backward than the fused attention, whose backward pass goes through small blocks one after the other
(eval/benchmarks/training_attention.py). Their price is memory, tables of length^2 for each head of
each layer. In an encoder of the size of m3-mini's a pass keeps 1.2 times as much with them as
without at 48 tokens and 1.5 times at 128; with dropout no more, as the fused attention of a CPU has
none and keeps the same tables then."""


@contextmanager
def attention_for(backbone: PreTrainedModel, length: int) -> Iterator[None]:
    """Within it, the backbone attends in the way that is fastest for a pass over `length` tokens.

    On a GPU as `ready_attention` says; on a CPU nothing changes in float32, in an encoder that has
    no fused attention, and with activation checkpointing, which repeats a forward pass when the
    next one has long been set up.
    """
    if not _by_products(backbone, length):
        with ready_attention(next(backbone.parameters()).device):
            yield
        return
    backbone.set_attn_implementation("eager")
    try:
        yield
    finally:
        backbone.set_attn_implementation("sdpa")


def _by_products(backbone: PreTrainedModel, length: int) -> bool:
    return (
        length <= SHORT
        and next(backbone.parameters()).device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and backbone.config._attn_implementation == "sdpa"
        and not any(getattr(part, "gradient_checkpointing", False) for part in backbone.modules())
    )


def width_of(backbone: PreTrainedModel, texts: Sequence[Ids]) -> int:
    """Columns that texts are padded to: the length of the longest in tokens, up to a multiple of 8
    where the backbone has positions for it."""
    longest = max(map(len, texts))
    positions = count_positions(backbone.config.to_dict())
    return max(longest, min(-(-longest // MULTIPLE) * MULTIPLE, positions))


class States(NamedTuple):
    """What an encoder makes of B texts, padded to L tokens."""

    ids: Ids
    """(B, L)"""
    real: BoolArray
    """(B, L) whether a token is no padding"""
    mask: Tensor
    """the same on the encoder's device"""
    states: Tensor
    """(B, L, hidden) the last ones, in float32"""


def read_states(backbone: PreTrainedModel, ids: Ids, real: BoolArray) -> States:
    """One forward pass over token ids (B, L), where `real` ones are no padding."""
    device = next(backbone.parameters()).device
    mask = torch.from_numpy(real).to(device)
    with attention_for(backbone, ids.shape[1]):
        inputs = {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": mask.long()}
        states = backbone(**inputs)[0].float()
    return States(ids, real, mask, states)
