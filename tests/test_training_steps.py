"""One training step: who is trained at which rate, clipping, precision, dropout, masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from training_runs import make_recipe, write_backbone

import m3search.training.loop as loop
from m3search.training.batching import Batch
from m3search.training.losses import m3_loss
from m3search.training.optimiser import learning_rate_factor, make_optimiser
from m3search.training.recipe import Recipe
from m3search.training.start import start_model


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, sample_texts: list[str]) -> Path:
    return write_backbone(tmp_path_factory.mktemp("bert"), sample_texts)


@pytest.fixture
def recipe(backbone: Path, tmp_path: Path) -> Recipe:
    return make_recipe(backbone, tmp_path / "data")


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
    run = loop.Run(recipe, tmp_path)
    for step in range(2):
        run.train_step()
        for group in run.optimiser.param_groups:
            assert group["lr"] == group["base_lr"] * learning_rate_factor(step, recipe)


@pytest.mark.parametrize("limit", [1e-3, 1e6])
def test_a_long_gradient_is_clipped(recipe: Recipe, tmp_path: Path, limit: float) -> None:
    options = replace(recipe.optimiser, max_gradient_norm=limit)
    run = loop.Run(replace(recipe, optimiser=options), tmp_path)
    found = run.train_step()["gradient_norm"]
    gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
    left = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    assert found > 1e-2
    assert left == pytest.approx(min(limit, found), rel=1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_dropout_is_that_of_the_recipe(recipe: Recipe, tmp_path: Path, dropout: float) -> None:
    run = loop.Run(replace(recipe, start=replace(recipe.start, dropout=dropout)), tmp_path)
    layers = [module for module in run.model.modules() if isinstance(module, nn.Dropout)]
    assert layers
    assert all(layer.training and layer.p == dropout for layer in layers)
    batch = run.sampler.batch(0)
    one, two = (float(run.losses_of(batch)[0].total.detach()) for _ in range(2))
    assert (one == two) == (dropout == 0)


def test_masked_passages_reach_the_loss(recipe: Recipe, tmp_path: Path) -> None:
    run = loop.Run(recipe, tmp_path)
    run.model.eval()
    run.step = recipe.objective.self_distill_start_step
    queries, passages = ["what bread use", "why glacier use"], ["bread", "glacier", "coffee"]
    batch = Batch(queries, passages, targets=[0, 1], masked=[(0, 2), (1, 0)])
    losses, scores, _, _ = run.losses_of(batch)
    masked = torch.tensor([[False, False, True], [True, False, False]])
    expected = m3_loss(scores, torch.tensor([0, 1]), masked, recipe.objective, True)
    assert float(losses.total.detach()) == float(expected.total.detach())
    unmasked = run.losses_of(batch._replace(masked=[]))[0]
    assert float(losses.total.detach()) < float(unmasked.total.detach())


def test_bf16_runs_the_encoder_in_half_and_the_heads_in_full(
    recipe: Recipe, tmp_path: Path
) -> None:
    options = replace(recipe.optimiser, precision="bf16")
    run = loop.Run(replace(recipe, optimiser=options), tmp_path)
    seen: dict[str, set[torch.dtype]] = {}

    def note(name: str) -> None:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen.setdefault(name, set()).add(output.dtype)

        run.model.get_submodule(name).register_forward_hook(hook)

    inside = "backbone.encoder.layer.0.intermediate.dense"
    for name in (inside, "sparse_linear", "colbert_linear"):
        note(name)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    metrics = run.train_step()
    assert seen == {
        inside: {torch.bfloat16},
        "sparse_linear": {torch.float32},
        "colbert_linear": {torch.float32},
    }
    assert metrics["gradient_norm"] > 0
    after = run.model.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    assert not torch.equal(after["sparse_linear.weight"], before["sparse_linear.weight"])
    name = f"{inside}.weight"
    assert not torch.equal(after[name], before[name])


def test_a_fixed_encoder_stays_and_its_heads_learn(recipe: Recipe, tmp_path: Path) -> None:
    start = replace(recipe.start, fix_encoder=True, dropout=0.5)
    run = loop.Run(replace(recipe, start=start), tmp_path)
    assert not run.model.backbone.training
    batch = run.sampler.batch(0)
    one, two = (float(run.losses_of(batch)[0].total.detach()) for _ in range(2))
    assert one == two
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.train(None)
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("backbone."), name
    again = loop.Run(run.recipe, tmp_path)
    again.resume()
    assert again.step == 6
