"""Checkpoints whose speed is that of a trained one of their shape: random weights, no download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from m3search.model.checkpoint import CheckpointInfo, load_tokenizer, save_checkpoint
from m3search.model.modeling import M3Model
from m3search.model.resolve import resolve

POSITIONS = 8192
VOCABULARY = 250_002


def write_untrained(folder: Path) -> None:
    """A checkpoint of the shape of BAAI/bge-m3 (24 layers of 1,024, token vectors of 1,024 numbers)
    with random weights in half precision and the tokenizer of the embedded m3-mini."""
    tokenizer = load_tokenizer(resolve(None)[1])
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=POSITIONS + 1 + tokenizer.pad_token_id,  # the first ones are unused
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = M3Model(XLMRobertaModel(config, add_pooling_layer=False), multi_dim=1024, pooling="cls")
    info = CheckpointInfo("cls", POSITIONS)
    save_checkpoint(folder, model, tokenizer, info, dtype=torch.float16)


def operations(model: M3Model, lengths: Sequence[int]) -> float:
    """Floating-point operations of the matrix products of a backbone's layers for texts of so many
    tokens: 2 for each weight and token, and 4 n^2 width for the attention of n tokens."""
    config = model.backbone.config
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    weights = 4 * width * width + 2 * width * inner
    return float(sum(layers * (2 * n * weights + 4 * n * n * width) for n in lengths))
