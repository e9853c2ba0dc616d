"""Gradients of a step: cached, in parts and over processes as those of one plain pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from training_processes import run_together

from m3search.model.tokenization import pad
from m3search.records import MODES, Mode
from m3search.training.drawing import Batch
from m3search.training.losses import TeacherShares, m3_loss
from m3search.training.recipe import Objective, Recipe
from m3search.training.run import Run

HEADS: list[tuple[Mode, ...]] = [("dense",), ("sparse",), ("multi",), MODES]


@pytest.fixture
def recipe(recipe: Recipe) -> Recipe:
    """Steps without dropout, so that it does not matter how texts are put together."""
    return replace(recipe, start=replace(recipe.start, dropout=0.0))


def with_modes(recipe: Recipe, modes: tuple[Mode, ...]) -> Recipe:
    return replace(recipe, objective=Objective(modes=modes))


def gradients_of(run: Run) -> dict[str, Tensor]:
    found = run.trained.named_parameters()
    return {name: p.grad.clone() for name, p in found if p.grad is not None}


def plain_gradients(run: Run, batch: Batch) -> dict[str, Tensor]:
    """By one forward pass over all texts and scores written out pair by pair."""
    model, data = run.model, run.recipe.data
    texts = [*batch.queries, *batch.passages]
    limits = [data.query_max_length] * len(batch.queries)
    limits += [data.passage_max_length] * len(batch.passages)
    ids = [
        run.tokenization.encode([text], limit).ids[0]
        for text, limit in zip(texts, limits, strict=True)
    ]
    padded, mask = pad(ids, run.tokenization.pad_id)
    outputs = model(torch.from_numpy(padded), torch.from_numpy(mask.astype(np.int64)))
    q, n = len(batch.queries), len(texts)
    special = set(run.tokenization.special_ids.tolist())
    scores = {mode: torch.zeros(q, n - q) for mode in MODES}
    for i in range(q):
        for j in range(q, n):
            scores["dense"][i, j - q] = outputs.dense[i] @ outputs.dense[j]
            weights = []
            for text in (i, j):
                best: dict[int, Tensor] = {}
                for place, token in enumerate(ids[text].tolist()):
                    weight = outputs.weights[text, place]
                    if token not in special and (token not in best or weight > best[token]):
                        best[token] = weight
                weights.append(best)
            shared = weights[0].keys() & weights[1].keys()
            scores["sparse"][i, j - q] = sum(
                (weights[0][t] * weights[1][t] for t in shared), torch.zeros(())
            )
            left = outputs.vectors[i, : len(ids[i]) - 1]
            right = outputs.vectors[j, : len(ids[j]) - 1]
            best_of = [max((u @ v for v in right), key=Tensor.item) for u in left]
            scores["multi"][i, j - q] = torch.stack(best_of).mean()
    losses = m3_loss(
        {mode: scores[mode] for mode in run.recipe.losses.modes},
        torch.from_numpy(batch.targets),
        torch.from_numpy(batch.masked),
        run.recipe.losses,
        distil=True,
        teacher=TeacherShares.of(*map(torch.from_numpy, (batch.candidates, batch.teacher_scores))),
    )
    model.zero_grad()
    losses.total.backward()  # type: ignore[no-untyped-call]
    return gradients_of(run)


def assert_same(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float = 1e-5
) -> None:
    """To 1e-5 of each weight's own gradient, or of a hundredth of the longest one's where that is
    more: a gradient that is nearly 0, such as that of the keys' biases, is rounding."""
    assert found.keys() == wanted.keys()
    largest = max(float(gradient.norm()) for gradient in wanted.values())
    assert largest > 0
    for name, gradient in wanted.items():
        size = max(float(gradient.norm()), largest / 100)
        assert float((found[name] - gradient).norm()) <= tolerance * size, name


@pytest.mark.parametrize("modes", HEADS, ids="+".join)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("tokens", [24, 64, 8192])
def test_parts_give_the_gradients_of_the_whole(
    recipe: Recipe, tmp_path: Path, modes: tuple[Mode, ...], cached: bool, tokens: int
) -> None:
    batches = replace(recipe.batches, sub_batch_tokens=tokens, gradient_cache=cached)
    run = Run(with_modes(replace(recipe, batches=batches), modes), tmp_path)
    batch = run.sampler.batch(0)
    wanted = plain_gradients(run, batch)
    run.model.zero_grad()
    metrics = run.finetuning.accumulate(0, run.finetuning.read(batch))
    assert_same(gradients_of(run), wanted)
    assert metrics["tokens"] > 0
    heads = {"sparse": run.model.sparse_linear, "multi": run.model.colbert_linear}
    for mode, head in heads.items():
        assert (head.weight.grad is not None) == (mode in modes)


