"""Tiny RetroMAE models, and their losses written with loops and whole matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    BertConfig,
    BertModel,
    ElectraConfig,
    ElectraModel,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from m3search.model.modeling import Pooling
from m3search.training.masking import Vocabulary
from m3search.training.retromae import (
    Masked,
    RetroMAE,
    make_masked,
)

WORDS = 60


PAD, FIRST, LAST, MASK = 1, 0, 2, 4


SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "pad_token_id": PAD,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.3,
}


def vocabulary() -> Vocabulary:
    """60 ids, the first five special; every third piece begins a word."""
    ids = np.arange(WORDS)
    return Vocabulary(ids % 3 == 0, ids < 5, mask_id=MASK, pad_id=PAD)


def make_backbone(kind: str = "bert", **sizes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    settings = SIZES | sizes
    if kind == "xlm-roberta":
        return XLMRobertaModel(XLMRobertaConfig(**settings), add_pooling_layer=False)
    if kind == "electra":
        return ElectraModel(ElectraConfig(embedding_size=6, **settings))
    return BertModel(BertConfig(**settings), add_pooling_layer=False)


def make_model(kind: str = "bert", pooling: Pooling = "cls", **blocks: int) -> RetroMAE:
    backbone = make_backbone(kind)
    torch.manual_seed(1)
    return RetroMAE(backbone, pooling=pooling, **blocks).eval()


def make_batch(lengths: tuple[int, ...] = (12, 7), masks: int = 5, seed: int = 0) -> Masked:
    rng = np.random.default_rng(seed)
    texts = [np.array([FIRST, *rng.integers(5, WORDS, n - 2), LAST]) for n in lengths]
    return make_masked(texts, vocabulary(), rng.spawn(len(texts)), masks=masks)


def slow_visible(batch: Masked) -> Tensor:
    texts, length = batch.ids.shape
    visible = torch.zeros(texts, length, length, dtype=torch.bool)
    for b in range(texts):
        for i in range(length):
            for j in range(length):
                hidden = bool(batch.masks[b, int(batch.choice[b, i]), j])
                real = bool(batch.attention_mask[b, j])
                visible[b, i, j] = j == 0 or (real and j != i and not hidden)
    return visible


def slow_losses(model: RetroMAE, batch: Masked) -> tuple[Tensor, Tensor]:
    """Both losses with the whole matrices, one head of attention at a time."""
    backbone: Any = model.backbone
    output = backbone(input_ids=batch.encoder_ids, attention_mask=batch.attention_mask)[0]
    real = batch.attention_mask.bool()
    if model.pooling == "cls":
        sentence = output[:, 0]
    else:
        sentence = torch.stack([o[r].mean(dim=0) for o, r in zip(output, real, strict=True)])
    length = batch.ids.shape[1]
    parts, shift = backbone.embeddings, getattr(backbone.embeddings, "padding_idx", -1) + 1
    place = parts.position_embeddings.weight[shift : shift + length]
    place = place + parts.token_type_embeddings.weight[0]
    words = parts.word_embeddings.weight
    memory = parts.LayerNorm(words[batch.ids] + place)
    if hasattr(backbone, "embeddings_project"):
        memory = backbone.embeddings_project(memory)
        queries = sentence[:, None] + backbone.embeddings_project(parts.LayerNorm(place))
    else:
        queries = parts.LayerNorm(sentence[:, None] + place)
    memory = torch.cat([sentence[:, None], memory[:, 1:]], dim=1)
    layer, visible = model.decoder, slow_visible(batch)
    q, k, v = layer.query(queries), layer.key(memory), layer.value(memory)
    joined = []
    for head in range(2):
        of = slice(8 * head, 8 * head + 8)
        scores = q[..., of] @ k[..., of].transpose(1, 2) / math.sqrt(8)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        joined.append(weights @ v[..., of])
    states = layer.attention_norm(queries + layer.joined(torch.cat(joined, dim=-1)))
    wide = functional.gelu(layer.widened(states))
    states = layer.output_norm(states + layer.narrowed(wide))
    losses = []
    for rows, wanted in ((output, batch.labels), (states, slow_labels(batch))):
        transformed = model.head.norm(functional.gelu(model.head.dense(rows)))
        logits = transformed @ words.T + model.head.bias
        losses.append(functional.cross_entropy(logits.flatten(0, 1), wanted.flatten()))
    return losses[0], losses[1]


def slow_labels(batch: Masked) -> Tensor:
    labels = torch.full_like(batch.ids, -100)
    for b, length in enumerate(batch.attention_mask.sum(dim=1).tolist()):
        labels[b, 1 : length - 1] = batch.ids[b, 1 : length - 1]
    return labels


def gradients(model: RetroMAE, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}
