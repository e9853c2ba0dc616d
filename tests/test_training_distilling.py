"""Imitating another encoder: words, distances, gradients, and that it works."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training_gradients import assert_same, gradients_of, run_processes
from tiny_models import write_bert
from training_runs import (
    SUBJECTS,
    in_one_pass,
    make_recipe,
    read_log,
    starting,
    write_backbone,
    write_lines,
)

from m3search.encoder import Encoder
from m3search.errors import ArtifactError, ConfigError
from m3search.model.checkpoint import load_backbone, load_tokenizer
from m3search.model.tokenization import Tokenization
from m3search.training.finetuning import step_seed
from m3search.training.imitation import read, understand
from m3search.training.loop import train
from m3search.training.recipe import Distillation, Recipe, Source
from m3search.training.run import Run


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, sample_texts: list[str]) -> Path:
    return write_backbone(tmp_path_factory.mktemp("teacher"), sample_texts)


@pytest.fixture
def recipe(teacher: Path, tmp_path: Path) -> Recipe:
    """A student with other weights and another vocabulary, and translations of passages."""
    data = tmp_path / "data"
    lines = [
        {"query": f"{subject[::-1]} {number}", "pos": [f"All about the {subject}, part {number}."]}
        for subject in SUBJECTS
        for number in range(2)
    ]
    made = make_recipe(teacher, data)
    write_lines(data / "pairs.jsonl", lines)
    words = [word for line in lines for word in (line["query"], *line["pos"])]
    student = write_bert(tmp_path / "student", words, seed=8)
    return replace(
        made,
        stage="distil",
        start=replace(made.start, checkpoint=str(student), multi_dim=None, dropout=0.0),
        data=replace(made.data, negatives=0),
        distillation=Distillation(str(teacher), "mean", word_weight=0.5, contrast_weight=0.3),
        objective=None,
    )


def test_a_student_that_is_its_teacher_has_nothing_to_learn(
    recipe: Recipe, teacher: Path, tmp_path: Path
) -> None:
    same = replace(
        with_settings(recipe, contrast_weight=0.0),
        start=replace(recipe.start, checkpoint=str(teacher)),
        data=replace(recipe.data, sources=(Source("*.jsonl", texts=True),)),
    )
    run = Run(same, tmp_path)
    metrics = run.accumulate()
    assert metrics["loss"] == pytest.approx(0, abs=1e-6)
    assert "loss_translations" not in metrics
    assert max(float(g.norm()) for g in gradients_of(run).values()) < 1e-3


def test_parts_and_processes_change_no_gradient(recipe: Recipe, tmp_path: Path) -> None:
    recipe = with_settings(recipe, contrast_passages=6)
    whole = replace(recipe, batches=replace(recipe.batches, sub_batch_tokens=8192))
    run = Run(whole, tmp_path)
    metrics = run.accumulate()
    wanted = gradients_of(run)
    assert not any(name.startswith(("sparse", "colbert")) for name in wanted)
    parts = Run(replace(recipe, batches=replace(recipe.batches, sub_batch_tokens=24)), tmp_path)
    assert parts.accumulate() == pytest.approx(metrics, rel=1e-5)
    assert_same(gradients_of(parts), wanted)
    (of_processes,) = run_processes(2, [whole], tmp_path)
    for gradients, told in of_processes:
        assert_same(gradients, wanted)
        assert told == pytest.approx(metrics, rel=1e-5)


def test_dropout_is_another_at_every_step(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(starting(recipe, dropout=0.3), tmp_path)
    texts = run.distilling.read(run.sampler.batch(0))
    found = []
    for step in (0, 0, 1):
        run.model.zero_grad()
        loss = run.distilling.accumulate(step, texts)["loss"]
        found.append((loss, gradients_of(run)))
    (first, gradients), (same, same_gradients), (other, _) = found
    assert first == same != other
    assert_same(same_gradients, gradients)


def with_settings(recipe: Recipe, **changes: float) -> Recipe:
    assert recipe.distillation is not None
    return replace(recipe, distillation=replace(recipe.distillation, **changes))


def test_the_loss_is_of_sentences_words_and_contrast(recipe: Recipe, tmp_path: Path) -> None:
    found = Run(recipe, tmp_path).accumulate()
    sentences = (found["loss_passages"] + found["loss_translations"]) / 2
    expected = sentences + 0.5 * found["loss_words"] + 0.3 * found["loss_contrast"]
    assert found["loss"] == pytest.approx(expected)
    alone = with_settings(recipe, word_weight=0.0, contrast_weight=0.0)
    assert Run(alone, tmp_path).accumulate()["loss"] == pytest.approx(sentences)


@pytest.mark.parametrize("drawn", [0, 5])
def test_contrast_is_the_cross_entropy_to_the_teachers_shares(
    recipe: Recipe, teacher: Path, tmp_path: Path, drawn: int
) -> None:
    run = Run(with_settings(recipe, temperature=0.2, contrast_passages=drawn), tmp_path)
    batch = run.sampler.batch(0)
    sides = []
    for folder, texts in ((teacher, batch.passages), (None, [*batch.passages, *batch.queries])):
        backbone = run.model.backbone if folder is None else load_backbone(folder)
        tokenizer = run.tokenizer if folder is None else load_tokenizer(folder)
        tokenization = Tokenization(tokenizer)
        readings = read(tokenization, texts, run.recipe.data.passage_max_length)
        with torch.no_grad():
            one, order = in_one_pass(readings, backbone, tokenization.pad_id)
            found = understand(backbone.eval(), "mean", one).sentences
            sides.append(found[np.argsort(order)])
    passages, texts = sides
    seed = step_seed(run.recipe.optimiser.seed, 0, 0, "bank")
    bank = run.distilling._bank
    assert (bank is not None) == bool(drawn)
    shown = torch.cat([passages, *([bank.draw(drawn, seed)] if bank else [])])
    assert len(shown) == len(passages) + drawn
    owners = [*range(len(batch.passages)), *batch.targets.tolist()]
    wanted = ((passages @ shown.T) / 0.2).softmax(dim=1)[owners]
    found = ((texts @ shown.T) / 0.2).softmax(dim=1)
    terms = -(wanted * found.log()).sum(dim=1)
    assert run.accumulate()["loss_contrast"] == pytest.approx(float(terms.mean()), rel=1e-4)


def test_passages_to_tell_apart_need_a_weight(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="contrast_passages = 4 with contrast_weight = 0"):
        with_settings(recipe, contrast_weight=0.0, contrast_passages=4)


def test_a_student_learns_the_vectors_of_texts_and_translations(
    recipe: Recipe, teacher: Path, tmp_path: Path
) -> None:
    longer = replace(
        recipe,
        optimiser=replace(recipe.optimiser, steps=60, learning_rate=3e-3),
        batches=replace(recipe.batches, passages=16),
    )
    folder = train(longer, tmp_path / "out")
    first, *_, last = read_log(folder)
    for name in ("loss_passages", "loss_translations", "loss_words"):
        assert last[name] < 0.5 * first[name], name
    shutil.rmtree(folder / "lengths")
    assert not (folder / "sparse_linear.pt").exists()
    with pytest.raises(ArtifactError, match="none of sparse and multi"):
        Encoder.load(folder)


def test_teacher_and_student_have_vectors_of_one_length(
    recipe: Recipe, sample_texts: list[str], tmp_path: Path
) -> None:
    other = write_bert(tmp_path / "wide", sample_texts, hidden=64)
    wide = replace(recipe, distillation=Distillation(str(other)))
    with pytest.raises(ConfigError, match=r"distillation\.teacher: expected .* of 32 dimensions"):
        Run(wide, tmp_path)


def test_half_precision_is_used_and_changes_little(recipe: Recipe, tmp_path: Path) -> None:
    whole = Run(recipe, tmp_path).accumulate()
    half = replace(recipe, optimiser=replace(recipe.optimiser, precision="bf16"))
    found = Run(half, tmp_path).accumulate()
    assert found != whole
    assert found == pytest.approx(whole, rel=0.05)


def test_texts_are_read_as_far_as_the_teacher_can(
    recipe: Recipe, tmp_path: Path, sample_texts: list[str]
) -> None:
    """By the student, too: beyond that nothing is known of a text."""
    short = write_bert(tmp_path / "short", sample_texts, positions=12)
    lines = [{"query": f"frage {n}", "pos": [f"tea {n} " * 30]} for n in range(4)]
    write_lines(tmp_path / "data" / "pairs.jsonl", lines)
    asked = with_settings(recipe, teacher=str(short))
    asked = replace(asked, data=replace(asked.data, passage_max_length=40))
    run = Run(asked, tmp_path)
    batch = run.sampler.batch(0)
    lesson = run.distilling.read(batch)
    assert max(part.ids.shape[1] for part in lesson.taught.parts) == 12
    own = [part.real.sum(axis=1).max() for part in lesson.learned.parts]
    assert max(own) <= 12
    run.accumulate()
