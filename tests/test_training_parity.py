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
from test_training_gradients import assert_same
from torch import nn

from m3search.model.checkpoint import load_checkpoint
from m3search.model.modeling import M3Model
from m3search.model.tokenization import Tokenization, pad
from m3search.records import MODES, Mode
from m3search.training.encoding import represent
from m3search.training.losses import Losses, TeacherShares, m3_loss
from m3search.training.recipe import Objective
from m3search.training.representations import Layout, score_mode

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
    model: M3Model,
    tokenizer: Any,
    ids: list[list[np.ndarray]],
    distil: bool,
    teacher: str = "none",
    teacher_scores: list[list[float]] | None = None,
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
            contrastive.append(loss.clone())
            return scores, loss

        def distill_loss(self, *args: Any) -> Any:
            loss = super().distill_loss(*args)
            distillation.append(loss.clone())
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
        kd_loss_type={"listwise": "m3_kd_loss"}.get(teacher, "kl_div"),
    ).train()
    features = []
    for rows in ids:
        padded, mask = pad(rows, tokenizer.pad_token_id)
        inputs = {"input_ids": padded, "attention_mask": mask.astype(np.int64)}
        features.append({name: torch.from_numpy(array) for name, array in inputs.items()})
    flat = None if teacher_scores is None else [s for line in teacher_scores for s in line]
    loss = reference(*features, teacher_scores=flat).loss
    return loss, contrastive, distillation


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
    found = own_losses(model, tokenizer, ids, Objective(), distil)
    assert found.ensemble is not None
    four = [*found.modes.values(), found.ensemble]
    torch.testing.assert_close(torch.stack(four), torch.stack(contrastive), **close())
    torch.testing.assert_close(found.total, total, **close())
    if distil:
        assert found.distillation is not None
        dense, sparse, multi = distillation
        torch.testing.assert_close(
            found.distillation, (dense + 0.1 * sparse + multi) / 3, **close()
        )
        three = torch.stack([found.distilled[mode] for mode in MODES])
        torch.testing.assert_close(three, torch.stack(distillation), **close())
    assert_same(gradients_of(found.total, model), gradients_of(total, model))


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_is_distilled_as_in_flagembedding(parts: tuple[M3Model, Any], mode: Mode) -> None:
    """Its term alone: in the total a weight of 0.1 or the larger terms would hide much."""
    model, tokenizer = parts
    ids = [make_ids(part, seed) for seed, part in enumerate(LENGTHS["padded"])]
    _, _, distillation = reference_losses(model, tokenizer, ids, True)
    wanted = distillation[MODES.index(mode)]
    found = own_losses(model, tokenizer, ids, Objective(), True).distilled[mode]
    torch.testing.assert_close(found, wanted, **close())
    # a gradient of one term is the small difference of large ones, and so is what rounding leaves
    assert_same(gradients_of(found, model), gradients_of(wanted, model), tolerance=5e-5)


@pytest.mark.parametrize("kind", ["kl", "listwise"])
def test_a_teacher_s_scores_do_what_they_do_in_flagembedding(
    parts: tuple[M3Model, Any], kind: str
) -> None:
    """In the order that its list-wise loss needs: the best of the teacher first."""
    model, tokenizer = parts
    ids = [make_ids(part, seed) for seed, part in enumerate(LENGTHS["padded"])]
    taught = [[3.0, 1.0, -2.0], [0.5, 0.25, 0.0], [2.0, 1.5, 1.0], [4.0, -1.0, -1.5]]
    total, _, _ = reference_losses(model, tokenizer, ids, True, kind, taught)
    candidates = torch.arange(len(ids[1])).view(-1, GROUP)
    shuffled = torch.tensor([1, 2, 0])  # ours may come in any order
    teacher = TeacherShares.of(candidates[:, shuffled], torch.tensor(taught)[:, shuffled])
    objective = Objective(teacher=kind)  # type: ignore[arg-type]
    found = own_losses(model, tokenizer, ids, objective, True, teacher)
    torch.testing.assert_close(found.total, total, **close())
    assert_same(gradients_of(found.total, model), gradients_of(total, model))


def own_losses(
    model: M3Model,
    tokenizer: Any,
    ids: list[list[np.ndarray]],
    objective: Objective,
    distil: bool,
    teacher: TeacherShares | None = None,
) -> Losses:
    tokenization = Tokenization(tokenizer)
    queries, passages = (represent(model, tokenization, rows, MODES) for rows in ids)
    assert float((queries.vectors @ passages.vectors.T).min().detach()) > 0
    layouts = [Layout.of(rows, tokenization.special_ids, torch.device("cpu")) for rows in ids]
    scores = {mode: score_mode(mode, queries, layouts[0], passages, layouts[1]) for mode in MODES}
    assert float((scores["sparse"] > 0).float().mean()) > 0.5
    targets = torch.arange(len(ids[0])) * GROUP
    masked = torch.zeros(scores["dense"].shape, dtype=torch.bool)
    return m3_loss(scores, targets, masked, objective, distil=distil, teacher=teacher)


def close() -> dict[str, float]:
    return {"rtol": TOLERANCE, "atol": TOLERANCE}
