"""RetroMAE, contrastive training and fine-tuning one after the other: what each writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import changed, copy_weights, make_recipe, read_log, write_lines

from m3search.encoder import Encoder
from m3search.errors import ArtifactError
from m3search.model.checkpoint import load_checkpoint, read_info
from m3search.records import MODES, Mode, WordTerms
from m3search.training.inputs import Source, Start
from m3search.training.loop import train
from m3search.training.recipe import Objective, Recipe
from m3search.training.run import Run
from m3search.training.start import start_model

WORD_TERMS: tuple[WordTerms, ...] = ("none", "words", "stems")
HEADS = {"sparse": "sparse_linear.pt", "multi": "colbert_linear.pt"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def recipe(folder: Path, backbone: Path) -> Recipe:
    """Two steps."""
    made = make_recipe(backbone, folder / "data")
    return replace(made, optimiser=replace(made.optimiser, steps=2))


def after(recipe: Recipe, checkpoint: Path, **changes: Any) -> Recipe:
    start = replace(recipe.start, checkpoint=str(checkpoint), multi_dim=None, pooling=None)
    return replace(recipe, start=start, **changes)


@pytest.fixture(scope="module")
def retromae(recipe: Recipe, folder: Path) -> Path:
    first = replace(recipe, stage="retromae", objective=None)
    return train(first, folder / "retromae")


@pytest.fixture(scope="module")
def contrastive(recipe: Recipe, retromae: Path, folder: Path) -> Path:
    second = after(recipe, retromae, stage="contrastive", objective=None)
    return train(second, folder / "contrastive")


@pytest.fixture(scope="module")
def sparse(recipe: Recipe, contrastive: Path, folder: Path) -> Path:
    objective = Objective(("sparse", "dense"), self_distill_start_step=1)
    third = after(recipe, contrastive, objective=objective)
    return train(third, folder / "sparse")


def head_files(folder: Path) -> set[str]:
    """By their files, as m3.json says the same."""
    stated = json.loads((folder / "m3.json").read_text(encoding="utf-8"))["heads"]
    found = {mode for mode, name in HEADS.items() if (folder / name).exists()}
    assert set(stated) == found
    return found


def backbone_of(folder: Path) -> dict[str, torch.Tensor]:
    return copy_weights(start_model(Start(str(folder))).model.backbone)


def test_a_stage_without_heads_writes_an_encoder_for_the_next(
    recipe: Recipe, retromae: Path, contrastive: Path
) -> None:
    plain = Path(recipe.start.checkpoint)
    for folder, before in ((retromae, plain), (contrastive, retromae)):
        assert head_files(folder) == set()
        info = read_info(folder)
        assert (info.step, info.pooling, info.max_length) == (2, "mean", 128)
        started = start_model(Start(str(folder)))
        assert (started.heads, started.max_length, started.model.pooling) == ((), 128, "mean")
        assert changed(backbone_of(before), backbone_of(folder))
        with pytest.raises(ArtifactError, match=r"none of sparse and multi.*m3search train"):
            Encoder.load(folder)


def test_a_head_that_was_trained_or_there_is_written(
    recipe: Recipe, sparse: Path, tmp_path: Path
) -> None:
    assert head_files(sparse) == {"sparse"}
    with pytest.raises(ArtifactError, match=r"found dense and sparse, and none of multi"):
        Encoder.load(sparse)
    multi = after(recipe, sparse, objective=Objective(("multi",)))
    both = train(multi, tmp_path / "both")
    assert head_files(both) == {"sparse", "multi"}
    one, two = (torch.load(f / HEADS["sparse"], weights_only=True) for f in (sparse, both))
    assert changed(one, two) == set()  # it was not trained
    assert Encoder.load(both).encode(["bread"]).sparse.shape == (1, read_vocabulary(both))


def read_vocabulary(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])


@pytest.mark.parametrize("modes", [("dense",), ("sparse",), ("multi",), ("dense", "multi")])
def test_heads_of_an_m3_checkpoint_that_are_not_trained_stay_to_the_bit(
    recipe: Recipe, tmp_path: Path, modes: tuple[Mode, ...]
) -> None:
    Run(recipe, tmp_path / "m3").save()
    before, _, _ = load_checkpoint(tmp_path / "m3")
    out = train(
        after(recipe, tmp_path / "m3", objective=Objective(modes)),
        tmp_path / "out",
    )
    found, _, _ = load_checkpoint(out)
    names = changed(copy_weights(before), copy_weights(found))
    for mode, head in (("sparse", "sparse_linear."), ("multi", "colbert_linear.")):
        assert any(name.startswith(head) for name in names) == (mode in modes)
    assert any(name.startswith("backbone.") for name in names)


def test_the_metrics_are_those_of_the_stage(
    recipe: Recipe, retromae: Path, contrastive: Path, sparse: Path, tmp_path: Path
) -> None:
    always = {
        "step",
        "loss",
        "tokens",
        "gradient_norm",
        "learning_rate",
        "seconds",
        "tokens_per_second",
    }
    dense = {"loss_dense", "accuracy_dense"}
    lexical = {"loss_sparse", "accuracy_sparse", "active_terms_query", "active_terms_passage"}
    joint = {"loss_ensemble", "accuracy_ensemble"}
    every = train(replace(recipe, objective=Objective(self_distill_start_step=1)), tmp_path / "out")
    for folder, names in (
        (retromae, {"loss_encoder", "loss_decoder"}),
        (contrastive, dense),
        (sparse, dense | lexical | joint),
        (every, dense | lexical | joint | {"loss_multi", "accuracy_multi"}),
    ):
        first, second = read_log(folder)
        assert (first["step"], second["step"]) == (1, 2)
        assert first.keys() == always | names
        modes = [mode for mode in MODES if f"loss_{mode}" in names]
        taught = {"loss_distillation"} | {f"loss_distillation_{mode}" for mode in modes}
        assert second.keys() - first.keys() == (taught if "loss_ensemble" in names else set())
        assert all(value >= 0 for value in [*first.values(), *second.values()])


def test_retromae_reads_every_text_and_the_others_pairs(
    recipe: Recipe, retromae: Path, contrastive: Path, folder: Path
) -> None:
    (texts,), (pairs,) = (read_info(f).training["data"] for f in (retromae, contrastive))
    # 16 passages, 48 queries, a negative for each of 8 subjects
    assert (texts["passages"], texts["queries"]) == (16 + 48 + 8, 0)
    assert (pairs["passages"], pairs["queries"]) == (16, 48)
    assert texts["sha256"] == pairs["sha256"]


def test_words_are_terms_in_training_and_behind_it(recipe: Recipe, tmp_path: Path) -> None:
    """What a checkpoint says is kept, unless a recipe says otherwise."""
    scores = []
    for terms in WORD_TERMS:
        start = replace(recipe.start, word_terms=terms)
        run = Run(replace(recipe, start=start), tmp_path / f"run-{terms}")
        texts = run.finetuning.read(run.sampler.batch(0))
        (word,) = run.tokenization.encode(["unforgettableharbourmasters"], 64).ids
        assert len(word) > 3
        texts.queries[:] = [word] * len(texts.queries)
        texts.passages[:] = [word] * len(texts.passages)
        scored = run.finetuning.score(0, texts)
        scores.append(scored.scores["sparse"].detach())
        with run.as_encoder(64) as encoder:
            assert encoder.identity.word_terms == terms
            wide = encoder.identity.vocabulary > run.model.vocabulary
            assert wide is (terms != "none") and encoder.encode(["tea"]).sparse.shape[1] > 0
    assert bool((scores[2] > scores[1]).all()) and bool((scores[1] > scores[0]).all())
    start = replace(recipe.start, word_terms="stems")
    first = train(replace(recipe, start=start), tmp_path / "first")
    assert read_info(first).word_terms == "stems"
    assert read_info(train(after(recipe, first), tmp_path / "second")).word_terms == "stems"
    third = after(recipe, first)
    third = replace(third, start=replace(third.start, word_terms="none"))
    assert read_info(train(third, tmp_path / "third")).word_terms == "none"


def test_retromae_learns_from_plain_texts(recipe: Recipe, tmp_path: Path) -> None:
    lines = [{"text": f"the {word} is {word}"} for word in ("bread", "guitar", "glacier", "zero")]
    write_lines(tmp_path / "texts.jsonl", lines)
    data = replace(recipe.data, folder=str(tmp_path), sources=(Source("texts.jsonl"),))
    options = replace(recipe.optimiser, steps=20, learning_rate=5e-3)
    first = replace(recipe, stage="retromae", objective=None, data=data, optimiser=options)
    run = Run(first, tmp_path)
    losses = [run.train_step() for _ in range(20)]
    for name in ("loss_encoder", "loss_decoder"):
        before, later = (sum(m[name] for m in part) for part in (losses[:5], losses[-5:]))
        assert later < 0.8 * before
    for metrics in losses:
        assert metrics["loss"] == pytest.approx(metrics["loss_encoder"] + metrics["loss_decoder"])
