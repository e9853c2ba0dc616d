"""Attention on a GPU in ways that are ready for texts of every length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_READY = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@contextmanager
def ready_attention(device: torch.device) -> Iterator[None]:
    """Within it, a GPU does not attend by cuDNN, which PyTorch takes first on an H100 and later.

    cuDNN makes a plan for every new shape, forward and backward, and texts of mixed lengths have a
    new one in nearly every batch: on an H200 nine tenths of the training steps of an encoder of 22
    million weights went into its plans.
    """
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel(_READY):
        yield
