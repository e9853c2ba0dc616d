"""RetroMAE: memory, precision and training of whole models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from largest_tensor import LargestTensor
from retromae_reference import (
    FIRST,
    LAST,
    SIZES,
    WORDS,
    make_backbone,
    make_batch,
    make_model,
    vocabulary,
)
from torch import Tensor
from transformers import (
    DebertaV2Config,
    DebertaV2Model,
    ModernBertConfig,
    ModernBertModel,
)

from m3search.errors import ArtifactError
from m3search.training.cross_entropy import linear_cross_entropy
from m3search.training.retromae import (
    RetroMAE,
    make_masked,
)


def test_a_batch_moves_as_a_whole() -> None:
    batch = make_batch()
    moved = batch.to("meta")
    assert [tensor.device.type for tensor in moved] == ["meta"] * 6
    assert [tensor.shape for tensor in moved] == [tensor.shape for tensor in batch]


def test_long_texts_are_masked_in_full() -> None:
    batch = make_batch((8192,), masks=8)
    assert (batch.labels != -100).sum() == pytest.approx(0.3 * 8190, abs=8)
    counts = batch.masks.sum(dim=-1)
    assert counts.shape == (1, 8)
    assert (counts - 0.5 * 8190).abs().max() <= 8


@pytest.mark.parametrize("lengths", [(2048,), (2048, 100)])
def test_memory_is_linear_in_the_length_of_a_text(lengths: tuple[int, ...]) -> None:
    backbone = make_backbone(max_position_embeddings=2048)
    model = RetroMAE(backbone, row_block=128, token_block=64).train()
    batch, sentence = make_batch(lengths, masks=32), torch.randn(len(lengths), 16)
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        if len(lengths) == 1:  # where texts are padded the encoder's own attention makes a mask
            model(batch).total.backward()
        else:
            model.decode(sentence, batch).sum().backward()
    assert max(saved) <= 2048 * max(24, WORDS)
    assert largest.elements <= len(lengths) * 128 * 2048 * 2  # rows of a block, seen by two heads


def test_logits_are_never_whole() -> None:
    states, labels = torch.randn(400, 8, requires_grad=True), torch.randint(0, 300, (400,))
    shares = torch.rand(400)
    head = torch.nn.Linear(8, 300)
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        loss, _ = linear_cross_entropy(states, head.weight, head.bias, labels, shares, 16)
        loss.backward()
    assert largest.elements == 16 * 300
    assert sum(saved) <= states.numel() + head.weight.numel() + head.bias.numel()


def test_one_gradient_of_the_word_embeddings_is_kept() -> None:
    model = make_model()
    shape, kept = model.backbone.get_input_embeddings().weight.shape, []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(make_batch())
    assert kept.count(shape) == 1


def test_a_few_steps_lower_both_losses() -> None:
    torch.manual_seed(3)
    model = make_model().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    texts = [np.array([FIRST, *([10 + n] * 8), LAST]) for n in range(8)]
    history = []
    for _ in range(25):
        losses = model(make_masked(texts, vocabulary(), rng.spawn(len(texts))))
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        history.append((float(losses.encoder), float(losses.decoder)))
    first, last = np.mean(history[:3], axis=0), np.mean(history[-3:], axis=0)
    assert (last < 0.5 * first).all()


def test_the_backbone_learns_from_both_losses() -> None:
    model = make_model("xlm-roberta")
    for tokens in ((9, math.inf), (math.inf, 9)):  # what is divided by it is not there
        (gradient,) = torch.autograd.grad(
            model(make_batch(), tokens).total, model.backbone.encoder.layer[0].output.dense.weight
        )
        assert gradient.abs().sum() > 0


def test_losses_are_float32_under_autocast() -> None:
    model, batch = make_model(), make_batch()
    plain = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch)
    losses.total.backward()
    for loss, exact in zip(losses, plain, strict=True):
        assert loss.dtype == torch.float32
        assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=0.03)
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


def test_an_encoder_without_learned_positions_is_refused() -> None:
    plain = {name: SIZES[name] for name in SIZES if "dropout" not in name}
    rotary = ModernBertModel(ModernBertConfig(**plain, cls_token_id=FIRST, sep_token_id=LAST))
    with pytest.raises(ArtifactError, match=r"modernbert.* found no layer_norm_eps"):
        RetroMAE(rotary)
    relative = DebertaV2Model(DebertaV2Config(**SIZES, position_biased_input=False))
    with pytest.raises(ArtifactError, match="no table of positions in its embeddings"):
        RetroMAE(relative)