def test_with_dropout_the_second_pass_drops_what_the_first_did(
    recipe: Recipe, tmp_path: Path
) -> None:
    dropping = replace(recipe, start=replace(recipe.start, dropout=0.4))
    found = []
    for cached in (False, True):
        batches = replace(recipe.batches, sub_batch_tokens=64, gradient_cache=cached)
        run = Run(replace(dropping, batches=batches), tmp_path)
        run.finetuning.accumulate(3, run.finetuning.read(run.sampler.batch(3)))
        found.append(gradients_of(run))
    assert_same(found[1], found[0])


def test_activation_checkpointing_changes_no_gradient(recipe: Recipe, tmp_path: Path) -> None:
    found, passes = [], []
    for checkpointing in (False, True):
        batches = replace(recipe.batches, activation_checkpointing=checkpointing)
        run = Run(replace(recipe, batches=batches), tmp_path)
        counted: list[int] = []
        layer = run.model.get_submodule("backbone.encoder.layer.0.intermediate")
        layer.register_forward_hook(lambda *_, counted=counted: counted.append(1))
        run.finetuning.accumulate(0, run.finetuning.read(run.sampler.batch(0)))
        found.append(gradients_of(run))
        passes.append(len(counted))
    assert_same(found[1], found[0])
    assert passes[1] == 2 * passes[0]


def test_two_processes_give_the_gradients_of_one(recipe: Recipe, tmp_path: Path) -> None:
    recipes = [with_modes(recipe, modes) for modes in HEADS]
    recipes.append(replace(recipe, batches=replace(recipe.batches, gradient_cache=True)))
    found = run_processes(2, recipes, tmp_path)
    for each, of_processes in zip(recipes, found, strict=True):
        run = Run(each, tmp_path)
        metrics = run.accumulate()
        for gradients, told in of_processes:
            assert_same(gradients, gradients_of(run))
            assert told == pytest.approx(metrics, rel=1e-5)


def test_a_process_without_a_text_takes_part(recipe: Recipe, tmp_path: Path) -> None:
    data = replace(recipe.data, queries_per_passage=1, negatives=0)
    few = replace(recipe, batches=replace(recipe.batches, passages=2), data=data)
    (of_processes,) = run_processes(3, [few], tmp_path)
    run = Run(few, tmp_path)
    metrics = run.accumulate()
    for gradients, told in of_processes:
        assert_same(gradients, gradients_of(run))
        assert told == pytest.approx(metrics, rel=1e-5)


def test_retromae_hides_the_same_words_on_any_number_of_processes_and_passes(
    recipe: Recipe, tmp_path: Path
) -> None:
    pretraining = replace(recipe, stage="retromae", objective=None)
    small = replace(recipe.batches, sub_batch_tokens=16)
    (of_processes,) = run_processes(2, [pretraining], tmp_path)
    run = Run(pretraining, tmp_path)
    alone = run.accumulate()
    in_parts = Run(replace(pretraining, batches=small), tmp_path)
    for gradients, told in (*of_processes, (None, in_parts.accumulate())):
        assert_same(gradients or gradients_of(in_parts), gradients_of(run))
        assert told == pytest.approx(alone, rel=1e-5)


Found = tuple[dict[str, Tensor], dict[str, float]]


def run_processes(count: int, recipes: list[Recipe], folder: Path) -> list[list[Found]]:
    """For each recipe the gradients and metrics of each of `count` processes after one step."""
    run_together(count, accumulate_each, recipes, folder, count)
    return [
        [torch.load(folder / f"{i}.{rank}.pt", weights_only=True) for rank in range(count)]
        for i in range(len(recipes))
    ]


def accumulate_each(rank: int, recipes: list[Recipe], folder: Path, count: int) -> None:
    for number, recipe in enumerate(recipes):
        run = Run(recipe, folder)
        assert run.devices.count == count
        metrics = run.accumulate()
        torch.save((gradients_of(run), metrics), folder / f"{number}.{rank}.pt")
