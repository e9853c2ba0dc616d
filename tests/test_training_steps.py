"""One training step: who is trained at which rate, clipping, precision, dropout, masks, scores."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from training_runs import changed, copy_weights, starting

from m3search.records import MODES
from m3search.training.drawing import Batch
from m3search.training.losses import TeacherShares, m3_loss
from m3search.training.optimiser import learning_rate_factor, make_optimiser
from m3search.training.recipe import Objective, Recipe
from m3search.training.run import Run
from m3search.training.start import start_model


def make_batch(queries: Sequence[str], passages: Sequence[str], **parts: Any) -> Batch:
    """Without masks, a teacher, or targets that mean anything."""
    shape = (len(queries), len(passages))
    empty = np.zeros((len(queries), 0), np.int64)
    targets = np.zeros(len(queries), np.int64)
    batch = Batch(list(queries), list(passages), targets, np.zeros(shape, bool), empty, empty * 1.0)
    return batch._replace(**parts)


def test_the_learning_rate_rises_and_falls(recipe: Recipe) -> None:
    longer = replace(recipe, optimiser=replace(recipe.optimiser, steps=10, warmup_ratio=0.2))
    rates = [learning_rate_factor(step, longer) for step in range(10)]
    assert rates == [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]


def test_heads_have_their_own_rate_and_only_matrices_decay(recipe: Recipe) -> None:
    options = replace(
        recipe.optimiser, learning_rate=1e-5, head_learning_rate=1e-3, weight_decay=0.1
    )
    model = start_model(recipe.start).model
    names = {parameter: name for name, parameter in model.named_parameters()}
    given = {
        names[parameter]: (group["lr"], group["base_lr"], group["weight_decay"])
        for group in make_optimiser(model, replace(recipe, optimiser=options)).param_groups
        for parameter in group["params"]
    }
    assert set(given) == set(names.values())
    for name, (rate, base, decay) in given.items():
        is_head = name.startswith(("sparse_linear.", "colbert_linear."))
        is_vector = name.endswith(".bias") or "LayerNorm" in name
        assert rate == base == (1e-3 if is_head else 1e-5), name
        assert decay == (0.0 if is_vector else 0.1), name


def test_each_step_sets_the_rates_of_its_number(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path)
    for step in range(2):
        metrics = run.train_step()
        for group in run.optimiser.param_groups:
            assert group["lr"] == group["base_lr"] * learning_rate_factor(step, recipe)
        assert metrics["learning_rate"] == 1e-3 * learning_rate_factor(step, recipe)


@pytest.mark.parametrize("limit", [1e-3, 1e6])
def test_a_long_gradient_is_clipped(recipe: Recipe, tmp_path: Path, limit: float) -> None:
    options = replace(recipe.optimiser, max_gradient_norm=limit)
    run = Run(replace(recipe, optimiser=options), tmp_path)
    found = run.train_step()["gradient_norm"]
    gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
    left = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    assert found > 1e-2
    assert left == pytest.approx(min(limit, found), rel=1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_dropout_is_that_of_the_recipe(recipe: Recipe, tmp_path: Path, dropout: float) -> None:
    run = Run(starting(recipe, dropout=dropout), tmp_path)
    layers = [module for module in run.model.modules() if isinstance(module, nn.Dropout)]
    assert layers
    assert all(layer.training and layer.p == dropout for layer in layers)
    texts = run.finetuning.read(run.sampler.batch(0))
    one, again, other = (run.finetuning.accumulate(step, texts)["loss"] for step in (2, 2, 3))
    assert one == again  # of one step it is always the same
    assert (one == other) == (dropout == 0)


def test_masked_passages_and_a_teacher_reach_the_loss(recipe: Recipe, tmp_path: Path) -> None:
    objective = Objective(self_distill_start_step=2, teacher="listwise")
    run = Run(replace(starting(recipe, dropout=0.0), objective=objective), tmp_path)
    queries, passages = ["what bread use", "why glacier use"], ["bread", "glacier", "coffee"]
    masked = np.array([[False, False, True], [True, False, False]])
    teacher = {
        "candidates": np.array([[0, 1], [-1, -1]]),
        "teacher_scores": np.array([[1.0, 2.0], [0.0, 0.0]], np.float32),
    }
    batch = make_batch(queries, passages, targets=np.array([0, 1]), masked=masked, **teacher)
    texts = run.finetuning.read(batch)
    found = []
    for step, distil in ((1, False), (2, True)):
        scored = run.finetuning.score(step, texts)
        order = scored.rows.argsort()
        expected = m3_loss(
            {mode: scores[order] for mode, scores in scored.scores.items()},
            torch.from_numpy(batch.targets),
            torch.from_numpy(batch.masked),
            objective,
            distil=distil,
            teacher=TeacherShares.of(
                torch.from_numpy(batch.candidates), torch.from_numpy(batch.teacher_scores)
            ),
        )
        metrics = run.finetuning.accumulate(step, texts)
        assert metrics["loss"] == pytest.approx(float(expected.total.detach()), rel=1e-5)
        assert ("loss_distillation" in metrics) == distil
        found.append(metrics["loss"])
    free = batch._replace(masked=np.zeros((2, 3), bool))
    unmasked = run.finetuning.accumulate(2, texts._replace(batch=free))
    nobody = {"candidates": batch.candidates[:, :0], "teacher_scores": batch.teacher_scores[:, :0]}
    alone = batch._replace(**nobody)
    untaught = run.finetuning.accumulate(2, texts._replace(batch=alone))
    assert len({found[1], unmasked["loss"], untaught["loss"]}) == 3


@pytest.mark.parametrize(
    ("objective", "begins"),
    [
        (Objective(), 0),
        (Objective(self_distill_start_step=2), 2),
        (Objective(self_distill=False), 9),
        (Objective(("dense", "multi"), self_distill_start_step=1), 1),
    ],
)
def test_self_distillation_begins_at_its_step(
    recipe: Recipe, tmp_path: Path, objective: Objective, begins: int
) -> None:
    run = Run(replace(recipe, objective=objective), tmp_path)
    taught = ["loss_distillation" in run.train_step() for _ in range(3)]
    assert taught == [step >= begins for step in range(3)]


def scores_of(run: Run, batches: Iterable[Batch]) -> dict[tuple[str, str, str], list[float]]:
    """The scores of every mode, query and passage in every batch that has both."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for batch in batches:
        scored = run.finetuning.score(0, run.finetuning.read(batch))
        for mode, scores in scored.scores.items():
            assert scores.shape == (len(batch.queries), len(batch.passages))
            for row, query in enumerate(scored.rows.tolist()):
                for column, passage in enumerate(batch.passages):
                    place = (mode, batch.queries[query], passage)
                    found.setdefault(place, []).append(float(scores[row, column].detach()))
    return found


