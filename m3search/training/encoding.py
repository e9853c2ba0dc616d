"""Texts of a step through the model in parts, and gradients back through the same parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from m3search.model.modeling import M3Model
from m3search.model.tokenization import Ids, Tokenization, pad
from m3search.records import Mode
from m3search.training.passes import attention_for, width_of
from m3search.training.representations import Representations

PRICES = {"cpu": 128, "cuda": 2048}
"""what a forward and backward pass costs beside its tokens, in tokens: on two CPU cores 20 to 100
of an encoder of 22 million weights, on a GPU what it could do while it is told what to do"""

Forward = Callable[[Sequence[Ids]], Representations]
"""token ids of some texts -> their representations, in order, with gradients where they are on"""


class Parts(NamedTuple):
    """How texts are cut into forward passes."""

    tokens: int
    """padded tokens of a pass at most; it holds one text at least"""
    price: int = 0
    """of a pass, in tokens"""

    @classmethod
    def on(cls, device: torch.device, tokens: int) -> Parts:
        """With the price of a pass on this device."""
        return cls(tokens, PRICES.get(device.type, PRICES["cuda"]))

    def cut(self, ids: Sequence[Ids]) -> list[tuple[int, int]]:
        """(start, end) of runs of texts, the longest first, whose cost is the least.

        The cost of a run is its padded tokens and the price; of all ways to cut, from the last text
        to the first, the best way for the texts from each one on is kept (dynamic programming).
        """
        lengths = np.array([len(row) for row in ids], np.int64)
        cost = np.zeros(len(ids) + 1, np.int64)
        end_of = np.zeros(len(ids), np.int64)
        for start in reversed(range(len(ids))):
            most = max(1, self.tokens // int(lengths[start]))
            ends = np.arange(start + 1, min(len(ids), start + most) + 1)
            costs = lengths[start] * (ends - start) + self.price + cost[ends]
            best = len(costs) - 1 - int(costs[::-1].argmin())  # of equal ones the fewest runs
            cost[start], end_of[start] = costs[best], ends[best]
        runs = [(0, int(end_of[0]))] if ids else []
        while runs and runs[-1][1] < len(ids):
            runs.append((runs[-1][1], int(end_of[runs[-1][1]])))
        return runs


class Encoding:
    """N texts encoded in parts of similar length; `backward` takes the gradients of the results.

    With `cached` no part keeps its activations: `backward` encodes each part a second time, with
    the same random numbers, and sends its share of the gradients through it (gradient caching, Gao
    et al. 2021, arXiv 2101.06983, here for dense vectors, lexical weights and token vectors). Only
    the activations of one part are held at a time, at the price of a second forward pass.
    """

    def __init__(
        self, forward: Forward, ids: Sequence[Ids], parts: Parts, *, cached: bool, seed: int
    ) -> None:
        """`parts`: how the texts are cut."""
        self._forward = forward
        self._seed = seed
        self.order = np.argsort([-len(row) for row in ids], kind="stable")
        """(N,) which text each row of the results is: the longest come first"""
        self.ids = [ids[i] for i in self.order]
        """token ids in the order of the results"""
        cut = [self.ids[start:end] for start, end in parts.cut(self.ids)]
        self._parts = cut or [[]]  # a process without a text takes part with empty tensors
        self._graphs: list[Representations | None] = []
        results = []
        for number in range(len(self._parts)):
            with torch.set_grad_enabled(not cached and torch.is_grad_enabled()):
                part = self._encode(number)
            results.append(Representations(*(tensor.detach() for tensor in part)))
            self._graphs.append(None if cached else part)
        self._sizes = [[len(tensor) for tensor in part] for part in results]
        self.results = Representations.concatenate(results)
        """all texts, the longest first, without a graph"""

    def backward(self, gradients: Representations) -> None:
        """Adds to the model's gradients, given those of the loss by each of the `results`."""
        columns = [
            torch.split(gradient, [sizes[column] for sizes in self._sizes])
            for column, gradient in enumerate(gradients)
        ]
        for number, shares in enumerate(zip(*columns, strict=True)):
            outputs, self._graphs[number] = self._graphs[number] or self._encode(number), None
            pairs = [(o, g) for o, g in zip(outputs, shares, strict=True) if o.requires_grad]
            if pairs:
                torch.autograd.backward([o for o, _ in pairs], [g for _, g in pairs])

    def _encode(self, number: int) -> Representations:
        torch.manual_seed(self._seed + number)  # the second pass drops out what the first did
        return self._forward(self._parts[number])


def represent(
    model: M3Model, tokenization: Tokenization, ids: Sequence[Ids], modes: Sequence[Mode]
) -> Representations:
    """One forward pass over the texts, padded to the longest; modes not asked come out empty."""
    device = next(model.parameters()).device
    if not ids:
        sizes = ((0, model.dim), (0,), (0, model.multi_dim))
        return Representations(*(torch.zeros(size, device=device) for size in sizes))
    padded, mask = pad(ids, tokenization.pad_id, width_of(model.backbone, ids))
    words = torch.from_numpy(mask & ~np.isin(padded, tokenization.special_ids)).to(device)
    real = torch.from_numpy(mask).to(device)
    with attention_for(model.backbone, padded.shape[1]):
        outputs = model(torch.from_numpy(padded).to(device), real.long())
    return Representations(
        outputs.dense if "dense" in modes else outputs.dense[:0].detach(),
        outputs.weights[words] if "sparse" in modes else outputs.weights[:0, 0].detach(),
        outputs.vectors[real[:, 1:]] if "multi" in modes else outputs.vectors[:0, 0].detach(),
    )
