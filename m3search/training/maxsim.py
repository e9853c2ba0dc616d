"""The best match of every query vector in every passage, with gradients and little memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import pad_sequence

BLOCK = {"cpu": 1 << 22, "cuda": 1 << 27}
"""similarities held at a time"""


def best_matches(queries: Tensor, passages: Tensor, counts: Sequence[int]) -> Tensor:
    """max_j q_i . p_j over the vectors of each passage: (vectors of all queries, P).

    queries (Tq, dim); passages (Tp, dim), those of passage 0 first, `counts` of each, all above 0.
    Every similarity is computed once and forgotten: what is kept for the gradient is the place of
    each maximum. As with `Tensor.max`, the first of equal ones gets all of the gradient.
    """
    best: Tensor = _BestMatches.apply(queries, passages, tuple(counts))  # type: ignore[no-untyped-call]
    return best


class _BestMatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, passages: Tensor, counts: tuple[int, ...]) -> Tensor:
        best = queries.new_empty(len(queries), len(counts))
        places = torch.empty(best.shape, dtype=torch.int32, device=best.device)
        parts = torch.split(passages, list(counts))
        starts = torch.tensor([0, *counts[:-1]], device=best.device).cumsum(0).to(torch.int32)
        limit = BLOCK.get(queries.device.type, BLOCK["cpu"])
        for first, last, longest in _blocks(counts, max(1, limit // max(1, len(queries)))):
            block = pad_sequence(list(parts[first:last]), batch_first=True)
            lengths = torch.tensor(counts[first:last], device=best.device)
            padding = torch.arange(longest, device=best.device) >= lengths[:, None]
            for rows in range(0, len(queries), step := max(1, limit // block[..., 0].numel())):
                similarity = torch.einsum("qd,pmd->qpm", queries[rows : rows + step], block)
                found = similarity.masked_fill_(padding, -torch.inf).max(dim=-1)
                best[rows : rows + step, first:last] = found.values
                places[rows : rows + step, first:last] = found.indices + starts[first:last]
        ctx.save_for_backward(queries, passages, places)
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        queries, passages, places = ctx.saved_tensors
        of_queries, of_passages = torch.zeros_like(queries), torch.zeros_like(passages)
        limit = BLOCK.get(queries.device.type, BLOCK["cpu"])
        columns = max(1, limit // max(1, queries.numel()))
        for first in range(0, places.shape[1], columns):
            place, share = places[:, first : first + columns], gradient[:, first : first + columns]
            matched = passages.index_select(0, place.flatten()).view(*place.shape, -1)
            of_queries += torch.einsum("qp,qpd->qd", share, matched)
            sent = share[..., None] * queries[:, None]
            of_passages.index_add_(0, place.flatten(), sent.flatten(0, 1))
        return of_queries, of_passages, None


def _blocks(counts: Sequence[int], limit: int) -> Iterator[tuple[int, int, int]]:
    """(first, end, longest) of runs of passages that padded hold at most `limit` vectors."""
    first, longest = 0, 0
    for place, count in enumerate(counts):
        if place > first and max(longest, count) * (place + 1 - first) > limit:
            yield first, place, longest
            first, longest = place, 0
        longest = max(longest, count)
    yield first, len(counts), longest
