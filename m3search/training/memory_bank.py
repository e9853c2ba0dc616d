"""A fixed encoder's sentence vectors of passages of a training, for its steps to draw from."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m3search.training.devices import Devices
from m3search.training.imitation import Teacher

AT_ONCE = 4096
"""texts"""
ROOM = 4
"""how many times the vectors of a draw a bank has at most"""


class MemoryBank:
    """The vectors of N different texts, on the device; none of them ever changes.

    A step alone has few texts, nearly all of them far from each other, and little to tell a text
    from; a bank (Wu et al. 2018, arXiv 1805.01978) has thousands more at the price of a product.
    """

    def __init__(
        self,
        texts: Sequence[str],
        teacher: Teacher,
        max_length: int,
        devices: Devices,
        *,
        most: int,
    ) -> None:
        """most: how many of the texts it has, drawn once; texts: those that a draw is from.

        Every process encodes its part; 4 bytes x dimensions x texts in each of them.
        """
        different = list(dict.fromkeys(texts))
        if len(different) > most:
            different = random.Random(0).sample(different, most)
        different.sort(key=len)  # so that a pass has little padding
        own = different[devices.own(len(different))]
        starts = range(0, len(own), AT_ONCE)
        parts = [teacher.vectors(own[start : start + AT_ONCE], max_length) for start in starts]
        nothing = torch.zeros((0, teacher.dim), device=devices.device)
        self._vectors = devices.gather(torch.cat([nothing, *parts]))

    def draw(self, count: int, seed: int) -> Tensor:
        """(min(count, N), dim) vectors of different texts, the same for the same seed."""
        total = len(self._vectors)
        if count >= total:
            return self._vectors
        rows = np.random.default_rng(seed).choice(total, count, replace=False)
        return self._vectors[torch.from_numpy(rows).to(self._vectors.device)]
