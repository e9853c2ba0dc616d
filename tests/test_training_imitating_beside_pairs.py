"""A fine-tuning that goes on imitating: steps of texts among those of pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_training_gradients import assert_same, gradients_of, run_processes
from test_training_resume import assert_same_end, train_with_stops
from tiny_models import write_bert
from training_runs import SUBJECTS, make_recipe, read_log, starting, write_backbone, write_lines

from m3search.model.checkpoint import load_checkpoint
from m3search.training.distilling import Distilling
from m3search.training.drawing import Batch
from m3search.training.finetuning import Finetuning
from m3search.training.inputs import Lora
from m3search.training.loop import train
from m3search.training.mining.rules import MiningSettings
from m3search.training.recipe import Distillation, Objective, Recipe, Refresh, Source
from m3search.training.refreshing import mine_again
from m3search.training.run import Run


@pytest.fixture
def recipe(tmp_path: Path, sample_texts: list[str]) -> Recipe:
    """Pairs, and texts that a teacher of another vocabulary knows."""
    teacher = write_backbone(tmp_path / "teacher", sample_texts)
    data = tmp_path / "data"
    made = make_recipe(teacher, data)
    pairs = [
        {"query": f"a {subject}", "pos": [f"All about the {subject}."]} for subject in SUBJECTS
    ]
    write_lines(data / "pairs.jsonl", pairs)
    write_lines(data / "texts.jsonl", [{"text": f"On the {subject}."} for subject in SUBJECTS])
    words = [word for line in pairs for word in (line["query"], *line["pos"])]
    student = write_bert(tmp_path / "student", words, seed=8)
    sources = (Source("pairs.jsonl"), Source("texts.jsonl", texts=True))
    return replace(
        made,
        start=replace(made.start, checkpoint=str(student), multi_dim=8, dropout=0.0),
        data=replace(made.data, sources=sources, negatives=0),
        batches=replace(made.batches, passages=4, neighbours=1),
        objective=Objective(),
        distillation=Distillation(
            str(teacher), "mean", word_weight=0.5, contrast_weight=0.3, contrast_passages=99
        ),
    )


def first_step(run: Run, *, imitated: bool) -> tuple[int, Batch]:
    batches = ((step, run.sampler.batch(step)) for step in range(run.sampler.steps_per_epoch))
    return next((step, batch) for step, batch in batches if imitated != bool(batch.queries))


def test_each_step_is_as_in_a_training_of_its_kind(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path)
    bank = run.distilling._bank
    assert bank is not None and len(bank.draw(99, 0)) == len(SUBJECTS)  # the teacher's texts alone
    for imitated in (True, False):
        step, batch = first_step(run, imitated=imitated)
        run.model.zero_grad()
        metrics = run.accumulate(run.prepare_step(step))
        found = gradients_of(run)
        assert ("loss_words" in metrics) == imitated == ("accuracy_multi" not in metrics)
        assert any(name.startswith("sparse") for name in found) != imitated
        run.model.zero_grad()
        stage: Distilling | Finetuning = run.distilling if imitated else run.finetuning
        stage.accumulate(0, stage.read(batch))  # type: ignore[arg-type]
        assert_same(gradients_of(run), found)


def with_first_step(recipe: Recipe, folder: Path, *, imitated: bool) -> Recipe:
    """The recipe with a seed that puts a step of this kind first."""
    for seed in range(99):
        seeded = replace(recipe, optimiser=replace(recipe.optimiser, seed=seed))
        if first_step(Run(seeded, folder), imitated=imitated)[0] == 0:
            return seeded
    raise AssertionError


def test_processes_share_a_step_of_texts(recipe: Recipe, tmp_path: Path) -> None:
    seeded = with_first_step(recipe, tmp_path, imitated=True)
    run = Run(seeded, tmp_path)
    metrics = run.accumulate()
    (of_processes,) = run_processes(2, [seeded], tmp_path)
    for gradients, told in of_processes:
        assert_same(gradients, gradients_of(run))
        assert told == pytest.approx(metrics, rel=1e-5)


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_a_stopped_run_ends_in_the_same_weights(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: Lora | None
) -> None:
    longer = starting(replace(recipe, optimiser=replace(recipe.optimiser, steps=6)), lora=lora)
    train(longer, tmp_path / "straight")
    train_with_stops(longer, tmp_path / "stopped", (3, 4), monkeypatch)
    assert_same_end(tmp_path / "straight", tmp_path / "stopped")
    kinds = {"loss_words" in line for line in read_log(tmp_path / "straight")}
    assert kinds == {True, False}


def test_the_texts_keep_the_vectors_of_the_teacher(recipe: Recipe, tmp_path: Path) -> None:
    """What the pairs train away is held where texts are imitated, too."""
    longer = replace(recipe, optimiser=replace(recipe.optimiser, steps=60, learning_rate=3e-3))
    with_texts = train(longer, tmp_path / "both")
    first, *_, last = [line for line in read_log(with_texts) if "loss_passages" in line]
    assert last["loss_passages"] < 0.5 * first["loss_passages"]
    model, _, info = load_checkpoint(with_texts)
    assert model.multi_dim == 8 and info.step == 60


def test_heads_are_fitted_to_pairs(recipe: Recipe, tmp_path: Path) -> None:
    both = starting(recipe, fit_heads=True)
    alone = replace(both, data=replace(both.data, sources=both.data.sources[:1]), distillation=None)
    fitted = []
    for number, each in enumerate((both, alone)):
        stopped = replace(each, optimiser=replace(each.optimiser, steps=1, learning_rate=1e-12,
                                                  head_learning_rate=1e-12))  # fmt: skip
        train(stopped, tmp_path / f"{number}")
        fitted.append(load_checkpoint(tmp_path / f"{number}")[0].sparse_linear.weight)
    torch.testing.assert_close(*fitted)


def test_texts_are_no_candidates_of_a_refresh(recipe: Recipe, tmp_path: Path) -> None:
    every = Refresh(2, rules=MiningSettings((0, 8), 3, relative_margin=None))
    run = Run(replace(recipe, data=replace(recipe.data, negatives=1), refresh=every), tmp_path)
    with run.as_encoder(32) as encoder:
        mine_again(run.corpora, encoder, every, tmp_path / "mined.jsonl")
    lines = map(json.loads, (tmp_path / "mined.jsonl").read_text().splitlines())
    mined = {text for line in lines for text in line["neg"]}
    assert mined and all(text.startswith("All about") for text in mined)


def test_a_source_of_one_text_is_no_step_without_use(recipe: Recipe, tmp_path: Path) -> None:
    write_lines(tmp_path / "data" / "texts.jsonl", [{"text": "On the whale."}])
    write_lines(
        tmp_path / "data" / "pairs.jsonl",
        [{"query": f"q{n}", "pos": [f"passage {n}"]} for n in range(8)],
    )
    assert not any("hold one passage" in note for note in Run(recipe, tmp_path).notes)
