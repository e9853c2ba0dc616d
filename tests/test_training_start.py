"""The model that a training starts from: its heads, lengths, adapters and frozen parts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training_runs import changed, copy_weights, starting

from m3search.encoder import Encoder
from m3search.errors import ArtifactError, ConfigError, M3Error
from m3search.model.checkpoint import load_checkpoint, read_info
from m3search.training.imitation import Teacher
from m3search.training.inputs import Lora
from m3search.training.mining.reranker import Reranker
from m3search.training.recipe import Distillation, Objective, Recipe
from m3search.training.run import Run
from m3search.training.start import average_backbone, positions_of, start_model

LORA = Lora(rank=2, targets=("query", "output.dense"))


def saved(recipe: Recipe, folder: Path, steps: int = 0) -> Path:
    """The checkpoint of a run after a few steps."""
    run = Run(recipe, folder)
    for _ in range(steps):
        run.train_step()
    run.save()
    return folder


@pytest.mark.parametrize("name", ["nowhere", "checkpoints/nowhere"])
def test_a_start_that_is_nowhere_is_named_by_its_setting(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise OSError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    teacher = Distillation(name)
    for setting, load in (
        ("start.checkpoint", lambda: start_model(starting(recipe, checkpoint=name).start)),
        ("distillation.teacher", lambda: Teacher(teacher, torch.device("cpu"), half=False)),
        ("reranker", lambda: Reranker.load(name)),
    ):
        with pytest.raises(M3Error) as caught:
            load()
        assert caught.value.where.startswith(setting)
        assert name in str(caught.value)
        assert not any(word in str(caught.value) for word in ("--model", "m3-mini"))


@pytest.mark.parametrize("name", ["query_max_length", "passage_max_length"])
def test_no_text_is_longer_than_the_encoder_has_positions(
    recipe: Recipe, tmp_path: Path, name: str
) -> None:
    opened = starting(recipe, max_length=None)
    longer = replace(opened, data=replace(recipe.data, **{name: 129}))
    message = rf"data\.{name}: expected at most 128.*found 129.*start\.max_length to 129"
    with pytest.raises(ConfigError, match=message):
        Run(longer, tmp_path)
    Run(replace(recipe, data=replace(recipe.data, **{name: 128})), tmp_path)


def test_an_xlm_roberta_has_fewer_positions_than_embeddings(
    recipe: Recipe, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    started = starting(recipe, checkpoint=str(tiny_checkpoint), multi_dim=None, max_length=None)
    assert start_model(started.start).max_length == 8192
    with pytest.raises(ConfigError, match="at most 8192"):
        Run(replace(started, data=replace(recipe.data, passage_max_length=8193)), tmp_path)


def test_what_a_plain_encoder_leaves_open(recipe: Recipe, tmp_path: Path) -> None:
    opened = starting(recipe, multi_dim=None, pooling=None, max_length=None)
    started = start_model(opened.start)
    assert (started.model.multi_dim, started.model.pooling) == (started.model.dim, "cls")
    assert (started.max_length, started.heads) == (128, ())
    out = saved(opened, tmp_path / "out")
    assert (read_info(out).max_length, read_info(out).pooling) == (128, "cls")
    Encoder.load(out).encode(["word " * 300])


def test_an_m3_checkpoint_keeps_its_heads_pooling_and_length(
    recipe: Recipe, tmp_path: Path
) -> None:
    first = saved(starting(recipe, max_length=100), tmp_path / "first", steps=1)
    start = starting(
        recipe, checkpoint=str(first), multi_dim=None, pooling=None, max_length=None
    ).start
    model, _, max_length, heads, *_ = start_model(start)
    assert (model.pooling, model.multi_dim, max_length) == ("mean", 8, 100)
    assert set(heads) == {"sparse", "multi"}
    trained, _, _ = load_checkpoint(first)
    assert changed(copy_weights(trained), copy_weights(model)) == set()
    other = start_model(replace(start, pooling="cls", max_length=128, multi_dim=8))
    assert (other.model.pooling, other.max_length) == ("cls", 128)
    with pytest.raises(ArtifactError, match=r"start\.multi_dim"):
        start_model(replace(start, multi_dim=16))
    (first / "sparse_linear.pt").unlink()
    with pytest.raises(ArtifactError, match=r"sparse_linear\.pt"):
        start_model(start)


def test_the_head_that_a_checkpoint_has_not_is_new(recipe: Recipe, tmp_path: Path) -> None:
    sparse = replace(recipe, objective=Objective(("sparse",)))
    first = saved(sparse, tmp_path / "first", steps=1)
    start = starting(recipe, checkpoint=str(first), multi_dim=5).start
    torch.manual_seed(0)
    one = start_model(start)
    two = start_model(start)
    assert one.heads == ("sparse",)
    assert one.model.multi_dim == 5
    names = changed(copy_weights(one.model), copy_weights(two.model))
    assert names == {"colbert_linear.weight", "colbert_linear.bias"}
    head = torch.load(first / "sparse_linear.pt", weights_only=True)
    assert torch.equal(one.model.sparse_linear.weight, head["weight"])


@pytest.mark.parametrize("start_weight", [0.0, 0.5])
def test_a_longer_limit_extends_the_positions(
    recipe: Recipe, tmp_path: Path, start_weight: float
) -> None:
    """A text that fitted before is read as before, and a longer one is read, too."""
    plain = saved(recipe, tmp_path / "plain")
    longer = starting(recipe, max_length=200)
    data = replace(recipe.data, passage_max_length=200)
    output = replace(recipe.output, start_weight=start_weight)
    out = saved(replace(longer, data=data, output=output), tmp_path / "out")
    assert positions_of(start_model(longer.start).model) == 200
    assert read_info(out).max_length == 200
    short, long = "how bread is used", "guitar " * 300
    encoder = Encoder.load(out)
    np.testing.assert_allclose(
        encoder.encode([short]).dense, Encoder.load(plain).encode([short]).dense, atol=1e-6
    )
    assert len(encoder.encode([long]).multi[0]) == 199
    half = encoder.encode(["guitar " * 100]).dense
    assert abs(float((encoder.encode([long]).dense * half).sum()) - 1) > 1e-6


def test_adapters_and_heads_alone_are_trained(recipe: Recipe, tmp_path: Path) -> None:
    adapted = starting(recipe, lora=replace(LORA, dropout=0.4), dropout=0.3)
    run = Run(adapted, tmp_path / "run")
    names = {n for n, parameter in run.model.named_parameters() if parameter.requires_grad}
    heads = {n for n in names if n.startswith(("sparse_linear.", "colbert_linear."))}
    assert len(heads) == 4
    # of two layers: query, and the ends of attention and feed-forward, each A and B
    assert len(names - heads) == 2 * 3 * 2
    assert all(".lora_A." in name or ".lora_B." in name for name in names - heads)
    given = {id(p) for group in run.optimiser.param_groups for p in group["params"]}
    assert given == {id(p) for p in run.model.parameters() if p.requires_grad}
    for name, layer in run.model.named_modules():
        if isinstance(layer, nn.Dropout):
            assert layer.p == (0.4 if "lora_" in name else 0.3)
    before = copy_weights(run.model)
    for _ in range(2):  # the first step moves B alone, as A's gradient has B = 0 as a factor
        run.train_step()
    assert changed(before, copy_weights(run.model)) == names
    assert run.optimiser.param_groups[0]["base_lr"] == recipe.optimiser.learning_rate


@pytest.mark.parametrize("start_weight", [0.0, 0.25])
def test_adapters_are_merged_into_the_finished_encoder(
    recipe: Recipe, tmp_path: Path, start_weight: float
) -> None:
    run = Run(starting(recipe, lora=LORA, dropout=0.0), tmp_path / "run")
    for _ in range(2):
        run.train_step()
    before = copy_weights(run.model)
    finished = average_backbone(run.model, run.recipe.start, start_weight)
    assert changed(before, copy_weights(run.model)) == set()
    start = copy_weights(start_model(recipe.start).model.backbone)
    scale = LORA.alpha / LORA.rank
    moved = 0
    for name, found in finished.backbone.state_dict().items():
        place = f"backbone.model.{name}"
        expected = start[name]
        stem = place.removesuffix(".weight")
        if f"{stem}.lora_A.default.weight" in before:
            a, b = (before[f"{stem}.lora_{part}.default.weight"] for part in "AB")
            expected = expected + (1 - start_weight) * scale * b @ a
            moved += 1
            assert not torch.equal(found, start[name]), name
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7, msg=name)
    assert moved == 6
    run.save()
    loaded, _, info = load_checkpoint(tmp_path / "run")
    assert info.training["recipe"]["start"]["lora"]["rank"] == 2
    assert not any("lora" in name for name in loaded.state_dict())
    head = run.model.sparse_linear.weight
    assert torch.equal(loaded.sparse_linear.weight, head)


def test_activation_checkpointing_gives_adapters_the_same_gradients(
    recipe: Recipe, tmp_path: Path
) -> None:
    found = []
    for checkpointing in (False, True):
        batches = replace(recipe.batches, activation_checkpointing=checkpointing)
        run = Run(replace(starting(recipe, lora=LORA), batches=batches), tmp_path)
        run.accumulate()
        gradients = {n: p.grad for n, p in run.model.named_parameters() if p.grad is not None}
        assert any(".lora_B." in name and bool(g.any()) for name, g in gradients.items())
        found.append(gradients)
    torch.testing.assert_close(found[1], found[0])


def test_activation_checkpointing_is_quiet(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        "transformers.utils.generic.logger.warning_once", lambda text, *_: said.append(text)
    )
    batches = replace(recipe.batches, activation_checkpointing=True)
    Run(replace(recipe, batches=batches), tmp_path).train_step()
    assert said == []


@pytest.mark.parametrize("targets", [("nope",), ("query", "nope"), ("uery",), ("LayerNorm", "key")])
def test_an_unknown_target_is_answered_with_the_linear_layers(
    recipe: Recipe, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match=r"linear layers: dense, key, query, value") as caught:
        Run(starting(recipe, lora=Lora(targets=targets)), tmp_path)
    unknown = [target for target in targets if target not in ("query", "key")]
    assert (caught.value.where, caught.value.found) == ("start.lora.targets", ", ".join(unknown))


def test_without_peft_there_are_no_adapters(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"start\.lora.*m3search\[train\]"):
        Run(starting(recipe, lora=LORA), tmp_path)
