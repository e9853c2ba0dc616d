"""More learned positions for an encoder, so that it can be trained on longer texts."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from m3search.errors import ConfigError


def extend_positions(backbone: PreTrainedModel, positions: int) -> None:
    """Gives `backbone` positions for texts of `positions` tokens, special ones included, in place.

    The new rows of a learned position table repeat the learned ones in order, as in Longformer
    (arXiv 2004.05150, section 5), so that neighbours are told apart from the first step on. What
    the encoder says of texts that fitted before does not change. XLM-RoBERTa's rows up to its
    padding id belong to no token and are neither counted nor repeated.
    An encoder without such a table (rotary positions) only has its stated limit raised.
    """
    embeddings = getattr(backbone, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        table = None
    reserved = 0 if table is None or table.padding_idx is None else table.padding_idx + 1
    current = int(backbone.config.max_position_embeddings) - reserved
    if positions < current:
        raise ConfigError(
            "positions",
            expected=f"at least {current}, what the encoder has",
            found=str(positions),
            remedy="Train on shorter texts instead; positions are never taken away.",
        )
    backbone.config.max_position_embeddings = positions + reserved
    if table is not None and positions > current:
        _grow(table, reserved, positions)
        _grow_buffers(cast(nn.Module, embeddings), positions + reserved)


def _grow(table: nn.Embedding, reserved: int, positions: int) -> None:
    """Repeats the rows behind the `reserved` ones until there are `positions` of them."""
    old = table.weight
    repeated = torch.arange(positions, device=old.device) % (len(old) - reserved)
    weight = torch.cat([old.detach()[:reserved], old.detach()[reserved:][repeated]])
    table.weight = nn.Parameter(weight, requires_grad=old.requires_grad)
    table.num_embeddings = len(weight)


def _grow_buffers(embeddings: nn.Module, rows: int) -> None:
    """Sizes the buffers that hold one id for each row of the table: 0, 1, ... and all zero."""
    for name in ("position_ids", "token_type_ids"):
        buffer = getattr(embeddings, name, None)
        if isinstance(buffer, torch.Tensor):
            ids = torch.arange(rows, dtype=buffer.dtype, device=buffer.device)
            setattr(embeddings, name, (ids if name == "position_ids" else ids * 0).expand(1, -1))
