"""Runs that are stopped and go on: the same weights to the bit, or a reason why not."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import write_bert
from training_runs import changed, read_log, starting

from m3search.errors import ArtifactError, ConfigError
from m3search.training.finetuning import Metrics
from m3search.training.inputs import Lora
from m3search.training.loop import train
from m3search.training.recipe import Distillation, Objective, Recipe
from m3search.training.run import Prepared, Run

CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from test_training_resume import lengthened
from training_runs import make_recipe
from m3search.training.loop import train

def hang_at_five(metrics):
    if metrics["step"] == 5:
        print("now", flush=True)
        time.sleep(120)

torch.set_num_threads(int(sys.argv[5]))
recipe = lengthened(make_recipe(Path(sys.argv[2]), Path(sys.argv[3])), 6)
train(recipe, sys.argv[4], report=hang_at_five)
"""


def lengthened(recipe: Recipe, steps: int) -> Recipe:
    """With dropout, titles and texts in another order: all that is random."""
    return replace(
        recipe,
        start=replace(recipe.start, dropout=0.2),
        data=replace(recipe.data, shuffle_probability=0.5),
        optimiser=replace(recipe.optimiser, steps=steps),
    )


def train_with_stops(
    recipe: Recipe, out: Path, stops: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before each of these steps, and taken up again each time."""
    step_of: Callable[[Run, Prepared], Metrics] = Run.train_step
    left = list(stops)

    def stop_at_next(run: Run, prepared: Prepared) -> Metrics:
        if left and run.step == left[0]:
            torch.manual_seed(left.pop(0))  # what the process had drawn is lost with it
            raise KeyboardInterrupt
        return step_of(run, prepared)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_step", stop_at_next)
        for number in range(len(stops)):
            with pytest.raises(KeyboardInterrupt):
                train(recipe, out, resume=number > 0)
        train(recipe, out, resume=True)
    assert not left


def assert_same_end(one: Path, two: Path) -> None:
    """Weights, optimiser and log are the same, and so is every finished file."""
    states = [torch.load(f / "training_state.pt", weights_only=True) for f in (one, two)]
    assert states[0]["step"] == states[1]["step"]
    assert changed(states[0]["model"], states[1]["model"]) == set()
    moments = [flatten(state["optimiser"]) for state in states]
    assert moments[0].keys() == moments[1].keys()
    for name, value in moments[0].items():
        same = torch.equal(value, moments[1][name]) if isinstance(value, torch.Tensor) else None
        assert value == moments[1][name] if same is None else same, name
    timed = {"seconds": 0, "tokens_per_second": 0}
    logs = [[line | timed for line in read_log(folder)] for folder in (one, two)]
    assert logs[0] == logs[1]
    for path in one.glob("*.safetensors"):
        assert path.read_bytes() == (two / path.name).read_bytes()


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of dicts and lists by their place."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, item in pairs for k, v in flatten(item, f"{name}.{key}").items()}
    return {name: value}


@pytest.mark.parametrize("save_every", [1, 2])
def test_ten_stops_change_no_bit(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: int
) -> None:
    """One before every step that has a state behind it."""
    twelve = lengthened(recipe, 12)
    twelve = replace(twelve, output=replace(twelve.output, save_every=save_every))
    train(twelve, tmp_path / "straight")
    train_with_stops(twelve, tmp_path / "stopped", range(2, 12), monkeypatch)
    assert_same_end(tmp_path / "straight", tmp_path / "stopped")
    assert [line["step"] for line in read_log(tmp_path / "stopped")] == list(range(1, 13))


@pytest.mark.parametrize(
    "kind", ["retromae", "distil", "contrastive", "cached", "lora", "bf16", "bf16 distil", "fitted"]
)
def test_every_kind_of_run_resumes_exactly(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    whole = lengthened(recipe, 4)
    cached = replace(whole.batches, gradient_cache=True, activation_checkpointing=True)
    settings: dict[str, dict[str, Any]] = {
        "retromae": {"stage": "retromae", "objective": None},
        "distil": {
            "stage": "distil",
            "objective": None,
            "distillation": Distillation(whole.start.checkpoint, "cls", word_weight=1.0),
        },
        "bf16 distil": {
            "stage": "distil",
            "objective": None,
            "distillation": Distillation(whole.start.checkpoint, "cls", contrast_weight=0.5),
            "optimiser": replace(whole.optimiser, precision="bf16"),
        },
        "contrastive": {"stage": "contrastive", "objective": None},
        "fitted": {
            "start": replace(whole.start, fix_encoder=True, fit_heads=True, dropout=0.3),
            "objective": Objective(("sparse", "multi")),
        },
        "cached": {"batches": cached},
        "lora": {"start": replace(whole.start, lora=Lora(rank=2, dropout=0.3))},
        "bf16": {
            "objective": Objective(("sparse", "multi")),
            "optimiser": replace(whole.optimiser, precision="bf16"),
        },
    }
    changed_recipe = replace(whole, **settings[kind])
    train(changed_recipe, tmp_path / "straight")
    train_with_stops(changed_recipe, tmp_path / "stopped", (3,), monkeypatch)
    assert_same_end(tmp_path / "straight", tmp_path / "stopped")


def test_ten_kills_at_random_moments_change_no_bit(recipe: Recipe, memory_folder: Path) -> None:
    """kill -9 some time behind the first step of each process: in a step, while a state is saved
    or while the checkpoint is written."""
    long = lengthened(recipe, 30)
    long = replace(long, output=replace(long.output, save_every=1))
    started = time.perf_counter()
    train(long, memory_folder / "straight")
    step_time = (time.perf_counter() - started) / 30
    rng, out, killed = random.Random(11), memory_folder / "killed", 0
    for _ in range(10):
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                resume = (out / "training_state.pt").exists()
                train(long, out, resume=resume, report=lambda _, told=theirs: os.write(told, b"."))
            finally:
                os._exit(0)
        os.close(theirs)
        os.read(ours, 1)  # a step is done, or the process
        time.sleep(rng.uniform(0, 3 * step_time))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        os.close(ours)
    train(long, out, resume=True)
    assert killed >= 8
    assert_same_end(memory_folder / "straight", out)


def test_a_killed_process_is_taken_up_where_it_was(
    recipe: Recipe, backbone: Path, tmp_path: Path
) -> None:
    six = lengthened(recipe, 6)
    train(six, tmp_path / "straight")
    out = tmp_path / "killed"
    paths = [str(path) for path in (Path(__file__).parent, backbone, tmp_path / "data", out)]
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-c", CHILD, *paths, threads]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        reached = child.stdout.readline()
        child.kill()
    assert (reached, child.returncode) == ("now\n", -signal.SIGKILL)
    assert torch.load(out / "training_state.pt", weights_only=True)["step"] == 4
    assert [line["step"] for line in read_log(out)] == [1, 2, 3, 4, 5]
    assert not (out / "config.json").exists()
    train(six, out, resume=True)
    assert_same_end(tmp_path / "straight", out)


def test_resume_notices_other_data_and_not_another_folder(recipe: Recipe, tmp_path: Path) -> None:
    two = lengthened(recipe, 2)
    train(two, tmp_path / "out")
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    elsewhere = replace(two, data=replace(two.data, folder=str(moved)))
    train(elsewhere, tmp_path / "out", resume=True)
    with (moved / "pairs.jsonl").open("a") as file:
        file.write('{"query": "one more", "pos": ["passage"]}\n')
    with pytest.raises(ConfigError, match=r"the data that this.*in pairs\.jsonl"):
        train(elsewhere, tmp_path / "out", resume=True)


def with_source(recipe: Recipe, **changes: Any) -> Recipe:
    first, *others = recipe.data.sources
    sources = (replace(first, **changes), *others)
    return replace(recipe, data=replace(recipe.data, sources=sources))


def test_resume_with_another_recipe_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    two = lengthened(recipe, 2)
    train(two, tmp_path / "out")
    for other, setting in (
        (replace(two, optimiser=replace(two.optimiser, learning_rate=1.0)), r"learning_rate = 0\."),
        (replace(two, batches=replace(two.batches, tokens=99)), r"batches\.tokens = None"),
        (replace(two, start=replace(two.start, fix_encoder=True)), r"start\.fix_encoder = False"),
        (replace(two, stage="contrastive", objective=None), r"objective\.modes = "),
        (with_source(two, weight=0.5), r"data\.sources\[0\]\.weight = 1\.0"),
        (with_source(two, titles=False), r"data\.sources\[0\]\.titles = None"),
    ):
        with pytest.raises(ConfigError, match=setting):
            train(other, tmp_path / "out", resume=True)
    with pytest.raises(ArtifactError, match="without --resume"):
        train(two, tmp_path / "empty", resume=True)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut", b"\x80\x02}q\x00."])
def test_a_damaged_state_is_named(recipe: Recipe, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "training_state.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"training_state\.pt: expected the state"):
        train(recipe, tmp_path / "out", resume=True)


def test_another_start_checkpoint_of_the_same_name_is_named(
    recipe: Recipe, backbone: Path, tmp_path: Path
) -> None:
    place = shutil.copytree(backbone, tmp_path / "start")
    two = lengthened(recipe, 2)
    two = replace(two, start=replace(two.start, checkpoint=str(place), multi_dim=None))
    train(two, tmp_path / "out")
    shutil.rmtree(place)
    write_bert(place, ["a smaller vocabulary"])
    with pytest.raises(ArtifactError, match=r"start\.checkpoint"):
        train(two, tmp_path / "out", resume=True)


def test_a_start_checkpoint_may_have_moved(
    recipe: Recipe, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shutil.copytree(backbone, tmp_path / "start")
    four = lengthened(recipe, 4)
    averaged = replace(four.output, start_weight=0.5)  # reads the start again at the end
    four = replace(starting(four, checkpoint=str(place)), output=averaged)
    train(four, tmp_path / "straight")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        step_of = Run.train_step

        def stop(run: Run, prepared: Prepared) -> Metrics:
            if run.step == 3:
                raise KeyboardInterrupt
            return step_of(run, prepared)

        patch.setattr(Run, "train_step", stop)
        train(four, tmp_path / "stopped")
    moved = place.rename(tmp_path / "renamed")
    train(starting(four, checkpoint=str(moved)), tmp_path / "stopped", resume=True)
    assert_same_end(tmp_path / "straight", tmp_path / "stopped")
    config = moved / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(ArtifactError, match=r"the checkpoint .*\(start\.checkpoint\)"):
        train(starting(four, checkpoint=str(moved)), tmp_path / "stopped", resume=True)


def test_a_teacher_may_have_moved_and_not_be_another(
    recipe: Recipe, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taught_by(place: Path) -> Recipe:
        teacher = Distillation(str(place), "cls")
        four = lengthened(recipe, 4)
        return replace(four, stage="distil", objective=None, distillation=teacher)

    place = shutil.copytree(backbone, tmp_path / "teacher")
    train(taught_by(place), tmp_path / "straight")
    train_with_stops(taught_by(place), tmp_path / "stopped", (2,), monkeypatch)
    moved = place.rename(tmp_path / "moved")
    train(taught_by(moved), tmp_path / "stopped", resume=True)
    assert_same_end(tmp_path / "straight", tmp_path / "stopped")
    (moved / "config.json").write_text((moved / "config.json").read_text() + "\n")
    with pytest.raises(ArtifactError, match=r"the checkpoint .*\(distillation\.teacher\)"):
        train(taught_by(moved), tmp_path / "stopped", resume=True)
