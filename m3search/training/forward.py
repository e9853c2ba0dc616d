"""Texts of a batch through the model: padded tensors of all three modes, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from m3search.model.modeling import M3Model
from m3search.model.tokenization import Ids, Tokenization, pad
from m3search.training.losses import Scores, lexical_scores, multi_scores


class Representations(NamedTuple):
    """N texts in all three modes; L is the longest text."""

    dense: Tensor
    """(N, dim)"""
    ids: Tensor
    """(N, L) int64"""
    weights: Tensor
    """(N, L) lexical weights, 0 at special tokens and padding"""
    vectors: Tensor
    """(N, L - 1, multi_dim)"""
    mask: Tensor
    """(N, L - 1) bool, True at real vectors"""


def represent(
    model: M3Model, tokenization: Tokenization, ids: Sequence[Ids], sub_batch_tokens: int
) -> Representations:
    """All texts in their order; forward passes take texts of similar length together."""
    device = next(model.parameters()).device
    order = np.argsort([-len(row) for row in ids], kind="stable")
    width = len(ids[order[0]])
    parts: list[Representations] = []
    start = 0
    while start < len(order):
        size = max(1, sub_batch_tokens // len(ids[order[start]]))
        rows = [ids[i] for i in order[start : start + size]]
        parts.append(_forward(model, tokenization, rows, width, device))
        start += size
    back = torch.from_numpy(np.argsort(order)).to(device)
    columns = zip(*parts, strict=True)
    return Representations(*(torch.cat(column).index_select(0, back) for column in columns))


def score(queries: Representations, passages: Representations) -> Scores:
    """Every query with every passage in each mode."""
    return Scores(
        queries.dense @ passages.dense.T,
        lexical_scores(queries.ids, queries.weights, passages.ids, passages.weights),
        multi_scores(queries.vectors, queries.mask, passages.vectors, passages.mask),
    )


def _forward(
    model: M3Model, tokenization: Tokenization, rows: list[Ids], width: int, device: torch.device
) -> Representations:
    padded, mask = pad(rows, tokenization.pad_id)
    words = mask & ~np.isin(padded, tokenization.special_ids)
    input_ids = torch.from_numpy(padded).to(device)
    attention = torch.from_numpy(mask.astype(np.int64)).to(device)
    outputs = model(input_ids, attention)
    missing = width - padded.shape[1]
    weights = outputs.weights * torch.from_numpy(words).to(device)
    return Representations(
        outputs.dense,
        functional.pad(input_ids, (0, missing)),
        functional.pad(weights, (0, missing)),
        functional.pad(outputs.vectors, (0, 0, 0, missing)),
        functional.pad(attention[:, 1:].bool(), (0, missing)),
    )
