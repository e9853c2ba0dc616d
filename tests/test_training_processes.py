"""Two processes that train together: what one does for both, and that a stop changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from test_training_refreshing import stop_before
from test_training_resume import assert_same_end, lengthened
from training_processes import run_together
from training_runs import (
    make_recipe,
    measured,
    read_log,
    starting,
    write_development,
)

import m3search.training.run as running
from m3search.training.loop import train
from m3search.training.mining.rules import MiningSettings
from m3search.training.recipe import Development, Recipe, Refresh
from m3search.training.refreshing import mined_file
from m3search.training.run import Prepared, Run


class Trained(NamedTuple):
    """A finished run, and the notes of each of its processes."""

    out: Path
    notes: list[dict[str, Any]]


def refreshing(recipe: Recipe) -> Recipe:
    """Negatives are mined again before the steps 2 and 4."""
    rules = MiningSettings(ranks=(0, 8), negatives=3)
    return replace(recipe, refresh=Refresh(every=2, modes=("dense", "sparse"), rules=rules))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def recipe(backbone: Path, folder: Path) -> Recipe:
    """Six steps without dropout that mine twice and measure twice."""
    made = refreshing(starting(make_recipe(backbone, folder / "data"), dropout=0.0))
    write_development(folder / "data" / "dev")
    return replace(made, development=Development(("dev",), every=4, max_length=64))


@pytest.fixture(scope="module")
def alone(recipe: Recipe, folder: Path) -> Trained:
    """The run of one process."""
    train_with_notes(0, recipe, folder / "alone")
    return Trained(folder / "alone", read_notes(folder / "alone", 1))


@pytest.fixture(scope="module")
def together(recipe: Recipe, folder: Path) -> Trained:
    """The run of two processes."""
    run_together(2, train_with_notes, recipe, folder / "together")
    return Trained(folder / "together", read_notes(folder / "together", 2))


def train_with_notes(rank: int, recipe: Recipe, out: Path) -> None:
    """Writes what this process mines, measures, is told and draws into a file beside `out`."""
    notes: dict[str, list[Any]] = {"mined": [], "measured": [], "told": [], "drawn": []}
    mine, measure, step_of = running.mine_again, running.measure, Run.accumulate

    def note_mined(*arguments: Any) -> None:
        notes["mined"].append(arguments[-1].name)
        mine(*arguments)

    def note_measured(*arguments: Any) -> dict[str, float]:
        notes["measured"].append(measure(*arguments))
        return notes["measured"][-1]  # type: ignore[no-any-return]

    def note_drawn(run: Run, prepared: Prepared) -> dict[str, float]:
        notes["drawn"].append(run.sampler.batch(run.step).passages)
        return step_of(run, prepared)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "mine_again", note_mined)
        patch.setattr(running, "measure", note_measured)
        patch.setattr(Run, "accumulate", note_drawn)
        train(recipe, out, report=lambda metrics: notes["told"].append(metrics["step"]))
    out.with_name(f"{out.name}.{rank}.json").write_text(json.dumps(notes))


def read_notes(out: Path, count: int) -> list[dict[str, Any]]:
    files = (out.with_name(f"{out.name}.{rank}.json") for rank in range(count))
    return [json.loads(file.read_text()) for file in files]


def test_one_process_mines_and_all_go_on_with_what_it_found(
    alone: Trained, together: Trained
) -> None:
    assert [each["mined"] for each in together.notes] == [["2.jsonl.gz", "4.jsonl.gz"], []]
    for step in (2, 4):
        one, two = (mined_file(run.out, step).read_bytes() for run in (alone, together))
        assert one == two
    (wanted,) = (each["drawn"] for each in alone.notes)
    assert [each["drawn"] for each in together.notes] == [wanted, wanted]
    of_files = [any(text.startswith("Nothing") for text in texts) for texts in wanted]
    assert of_files == [True] * 2 + [False] * 4


def test_one_process_measures_and_writes_the_log(alone: Trained, together: Trained) -> None:
    first, second = together.notes
    assert len(first["measured"]) == 2
    assert first["told"] == [1, 2, 3, 4, 5, 6]
    assert second["measured"] == second["told"] == []
    lines = read_log(together.out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [step for step, line in enumerate(lines, start=1) if measured(line)] == [4, 6]
    for line, wanted in zip(lines, read_log(alone.out), strict=True):
        assert line.keys() == wanted.keys()
        assert measured(line) == pytest.approx(measured(wanted), abs=1e-6)
        assert line["loss"] == pytest.approx(wanted["loss"], rel=1e-4)


def test_two_processes_end_in_the_weights_of_one(alone: Trained, together: Trained) -> None:
    one, two = (load_file(run.out / "model.safetensors") for run in (alone, together))
    assert one.keys() == two.keys()
    for name, tensor in one.items():  # the steps change them by up to 6e-3
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0, msg=name)


def test_a_stop_of_both_changes_no_bit(recipe: Recipe, tmp_path: Path) -> None:
    """The state is of step 3: behind the first mining, which both read again, before the second."""
    dropping = replace(lengthened(recipe, 6), output=replace(recipe.output, save_every=3))
    run_together(2, train_with_a_stop, dropping, tmp_path)
    assert_same_end(tmp_path / "straight", tmp_path / "stopped")
    assert [line["step"] for line in read_log(tmp_path / "stopped")] == [1, 2, 3, 4, 5, 6]


def train_with_a_stop(rank: int, recipe: Recipe, folder: Path) -> None:
    train(recipe, folder / "straight")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before(5, patch)
        train(recipe, folder / "stopped")
    torch.manual_seed(rank)  # what the processes had drawn is lost with them
    train(recipe, folder / "stopped", resume=True)
