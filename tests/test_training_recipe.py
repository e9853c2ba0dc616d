"""Recipes: what they may say, and what is refused before anything is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import make_recipe, write_backbone

import m3search.training.loop as loop
from m3search.encoder import Encoder
from m3search.errors import ArtifactError, ConfigError
from m3search.model.checkpoint import load_checkpoint, read_info
from m3search.training.recipe import Objective, Recipe
from m3search.training.start import start_model

RECIPES = sorted((Path(__file__).parent.parent / "trainer" / "recipes").glob("*.toml"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, sample_texts: list[str]) -> Path:
    return write_backbone(tmp_path_factory.mktemp("bert"), sample_texts)


@pytest.fixture
def recipe(backbone: Path, tmp_path: Path) -> Recipe:
    return make_recipe(backbone, tmp_path / "data")


def test_every_recipe_of_the_project_is_valid() -> None:
    assert RECIPES
    for path in RECIPES:
        assert loop.read_recipe(path).stage == "finetune"
    with pytest.raises(ConfigError, match="learning_rate"):
        loop.read_recipe(RECIPES[0], ["optimiser.learning_rat=1"])
    changed = loop.read_recipe(RECIPES[0], ["optimiser.steps=3", "start.multi_dim=64"])
    assert (changed.optimiser.steps, changed.start.multi_dim) == (3, 64)


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("start.dropout=-0.1", "dropout = -0.1, not from 0 to below 1"),
        ("start.dropout=1.0", "dropout = 1.0"),
        ("start.multi_dim=0", "multi_dim = 0, not at least 1"),
        ("start.max_length=2", "max_length = 2, not at least 3"),
        ("data.sources=[]", "at least one"),
        ("data.sources.1.files=''", "not a glob below data.folder"),
        ("data.sources.1.files='/tmp/*.jsonl'", "not a glob below data.folder"),
        ("data.sources.1.weight=0", "weight = 0.0, not above 0"),
        ("data.query_max_length=1", "query_max_length = 1"),
        ("data.passage_max_length=0", "passage_max_length = 0"),
        ("data.queries_per_passage=0", "queries_per_passage = 0"),
        ("data.negatives=-1", "negatives = -1"),
        ("data.title_probability=7", "title_probability = 7.0"),
        ("batches.passages=0", "passages = 0, not at least 1"),
        ("batches.passages=1", "nothing to tell apart"),
        ("batches.neighbours=0", "neighbours = 0"),
        ("batches.sub_batch_tokens=0", "sub_batch_tokens = 0"),
        ("objective.temperature=-1", "temperature = -1.0, not above 0"),
        ("objective.temperature=0", "temperature = 0.0"),
        ("objective.loss_weights=[1, -1, 1]", "loss_weights"),
        ("objective.ensemble_weights=[1, 1, -0.1]", "ensemble_weights"),
        ("objective.self_distill_start_step=-1", "self_distill_start_step = -1"),
        ("optimiser.steps=0", "steps = 0"),
        ("optimiser.learning_rate=0", "learning_rate = 0.0"),
        ("optimiser.head_learning_rate=-1", "head_learning_rate = -1.0"),
        ("optimiser.warmup_ratio=2", "warmup_ratio = 2.0, not from 0 to 1"),
        ("optimiser.weight_decay=-0.1", "weight_decay = -0.1"),
        ("optimiser.max_gradient_norm=0", "max_gradient_norm = 0.0"),
        ("optimiser.seed=-1", "seed = -1"),
        ("output.log_every=0", "log_every = 0"),
        ("output.save_every=0", "save_every = 0"),
        ("output.start_weight=1", "start_weight = 1.0"),
        ("output.start_weight=-0.5", "start_weight = -0.5"),
    ],
)
def test_a_value_out_of_range_is_refused(setting: str, found: str) -> None:
    with pytest.raises(ConfigError, match=r"values in range") as caught:
        loop.read_recipe(RECIPES[0], [setting])
    assert found in caught.value.found


@pytest.mark.parametrize("setting", ["start.max_length", "data.passage_max_length"])
def test_no_text_is_longer_than_the_encoder_has_positions(
    recipe: Recipe, tmp_path: Path, setting: str
) -> None:
    table, name = setting.split(".")
    longer = replace(recipe, **{table: replace(getattr(recipe, table), **{name: 129})})
    with pytest.raises(ConfigError, match=rf"{setting}: expected at most 128.*found 129"):
        loop.train(longer, tmp_path / "out")
    assert not (tmp_path / "out" / "training_state.pt").exists()


def test_an_xlm_roberta_has_fewer_positions_than_embeddings(
    recipe: Recipe, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    start = replace(recipe.start, checkpoint=str(tiny_checkpoint), multi_dim=None, max_length=8193)
    with pytest.raises(ConfigError, match="at most 8192"):
        loop.train(replace(recipe, start=start), tmp_path / "out")


def test_what_a_plain_encoder_leaves_open(recipe: Recipe, tmp_path: Path) -> None:
    start = replace(recipe.start, multi_dim=None, pooling=None, max_length=None)
    started = start_model(start)
    assert (started.model.multi_dim, started.model.pooling) == (started.model.dim, "cls")
    assert started.max_length == 128
    out = loop.train(replace(recipe, start=start), tmp_path / "out")
    assert (read_info(out).max_length, read_info(out).pooling) == (128, "cls")
    Encoder.load(out).encode(["word " * 300])


def test_an_m3_checkpoint_keeps_its_heads_pooling_and_length(
    recipe: Recipe, tmp_path: Path
) -> None:
    short = replace(recipe, start=replace(recipe.start, max_length=100))
    first = loop.train(short, tmp_path / "first")
    start = replace(
        recipe.start, checkpoint=str(first), multi_dim=None, pooling=None, max_length=None
    )
    model, _, max_length = start_model(start)
    assert (model.pooling, model.multi_dim, max_length) == ("mean", 8, 100)
    trained, _, _ = load_checkpoint(first)
    assert torch.equal(model.sparse_linear.weight, trained.sparse_linear.weight)
    changed = start_model(replace(start, pooling="cls", max_length=128, multi_dim=8))
    assert (changed.model.pooling, changed.max_length) == ("cls", 128)
    with pytest.raises(ArtifactError, match=r"start\.multi_dim"):
        start_model(replace(start, multi_dim=16))
    (first / "sparse_linear.pt").unlink()
    with pytest.raises(ArtifactError, match=r"sparse_linear\.pt"):
        start_model(start)


@pytest.mark.parametrize(
    ("objective", "begins"),
    [
        (Objective(), 0),
        (Objective(self_distill_start_step=2), 2),
        (Objective(self_distill=False), 9),
    ],
)
def test_self_distillation_begins_at_its_step(
    recipe: Recipe, tmp_path: Path, objective: Objective, begins: int
) -> None:
    out = loop.train(replace(recipe, objective=objective), tmp_path / "out")
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    taught = [json.loads(line)["loss_distillation"] > 0 for line in lines]
    assert taught == [step >= begins for step in range(6)]
