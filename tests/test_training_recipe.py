"""Recipes: what they may say, and what is refused before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from m3search.errors import ConfigError
from m3search.records import MODES
from m3search.training.inputs import BUCKETS, Batches, Data, Lora, Source, Start
from m3search.training.loop import read_recipe
from m3search.training.recipe import (
    Development,
    Objective,
    Optimiser,
    Output,
    Pretraining,
    Recipe,
    Refresh,
)

RECIPES = sorted((Path(__file__).parent.parent / "trainer" / "recipes").glob("*.toml"))
MINI = next(path for path in RECIPES if path.name == "mini.toml")


def make_recipe(stage: Any = "finetune", **parts: Any) -> Recipe:
    whole = {"start": Start("x"), "data": Data((Source("*"),)), "optimiser": Optimiser(steps=9)}
    return Recipe(stage, **whole | parts)


def test_every_recipe_of_the_project_is_valid() -> None:
    for path in RECIPES:
        assert read_recipe(path).optimiser.steps > 0
    with pytest.raises(ConfigError, match="learning_rate"):
        read_recipe(MINI, ["optimiser.learning_rat=1"])
    changed = read_recipe(MINI, ["optimiser.steps=3", "start.multi_dim=64", "start.lora.rank=4"])
    assert (changed.optimiser.steps, changed.start.multi_dim) == (3, 64)
    assert changed.start.lora == Lora(rank=4)


def test_a_development_without_sets_is_switched_off() -> None:
    assert make_recipe(development=Development(())).development is None
    assert make_recipe("retromae", development=Development(())).development is None
    assert make_recipe(development=Development(("x",))).development is not None


def test_no_position_table_fills_the_memory() -> None:
    assert Start("x", max_length=131_072).max_length == 131_072
    with pytest.raises(ConfigError, match="max_length = 100000000, not at most 131072"):
        read_recipe(MINI, ["start.max_length=100000000"])


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ("objective.modes=dense", 'Write modes = ["dense"], or the like.'),
        ("start.lora=true", "Write lora = { rank = 16 }, or the like."),
        ("refresh.rules.ranks=5", "Write ranks = [1, 2], or the like."),
        ('development.sets="x"', 'Write sets = ["..."], or the like.'),
        ("optimiser.steps=2.5", "Give a whole number."),
        ("optimiser.learning_rate=nan", "Give a finite number."),
    ],
)
def test_a_setting_of_another_type_is_shown_as_it_is_written(setting: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_recipe(MINI, [setting])
    assert caught.value.remedy == remedy


def test_the_defaults_are_those_of_the_paper() -> None:
    """arXiv 2402.03216v4, sections 3.3 and 4; m3_loss has the formula."""
    objective = make_recipe().losses
    assert objective == Objective(
        modes=("dense", "sparse", "multi"),
        temperature=0.02,
        ensemble_weights=(1.0, 0.3, 1.0),
        loss_weights=(1.0, 0.1, 1.0),
        self_distill=True,
        teacher="none",
    )
    assert objective.weights_of("ensemble") == {"dense": 1.0, "sparse": 0.3, "multi": 1.0}
    assert objective.weights_of("loss") == {"dense": 1.0, "sparse": 0.1, "multi": 1.0}
    assert Pretraining() == Pretraining(encoder_share=0.3, decoder_share=0.5)


RANGES = [
    ("start.dropout=-0.1", "dropout = -0.1, not from 0 to below 1"),
    ("start.dropout=1.0", "dropout = 1.0, not from 0 to below 1"),
    ("start.multi_dim=0", "multi_dim = 0, not at least 1"),
    ("start.max_length=2", "max_length = 2, not at least 3"),
    ("start.lora.rank=0", "rank = 0, not at least 1"),
    ("start.lora.alpha=0", "alpha = 0.0, not above 0"),
    ("start.lora.dropout=1", "dropout = 1.0, not from 0 to below 1"),
    ("start.lora.targets=[]", "targets = [], not at least one"),
    ("data.sources=[]", "sources = [], not at least one"),
    ("data.sources.1.files=''", "files = '', not a glob below data.folder"),
    ("data.sources.1.files='/tmp/*.jsonl'", "not a glob below data.folder"),
    ("data.sources.1.weight=0", "weight = 0.0, not above 0"),
    ("data.sources.2.in_batch_negatives=false", "nothing to tell apart"),
    ("data.query_max_length=2", "query_max_length = 2, not at least 3"),
    ("data.passage_max_length=2", "passage_max_length = 2, not at least 3"),
    ("data.queries_per_passage=0", "queries_per_passage = 0, not at least 1"),
    ("data.negatives=-1", "negatives = -1, not at least 0"),
    ("data.title_probability=7", "title_probability = 7.0, not from 0 to 1"),
    ("data.shuffle_probability=1.1", "shuffle_probability = 1.1, not from 0 to 1"),
    ("data.shuffle_probability=-1", "shuffle_probability = -1.0, not from 0 to 1"),
    ("batches.passages=0", "passages = 0, not at least 1"),
    ("batches.passages=1", "nothing to tell apart"),
    ("batches.tokens=0", "tokens = 0, not at least 1"),
    ("batches.buckets=[0, 5]", "buckets = [0, 5], not rising from 1 up"),
    ("batches.buckets=[5, 5]", "buckets = [5, 5], not rising from 1 up"),
    ("batches.buckets=[5, 4]", "buckets = [5, 4], not rising from 1 up"),
    ("batches.neighbours=0", "neighbours = 0, not at least 1"),
    ("batches.sub_batch_tokens=0", "sub_batch_tokens = 0, not at least 1"),
    ("objective.temperature=-1", "temperature = -1.0, not above 0"),
    ("objective.temperature=0", "temperature = 0.0, not above 0"),
    ("objective.loss_weights=[1, -1, 1]", "loss_weights = (1.0, -1.0, 1.0), not all at least 0"),
    ("objective.ensemble_weights=[1, 1, -0.1]", "ensemble_weights = (1.0, 1.0, -0.1), not all"),
    ("objective.self_distill_start_step=-1", "self_distill_start_step = -1, not at least 0"),
    ("objective.modes=[]", "modes = [], not one or more different ones"),
    ("objective.modes=['dense', 'dense']", "modes = ['dense', 'dense'], not one or more"),
    ("pretraining.encoder_share=0", "encoder_share = 0.0, not above 0"),
    ("pretraining.decoder_share=1", "decoder_share = 1.0, not from 0 to below 1"),
    ("pretraining.masks=0", "masks = 0, not at least 1"),
    ("optimiser.steps=0", "steps = 0, not at least 1"),
    ("optimiser.learning_rate=0", "learning_rate = 0.0, not above 0"),
    ("optimiser.head_learning_rate=-1", "head_learning_rate = -1.0, not above 0"),
    ("optimiser.warmup_ratio=2", "warmup_ratio = 2.0, not from 0 to 1"),
    ("optimiser.weight_decay=-0.1", "weight_decay = -0.1, not at least 0"),
    ("optimiser.max_gradient_norm=0", "max_gradient_norm = 0.0, not above 0"),
    ("optimiser.seed=-1", "seed = -1, not at least 0"),
    ("output.log_every=0", "log_every = 0, not at least 1"),
    ("output.save_every=0", "save_every = 0, not at least 1"),
    ("output.fusion_weights=[0,0,0]", "fusion_weights = (0.0, 0.0, 0.0), all 0"),
    ("output.fusion_weights=[1,-1,0]", "fusion_weights = (1.0, -1.0, 0.0), not all at least 0"),
    ("output.start_weight=1", "start_weight = 1.0, not from 0 to below 1"),
    ("output.start_weight=-0.5", "start_weight = -0.5, not from 0 to below 1"),
]


@pytest.mark.parametrize(("setting", "found"), RANGES)
def test_a_value_out_of_range_is_refused(setting: str, found: str) -> None:
    with pytest.raises(ConfigError, match=r"values in range") as caught:
        read_recipe(MINI, [setting])
    assert found in caught.value.found


@pytest.mark.parametrize(
    ("setting", "valid"),
    [
        ("stage=finetuning", "contrastive, distil, finetune, retromae"),
        ("start.pooling=max", "cls, mean"),
        ("objective.modes=['colbert']", "dense, multi, sparse"),
        ("objective.teacher=kd", "kl, listwise, none"),
        ("optimiser.precision=fp16", "bf16, fp32"),
        ("output.weights=bf16", "fp16, fp32"),
    ],
)
def test_an_unknown_name_is_answered_with_the_valid_ones(setting: str, valid: str) -> None:
    with pytest.raises(ConfigError, match=f"expected one of {valid}"):
        read_recipe(MINI, [setting])


def test_what_just_lies_in_range_is_taken() -> None:
    start = Start("x", multi_dim=1, max_length=3, dropout=0.0)
    assert Start("x", dropout=0.99, lora=Lora(rank=1, dropout=0.99)).lora
    data = Data((Source("*", 1e-9),), ".", 3, 3, 1, 0, 1.0, 1.0)
    batches = Batches(passages=2, tokens=1, buckets=(1, 2), neighbours=1, sub_batch_tokens=1)
    optimiser = Optimiser(1, warmup_ratio=1.0, weight_decay=0.0, seed=0)
    objective = Objective(("sparse",), ensemble_weights=(0, 0, 0), loss_weights=(0, 0, 0))
    output = Output(log_every=1, save_every=1, start_weight=0.99)
    Recipe("finetune", start, data, optimiser, batches, objective, output=output)
    assert Batches(buckets=()).buckets == ()
    assert list(BUCKETS) == sorted(set(BUCKETS))
    alone = make_recipe(batches=Batches(passages=1), data=replace(data, negatives=1))
    assert alone.batches.passages == 1
    apart = Source("*", in_batch_negatives=False)
    assert Data((apart,), negatives=1).sources == (apart,)


@pytest.mark.parametrize("name", ["query_max_length", "passage_max_length"])
def test_no_text_is_read_further_than_the_encoder_is_to_read(name: str) -> None:
    settings = [f"data.{name}=300", "start.max_length=299"]
    with pytest.raises(ConfigError) as caught:
        read_recipe(MINI, settings)
    assert f"data.{name} = 300, above start.max_length = 299" in caught.value.found
    assert read_recipe(MINI, [settings[0], "start.max_length=300"]).start.max_length == 300


def test_a_stage_without_queries_has_no_length_of_them() -> None:
    start, data = Start("x", max_length=32), Data((Source("*"),), passage_max_length=32)
    assert make_recipe("retromae", start=start, data=data).start.max_length == 32
    with pytest.raises(ValueError, match=r"data\.query_max_length = 64, above"):
        make_recipe(start=start, data=data)


def test_what_is_measured_and_mined_between_steps() -> None:
    for table, settings, found in (
        (Development, {"sets": ("x",), "every": -1}, "every = -1, not at least 0"),
        (Development, {"sets": ("x",), "max_length": 2}, "max_length = 2, not at least 3"),
        (Refresh, {"every": 0}, "every = 0, not at least 1"),
        (Refresh, {"every": 1, "modes": ()}, r"modes = \[\], not one or more"),
        (Refresh, {"every": 1, "modes": ("dense", "dense")}, "not one or more different ones"),
        (Refresh, {"every": 1, "weights": (1, -1, 1)}, r"weights = \(1, -1, 1\), not all at"),
        (
            Refresh,
            {"every": 1, "modes": ("dense", "sparse"), "weights": (0, 0, 1)},
            r"weights = \(0, 0, 1\), all 0 for dense, sparse",
        ),
    ):
        with pytest.raises(ValueError, match=found):
            table(**settings)
    assert make_recipe(development=Development(("x",), every=0, max_length=3)).development
    with pytest.raises(ValueError, match=r"refresh with data\.negatives = 0"):
        make_recipe(refresh=Refresh(5))
    drawing = Data((Source("*"),), negatives=1)
    assert make_recipe(refresh=Refresh(5), data=drawing).refresh
    with pytest.raises(ValueError, match=r"refresh with objective\.teacher"):
        make_recipe(refresh=Refresh(5), data=drawing, objective=Objective(teacher="kl"))


def test_retromae_has_settings_of_its_own() -> None:
    recipe = make_recipe("retromae", batches=Batches(passages=1))
    assert (recipe.pretraining, recipe.objective) == (Pretraining(), None)
    own = Pretraining(masks=3)
    assert make_recipe("retromae", pretraining=own).pretraining == own
    with pytest.raises(ValueError, match=r"objective.*in stage retromae"):
        make_recipe("retromae", objective=Objective())
    with pytest.raises(ValueError, match=r"development.*in stage retromae"):
        make_recipe("retromae", development=Development(("x",)))
    with pytest.raises(ValueError, match=r"refresh.*in stage retromae"):
        make_recipe("retromae", refresh=Refresh(5))
    with pytest.raises(ValueError, match=r"fix_encoder.*in stage retromae"):
        make_recipe("retromae", start=Start("x", fix_encoder=True))


@pytest.mark.parametrize("stage", ["contrastive", "finetune"])
def test_pretraining_is_of_retromae_alone(stage: str) -> None:
    with pytest.raises(ValueError, match=f"pretraining in stage {stage}"):
        make_recipe(stage, pretraining=Pretraining())
    with pytest.raises(ValueError, match="nothing to tell apart"):
        make_recipe(stage, batches=Batches(passages=1))


def test_the_contrastive_stage_trains_the_dense_mode() -> None:
    assert make_recipe("contrastive").losses == Objective(("dense",), self_distill=False)
    warm = Objective(("dense",), temperature=0.1)
    assert make_recipe("contrastive", objective=warm).losses == warm
    for modes in (("sparse",), MODES, ("dense", "multi")):
        with pytest.raises(ValueError, match=r"objective\.modes.*in stage contrastive"):
            make_recipe("contrastive", objective=Objective(modes))


def test_there_must_be_something_to_train() -> None:
    fixed = Start("x", fix_encoder=True)
    assert make_recipe(start=fixed, objective=Objective(("sparse",))).start.fix_encoder
    for stage in ("contrastive", "finetune"):
        with pytest.raises(ValueError, match="nothing to train"):
            make_recipe(stage, start=fixed, objective=Objective(("dense",)))
    with pytest.raises(ValueError, match="fix_encoder = true with lora"):
        Start("x", fix_encoder=True, lora=Lora())
