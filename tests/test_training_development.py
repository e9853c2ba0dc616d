"""Quality on development sets while a training runs: when, of what, and that it changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from training_runs import measured, read_log, starting, write_development

from m3search.encoder import Encoder
from m3search.errors import ConfigError, M3Error
from m3search.evaluation import EvaluationSet, evaluate_sets
from m3search.model.checkpoint import load_checkpoint
from m3search.training.loop import train
from m3search.training.recipe import Development, Distillation, Objective, Recipe
from m3search.training.run import Run


@pytest.fixture
def recipe(recipe: Recipe, tmp_path: Path) -> Recipe:
    """Six steps, and beside the pairs a set of eight documents with a question on each."""
    write_development(tmp_path / "data" / "dev")
    return replace(recipe, development=Development(("dev",), every=4, max_length=64))


def test_every_mode_is_measured_when_it_is_due_and_at_the_end(
    recipe: Recipe, tmp_path: Path
) -> None:
    out = train(recipe, tmp_path / "out")
    lines = {line["step"]: measured(line) for line in read_log(out)}
    assert [step for step, found in lines.items() if found] == [4, 6]
    rows = ("dense", "sparse", "multi", "all")
    assert set(lines[6]) == {f"dev_{row}" for row in rows} | {f"dev_dev_{row}" for row in rows}
    experiment = evaluate_sets(
        [EvaluationSet(tmp_path / "data" / "dev", max_length=64, rows=rows)],
        lambda length: Encoder.load(out, max_length=length, dtype="float32"),
    )
    (found,) = experiment.sets
    for row in rows:
        value = found.report.means[row]["nDCG@10"]
        assert lines[6][f"dev_{row}"] == lines[6][f"dev_dev_{row}"] == pytest.approx(value)
    assert any(0 < value < 1 for value in lines[6].values())


def test_without_a_rhythm_the_end_alone_is_measured(recipe: Recipe, tmp_path: Path) -> None:
    alone = replace(
        recipe,
        development=replace(recipe.development, every=0),
        objective=Objective(modes=("dense", "sparse")),
    )
    lines = [measured(line) for line in read_log(train(alone, tmp_path / "out"))]
    assert [bool(found) for found in lines] == [False] * 5 + [True]
    assert {name for name in lines[-1] if "dev_dev" not in name} == {
        "dev_dense", "dev_sparse", "dev_dense+sparse"
    }  # fmt: skip


def test_a_stage_without_heads_is_measured_by_its_dense_vectors(
    recipe: Recipe, tmp_path: Path
) -> None:
    teacher = Distillation(recipe.start.checkpoint, "mean")
    data = replace(recipe.data, negatives=0)
    distil = replace(recipe, stage="distil", objective=None, distillation=teacher, data=data)
    assert [each.rows for each in Run(distil, tmp_path)._sets] == [("dense",)]


def test_measuring_changes_no_weight_and_may_change_at_a_resume(
    recipe: Recipe, tmp_path: Path
) -> None:
    dropping = starting(recipe, dropout=0.3)
    unmeasured = replace(dropping, development=None)
    train(unmeasured, tmp_path / "plain")
    train(dropping, tmp_path / "measured")
    again = replace(dropping, development=replace(recipe.development, every=1))
    train(again, tmp_path / "measured", resume=True)
    plain, other = (
        load_checkpoint(tmp_path / name)[0].state_dict() for name in ("plain", "measured")
    )
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_the_model_in_training_stands_as_before(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(starting(recipe, dropout=0.3, fix_encoder=True), tmp_path)
    before = {name: module.training for name, module in run.model.named_modules()}
    assert set(before.values()) == {True, False}
    with run.as_encoder(4096) as encoder:
        assert encoder.identity.max_length == 128  # what the start has
        assert not any(module.training for module in run.model.modules())
        encoder.encode(["a text"], "document")
    assert {name: module.training for name, module in run.model.named_modules()} == before
    with run.as_encoder(64) as encoder:
        assert encoder.identity.max_length == 64
    assert isinstance(run.model, nn.Module)


def test_a_set_that_is_not_sound_is_told_before_the_first_step(
    recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "data" / "dev" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(M3Error, match=r"test\.tsv"):
        train(recipe, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["nope", "pairs.jsonl"])
def test_a_set_that_is_not_there_is_told_by_its_settings(
    recipe: Recipe, tmp_path: Path, name: str
) -> None:
    lost = replace(recipe, development=Development(("dev", name)))
    with pytest.raises(ConfigError, match=rf"^development\.sets: .*found .* at .*{name}") as caught:
        train(lost, tmp_path / "out")
    assert f"data.folder = '{tmp_path / 'data'}'" in caught.value.expected
    assert "data.folder" in caught.value.remedy and "--data" not in str(caught.value)
