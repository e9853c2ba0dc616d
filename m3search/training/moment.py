"""The model in training as an encoder, for what a run measures and mines between its steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from m3search.encoder import Encoder
from m3search.model.modeling import M3Model
from m3search.model.words import sparse_columns
from m3search.records import ModelIdentity, WordTerms


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Nothing is dropped out in the block; behind it every module trains, or not, as before."""
    training = {name for name, module in model.named_modules() if module.training}
    try:
        model.eval()
        yield
    finally:
        for name, module in model.named_modules():
            module.training = name in training


@contextmanager
def as_encoder(
    model: M3Model,
    tokenizer: PreTrainedTokenizerFast,
    *,
    step: int,
    max_length: int,
    device: torch.device,
    dtype: torch.dtype,
    word_terms: WordTerms = "none",
    idf: bool = False,
) -> Iterator[Encoder]:
    """The model as it is now; in the block it drops nothing out, behind it it trains on."""
    identity = ModelIdentity(
        name="the model in training",
        fingerprint=f"step {step}",
        dim=model.dim,
        vocabulary=sparse_columns(model.vocabulary, word_terms),
        multi_dim=model.multi_dim,
        max_length=max_length,
        pooling=model.pooling,
        word_terms=word_terms,
        idf=idf,
    )
    with evaluating(model):
        yield Encoder(model, tokenizer, identity, device=device, dtype=dtype)
