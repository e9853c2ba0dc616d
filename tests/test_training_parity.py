"""The loss, its parts and its gradients are those of FlagEmbedding's training forward pass."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from m3search.model.checkpoint import load_checkpoint
from m3search.model.modeling import M3Model
from m3search.model.tokenization import Tokenization, pad
from m3search.training.forward import represent, score
from m3search.training.losses import m3_loss
from m3search.training.recipe import Objective

TOLERANCE = 1e-5
GROUP = 3
"""passages per query, the first of them its positive"""
LENGTHS = {
    "equal lengths": ([6] * 4, [11] * 12),
    "padded": ([4, 9, 6, 7], [5, 12, 8, 8, 4, 10, 6, 12, 9, 7, 11, 3]),
}


@pytest.fixture
def parts(tiny_checkpoint: Path) -> tuple[M3Model, Any]:
    """The model in training mode without dropout, and its tokenizer.

    The bias makes every similarity of two token vectors positive, so that it does not matter that
    FlagEmbedding takes a padded vector's 0 into the maximum.
    """
    model, tokenizer, _ = load_checkpoint(tiny_checkpoint)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    nn.init.constant_(model.colbert_linear.bias, 2.0)
    nn.init.constant_(model.sparse_linear.bias, 0.5)
    return model.train(), tokenizer


def make_ids(lengths: list[int], seed: int) -> list[np.ndarray]:
    """Texts of 15 different pieces, so that queries and passages share some."""
    rng = np.random.default_rng(seed)
    return [np.array([0, *rng.integers(5, 20, length - 2), 2], np.int64) for length in lengths]


def reference_losses(
    model: M3Model, tokenizer: Any, ids: list[list[np.ndarray]], distil: bool
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """The total of FlagEmbedding, its four contrastive losses and its distillation losses."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        from FlagEmbedding.finetune.embedder.encoder_only.m3.modeling import (
            EncoderOnlyEmbedderM3Model,
        )
    contrastive: list[torch.Tensor] = []
    distillation: list[torch.Tensor] = []

    class Recorded(EncoderOnlyEmbedderM3Model):  # type: ignore[misc]
        def _compute_in_batch_neg_loss(self, *args: Any, **options: Any) -> Any:
            scores, loss = super()._compute_in_batch_neg_loss(*args, **options)
            contrastive.append(loss.detach().clone())
            return scores, loss

        def distill_loss(self, *args: Any) -> Any:
            loss = super().distill_loss(*args)
            distillation.append(loss.detach().clone())
            return loss

    reference = Recorded(
        {
            "model": model.backbone,
            "colbert_linear": model.colbert_linear,
            "sparse_linear": model.sparse_linear,
        },
        tokenizer=tokenizer,
        temperature=0.02,
        sentence_pooling_method="cls",
        normalize_embeddings=True,
        use_self_distill=distil,
    ).train()
    features = []
    for rows in ids:
        padded, mask = pad(rows, tokenizer.pad_token_id)
        inputs = {"input_ids": padded, "attention_mask": mask.astype(np.int64)}
        features.append({name: torch.from_numpy(array) for name, array in inputs.items()})
    return reference(*features).loss, contrastive, distillation


def gradients_of(loss: torch.Tensor, model: M3Model) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


@pytest.mark.parametrize("distil", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_loss_and_gradients_equal_those_of_flagembedding(
    parts: tuple[M3Model, Any], lengths: str, distil: bool
) -> None:
    model, tokenizer = parts
    ids = [make_ids(part, seed) for seed, part in enumerate(LENGTHS[lengths])]
    total, contrastive, distillation = reference_losses(model, tokenizer, ids, distil)
    tokenization = Tokenization(tokenizer)
    queries, passages = (represent(model, tokenization, rows, 64) for rows in ids)
    similarity = torch.einsum("qld,pmd->qplm", queries.vectors, passages.vectors)
    real = queries.mask[:, None, :, None] & passages.mask[None, :, None, :]
    assert float(similarity[real].min().detach()) > 0
    scores = score(queries, passages)
    assert float((scores.sparse > 0).float().mean()) > 0.5
    targets = torch.arange(len(ids[0])) * GROUP
    masked = torch.zeros(scores.dense.shape, dtype=torch.bool)
    found = m3_loss(scores, targets, masked, Objective(), distil)
    four = [found.dense, found.sparse, found.multi, found.ensemble]
    torch.testing.assert_close(torch.stack(four), torch.stack(contrastive), **close())
    torch.testing.assert_close(found.total, total, **close())
    if distil:
        dense, sparse, multi = distillation
        torch.testing.assert_close(
            found.distillation, (dense + 0.1 * sparse + multi) / 3, **close()
        )
    wanted = gradients_of(total, model)
    for name, gradient in gradients_of(found.total, model).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-4, msg=name)


def close() -> dict[str, float]:
    return {"rtol": TOLERANCE, "atol": TOLERANCE}
