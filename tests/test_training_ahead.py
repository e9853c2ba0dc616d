"""What the next step needs is made while one trains: order, errors, refreshes, the thread's end."""

from __future__ import annotations

import multiprocessing
import os
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import read_log

from m3search.training.ahead import ahead
from m3search.training.devices import Devices
from m3search.training.loop import train
from m3search.training.mining.rules import MiningSettings
from m3search.training.recipe import Recipe, Refresh
from m3search.training.run import Prepared, Run


def threads() -> set[threading.Thread]:
    return {*threading.enumerate()}


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize("numbers", [range(0), range(3, 4), range(3, 5), range(2, 9)])
def test_every_number_comes_once_and_in_order(numbers: range, processes: int) -> None:
    before = threads()
    found = list(ahead(np.arange, numbers, processes))
    assert [each.tolist() for each in found] == [list(range(number)) for number in numbers]
    assert all(isinstance(each, np.ndarray) for each in found)
    assert processes or threads() <= before
    assert not multiprocessing.active_children()


def test_several_processes_make_numbers() -> None:
    makers = set(ahead(lambda _: os.getpid(), range(8), 2))
    assert len(makers) == 2 and os.getpid() not in makers


def test_processes_end_where_no_more_is_asked_for() -> None:
    with closing(ahead(lambda number: number, range(99), 2)) as values:
        assert next(values) == 0
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


def test_a_training_is_the_same_whoever_reads(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = []
    for readers in (0, 2):
        monkeypatch.setattr(Devices, "spare_cores", lambda *_, found=readers: found)
        logs.append(read_log(train(recipe, tmp_path / str(readers))))
    time = {"seconds": 0, "tokens_per_second": 0}
    assert [one | time for one in logs[0]] == [other | time for other in logs[1]]


def test_one_number_is_made_while_the_one_before_is_used() -> None:
    begun = [threading.Event() for _ in range(4)]
    allowed = [threading.Event() for _ in range(4)]

    def make(number: int) -> threading.Thread:
        begun[number].set()
        assert allowed[number].wait(30)
        return threading.current_thread()

    allowed[0].set()
    makers = set()
    for number, maker in enumerate(ahead(make, range(4))):
        makers.add(maker)
        if number < 3:
            assert begun[number + 1].wait(30)
            allowed[number + 1].set()
        assert not any(each.is_set() for each in begun[number + 2 :])
    assert len(makers) == 1 and threading.current_thread() not in makers


@pytest.mark.parametrize("processes", [0, 2])
def test_an_error_comes_where_its_value_would_have_come(processes: int) -> None:
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("no text")
        return number

    before, values = threads(), ahead(make, range(5), processes)
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(ValueError, match="no text"):
        next(values)
    assert processes or threads() <= before


def test_what_is_closed_early_leaves_no_thread() -> None:
    before, made = threads(), []
    with pytest.raises(KeyboardInterrupt), closing(ahead(made.append, range(9))) as values:
        for _ in values:
            raise KeyboardInterrupt
    assert threads() <= before
    assert made in ([0], [0, 1])


def test_a_training_reads_one_step_ahead_and_ends_its_thread(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, step_of = Run.prepare_step, Run.train_step
    read = [threading.Event() for _ in range(recipe.optimiser.steps)]
    before = threads()

    def note(run: Run, step: int) -> Prepared:
        if step == 4:
            raise ValueError("no text")
        read[step].set()
        return prepare(run, step)

    def wait(run: Run, prepared: Prepared) -> dict[str, float]:
        assert run.step == 3 or read[run.step + 1].wait(30)
        return step_of(run, prepared)

    monkeypatch.setattr(Run, "prepare_step", note)
    monkeypatch.setattr(Run, "train_step", wait)
    recipe = replace(recipe, output=replace(recipe.output, log_every=1))
    logged: list[float] = []
    with pytest.raises(ValueError, match="no text"):
        train(recipe, tmp_path / "out", report=lambda metrics: logged.append(metrics["step"]))
    assert logged == [1, 2, 3, 4]
    assert threads() <= before


def test_a_training_whose_step_fails_ends_its_thread(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_of, before = Run.train_step, threads()

    def fail(run: Run, prepared: Prepared) -> dict[str, float]:
        if run.step == 2:
            raise KeyboardInterrupt
        return step_of(run, prepared)

    monkeypatch.setattr(Run, "train_step", fail)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(recipe, tmp_path / "out")
    assert caught.tb is not None  # whose frames hold all that was not closed
    assert threads() <= before


def test_nothing_is_drawn_for_after_a_refresh_before_it(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, int]] = []
    prepare, take = Run.prepare_step, Run._take_negatives

    def note_step(run: Run, step: int) -> Prepared:
        events.append(("step", step))
        return prepare(run, step)

    def note_refresh(run: Run, step: int) -> None:
        events.append(("refresh", step))
        take(run, step)

    monkeypatch.setattr(Run, "prepare_step", note_step)
    monkeypatch.setattr(Run, "_take_negatives", note_refresh)
    rules = MiningSettings(ranks=(0, 8), negatives=3)
    recipe = replace(recipe, refresh=Refresh(every=2, modes=("dense",), rules=rules))
    train(replace(recipe, optimiser=replace(recipe.optimiser, steps=5)), tmp_path / "out")
    expected = [("step", 0), ("step", 1), ("refresh", 2), ("step", 2), ("step", 3)]
    assert events == [*expected, ("refresh", 4), ("step", 4)]


@pytest.mark.parametrize(("device", "most"), [("cpu", 0), ("mps", 0), ("cuda", 2)])
def test_cores_are_spared_where_a_gpu_computes_and_linux_counts_them(
    monkeypatch: pytest.MonkeyPatch, device: str, most: int
) -> None:
    devices = Devices()
    monkeypatch.setattr(devices, "device", torch.device(device))
    if device == "cuda":
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    else:
        monkeypatch.delattr("os.sched_getaffinity", raising=False)  # as on macOS
    assert devices.spare_cores(2) == most
