"""What a run says of itself, and when it stops by itself."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import changed, copy_weights, read_log

import m3search.training.watching as watching
from m3search.errors import ConfigError, M3Error
from m3search.training.finetuning import Metrics
from m3search.training.loop import train
from m3search.training.recipe import Recipe
from m3search.training.run import Run
from m3search.training.watching import DEAD_STEPS, DivergenceError, Health, Log, cut_log


def test_a_gradient_that_is_no_number_changes_no_weight(recipe: Recipe, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path)
    before = copy_weights(run.model)
    run.model.sparse_linear.bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DivergenceError, match="step 0: expected a finite gradient norm"):
        run.train_step()
    assert run.step == 0
    assert changed(before, copy_weights(run.model)) == set()


def test_a_loss_that_is_no_number_stops_the_run(recipe: Recipe, tmp_path: Path) -> None:
    wild = replace(recipe, objective=replace(recipe.losses, temperature=1e-45))
    with pytest.raises(DivergenceError, match="a finite loss"):
        train(wild, tmp_path / "out")
    assert issubclass(DivergenceError, M3Error)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_only_finite_numbers_pass(value: float) -> None:
    health = Health()
    health.check_finite(3, "loss", 0.0)
    with pytest.raises(DivergenceError, match="step 3: expected a finite loss, found"):
        health.check_finite(3, "loss", value)


def test_a_dead_lexical_head_stops_the_run(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "DEAD_STEPS", 4)
    run = Run(recipe, tmp_path)
    with torch.no_grad():
        run.model.sparse_linear.bias.fill_(-100.0)
    with pytest.raises(DivergenceError, match="step 4: expected a lexical head"):
        run.train()
    assert run.step == 4
    logged = read_log(tmp_path)
    assert [line["active_terms_passage"] for line in logged] == [0.0] * 3


@pytest.mark.parametrize("side", ["active_terms_query", "active_terms_passage"])
def test_a_head_is_dead_after_so_many_steps_in_a_row(side: str) -> None:
    health = Health()
    alive: Metrics = {"active_terms_query": 3.0, "active_terms_passage": 0.5}
    for step in range(5 * DEAD_STEPS):  # one batch of a foreign script now and then is no death
        health.check_terms(step, alive if step % DEAD_STEPS == 0 else alive | {side: 0.49})
    health.check_terms(0, alive)
    for step in range(1, DEAD_STEPS):
        health.check_terms(step, alive | {side: 0.49})
        health.check_terms(step, {"loss": 1.0})  # a step of another kind says nothing
    with pytest.raises(DivergenceError, match=f"step {DEAD_STEPS}.*found 0.49 over the last"):
        health.check_terms(DEAD_STEPS, alive | {side: 0.49})


def test_a_stage_without_a_lexical_head_has_none_that_dies() -> None:
    health = Health()
    for step in range(2 * DEAD_STEPS):
        health.check_terms(step, {"loss": 0.0})


def test_a_line_is_on_disk_when_it_is_told(tmp_path: Path) -> None:
    told: list[Metrics] = []

    def note(metrics: Metrics) -> None:
        assert len(read_log(tmp_path)) == len(told) + 1
        told.append(metrics)

    log = Log(tmp_path, tensorboard=False, report=note)
    log.write({"step": 1.0, "loss": 0.12345678, "learning_rate": 3.5e-9})
    log.write({"step": 2.0, "loss": 1234567.0, "learning_rate": 0.0})
    log.close()
    assert read_log(tmp_path) == [
        {"step": 1.0, "loss": 0.1234568, "learning_rate": 3.5e-9},
        {"step": 2.0, "loss": 1234567.0, "learning_rate": 0.0},
    ]
    assert [metrics["loss"] for metrics in told] == [0.12345678, 1234567.0]
    again = Log(tmp_path, tensorboard=False, report=None)
    again.write({"step": 3.0})
    again.close()
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3]


def test_what_was_logged_after_a_step_is_dropped(tmp_path: Path) -> None:
    cut_log(tmp_path, 3)
    path = tmp_path / "metrics.jsonl"
    assert path.read_text(encoding="utf-8") == ""
    lines = [json.dumps({"step": float(step), "loss": 0.5}) + "\n" for step in range(1, 6)]
    path.write_text("".join(lines) + '{"step": 2.0, "lo', encoding="utf-8")  # by a kill
    cut_log(tmp_path, 3)
    assert path.read_text(encoding="utf-8") == "".join(lines[:3])


def test_tensorboard_must_be_installed_where_it_is_asked(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    asked = replace(recipe, output=replace(recipe.output, tensorboard=True))
    with pytest.raises(ConfigError, match=r"output\.tensorboard.*pip install tensorboard"):
        train(asked, tmp_path / "out")
    train(replace(recipe, optimiser=replace(recipe.optimiser, steps=1)), tmp_path / "out")


def test_tensorboard_gets_every_logged_line(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    one = replace(recipe.optimiser, steps=1)
    asked = replace(recipe, optimiser=one, output=replace(recipe.output, tensorboard=True))
    out = train(asked, tmp_path / "out")
    assert list((out / "tensorboard").glob("events.out.tfevents.*"))