@pytest.mark.parametrize("tokens", [16, 100, 8192])
def test_a_score_is_that_of_its_two_texts_whatever_the_batch(
    recipe: Recipe, tmp_path: Path, tokens: int
) -> None:
    """Not of the order, of the other texts, nor of how they are put through the model."""
    exact = starting(recipe, dropout=0.0)
    whole = Run(replace(exact, batches=replace(recipe.batches, sub_batch_tokens=8192)), tmp_path)
    batches = replace(recipe.batches, sub_batch_tokens=tokens, gradient_cache=tokens == 100)
    run = Run(replace(exact, batches=batches), tmp_path)
    with torch.no_grad():  # so that no head is as it was made
        for parameter, other in zip(run.model.parameters(), whole.model.parameters(), strict=True):
            parameter.copy_(other.add_(0.02 * torch.randn_like(other)))
    drawn = [whole.sampler.batch(step) for step in range(2)]
    queries = list(dict.fromkeys(query for batch in drawn for query in batch.queries))
    passages = list(dict.fromkeys(text for batch in drawn for text in batch.passages))
    passages += ["bread", "volcano " * 200, "."]
    wanted = scores_of(whole, [make_batch(queries, passages)])
    rng = random.Random(1)
    parts = []
    for size in (4, len(passages)):
        mixed = rng.sample(passages, len(passages))
        asked = rng.sample(queries, len(queries))
        parts += [make_batch(asked, mixed[i : i + size]) for i in range(0, len(mixed), size)]
    found = scores_of(run, parts)
    assert found.keys() == wanted.keys()
    assert {place[0] for place in found} == set(MODES)
    for place, scores in found.items():
        assert len(scores) == 2
        assert scores == pytest.approx(wanted[place] * 2, rel=1e-5, abs=1e-5), place


def test_bf16_runs_the_encoder_in_half_and_the_heads_in_full(
    recipe: Recipe, tmp_path: Path
) -> None:
    options = replace(recipe.optimiser, precision="bf16")
    run = Run(replace(recipe, optimiser=options), tmp_path)
    seen: dict[str, set[torch.dtype]] = {}

    def note(name: str) -> None:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen.setdefault(name, set()).add(output.dtype)

        run.model.get_submodule(name).register_forward_hook(hook)

    inside = "backbone.encoder.layer.0.intermediate.dense"
    for name in (inside, "sparse_linear", "colbert_linear"):
        note(name)
    before = copy_weights(run.model)
    metrics = run.train_step()
    assert seen == {
        inside: {torch.bfloat16},
        "sparse_linear": {torch.float32},
        "colbert_linear": {torch.float32},
    }
    assert metrics["gradient_norm"] > 0
    after = copy_weights(run.model)
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    assert {"sparse_linear.weight", f"{inside}.weight"} <= changed(before, after)


def test_a_fixed_encoder_stays_and_its_heads_learn(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(starting(recipe, fix_encoder=True, dropout=0.5), tmp_path)
    assert not run.model.backbone.training
    texts = run.finetuning.read(run.sampler.batch(0))
    one, two = (run.finetuning.accumulate(step, texts)["loss"] for step in (0, 1))
    assert one == two
    before = copy_weights(run.model)
    for _ in range(2):
        run.train_step()
    names = changed(before, copy_weights(run.model))
    assert names == {name for name in before if not name.startswith("backbone.")}
    run.save_state()
    again = Run(run.recipe, tmp_path)
    again.resume()
    assert again.step == 2
    assert changed(copy_weights(run.model), copy_weights(again.model)) == set()


def test_modes_that_are_not_trained_have_no_gradient(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(replace(recipe, objective=Objective(("sparse", "dense"))), tmp_path)
    before = copy_weights(run.model)
    metrics = run.train_step()
    names = changed(before, copy_weights(run.model))
    assert not any(name.startswith("colbert_linear.") for name in names)
    assert {"sparse_linear.weight", "sparse_linear.bias"} < names
    assert {"loss_dense", "loss_sparse", "loss_ensemble", "accuracy_ensemble"} < metrics.keys()
    assert not any("multi" in name for name in metrics)
