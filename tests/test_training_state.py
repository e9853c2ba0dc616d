"""The training state under kills: what is read back is one whole state."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from killing import kill_at_each_call, largest_file

from m3search.errors import ArtifactError, ConfigError
from m3search.training.inputs import Data, Lora, Source, Start
from m3search.training.recipe import Optimiser, Output, Recipe
from m3search.training.sources import Corpus
from m3search.training.state import load_state, save_state

KNOWN, OTHERS = {"start.checkpoint": "a" * 64}, {"start.checkpoint": "b" * 64}


def make_parts() -> tuple[torch.nn.Linear, torch.optim.Optimizer, Recipe]:
    model = torch.nn.Linear(64, 64)
    recipe = Recipe("finetune", Start("x"), Data((Source("*"),)), Optimiser(steps=9))
    return model, torch.optim.AdamW(model.parameters()), recipe


def save(out: Path, step: int, corpora: Sequence[Corpus] = ()) -> None:
    """The state of a step, every weight of which is the step's number."""
    model, optimiser, recipe = make_parts()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(step)
    save_state(out, step, model, optimiser, recipe, corpora)


def check_state(out: Path, step: int) -> None:
    model, optimiser, recipe = make_parts()
    assert load_state(out, model, optimiser, recipe, []) == step
    assert all(bool((parameter == step).all()) for parameter in model.parameters())


def test_a_state_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int]] = []
    sync, replace_file = os.fsync, Path.replace

    def note_sync(number: int) -> None:
        done.append(("sync", os.fstat(number).st_size))
        sync(number)

    def note_replace(path: Path, target: Path) -> Path:
        done.append(("replace", path.stat().st_size))
        return replace_file(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    save(tmp_path, 1)
    size = (tmp_path / "training_state.pt").stat().st_size
    assert done[:2] == [("sync", size), ("replace", size)]


def test_a_kill_while_the_state_is_saved_leaves_the_one_before(tmp_path: Path) -> None:
    save(tmp_path, 1)
    child = os.fork()
    if child == 0:
        try:
            torch.save = save_half
            save(tmp_path, 2)
        finally:
            os._exit(1)  # only if it was not killed
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert (tmp_path / "training_state.pt.partial").stat().st_size > 0
    check_state(tmp_path, 1)
    save(tmp_path, 3)  # over what the kill left
    check_state(tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["training_state.pt"]


def save_half(state: dict[str, Any], file: BinaryIO, whole: Any = torch.save) -> None:
    """Half of the file, and then a kill."""
    buffer = io.BytesIO()
    whole(state, buffer)
    file.write(buffer.getvalue()[: buffer.tell() // 2])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_disk_that_takes_no_more_leaves_the_state_before_and_its_room(tmp_path: Path) -> None:
    with largest_file(5000), pytest.raises(ArtifactError, match=r"then start again\."):
        save(tmp_path, 1)
    assert not list(tmp_path.iterdir())
    save(tmp_path, 1)
    with largest_file(5000), pytest.raises(ArtifactError) as caught:
        save(tmp_path, 2)
    error = caught.value
    assert error.where == str(tmp_path / "training_state.pt.partial")
    assert error.found.startswith("File too large (")
    assert error.remedy == "Free space on the disk, then go on with --resume."
    assert [path.name for path in tmp_path.iterdir()] == ["training_state.pt"]
    check_state(tmp_path, 1)


def test_an_error_that_no_disk_made_is_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="no such operator"):
        save(tmp_path, 1)


def test_a_folder_without_a_state_may_be_started_in(tmp_path: Path) -> None:
    model, optimiser, recipe = make_parts()
    with pytest.raises(ArtifactError, match=r"found none\. Start without --resume into the same"):
        load_state(tmp_path, model, optimiser, recipe, [])
    (tmp_path / "config.json").write_text("{}")  # a checkpoint, which is not written over
    with pytest.raises(ArtifactError, match=r"Start without --resume into another folder"):
        load_state(tmp_path, model, optimiser, recipe, [])


def test_a_damaged_state_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "training_state.pt").write_bytes(b"no archive at all")
    model, optimiser, recipe = make_parts()
    with pytest.raises(ArtifactError) as caught:
        load_state(tmp_path, model, optimiser, recipe, [])
    assert caught.value.found == "UnpicklingError: Weights only load failed"


def test_more_steps_need_a_run_of_their_own(tmp_path: Path) -> None:
    save(tmp_path, 1)
    model, optimiser, recipe = make_parts()
    longer = replace(recipe, optimiser=Optimiser(steps=20))
    with pytest.raises(ConfigError, match=r"start a new one from its folder \(start\.checkpoint\)"):
        load_state(tmp_path, model, optimiser, longer, [])


def test_a_kill_at_any_call_of_the_system_leaves_a_whole_state(tmp_path: Path) -> None:
    save(tmp_path, 1)
    kills = 0
    for _ in kill_at_each_call(lambda: save(tmp_path, 2)):
        check_state(tmp_path, 1)  # the last call is the one that puts the new one in its place
        kills += 1
    assert kills >= 4  # open, flush, fsync, replace at least
    check_state(tmp_path, 2)


def test_a_state_is_plain_tensors_and_no_random_numbers(tmp_path: Path) -> None:
    """Every step makes its own from seed and number."""
    save(tmp_path, 1)
    state = torch.load(tmp_path / "training_state.pt", weights_only=True)
    assert state.keys() == {
        "format_version", "step", "model", "optimiser", "recipe", "data", "processes",
        "checkpoints"
    }  # fmt: skip


def test_where_the_data_lie_and_what_is_written_may_change(tmp_path: Path) -> None:
    save(tmp_path, 1)
    model, optimiser, recipe = make_parts()
    moved = replace(recipe, data=replace(recipe.data, folder="/elsewhere"))
    assert load_state(tmp_path, model, optimiser, moved, []) == 1
    often = replace(recipe, output=Output(log_every=1, save_every=3, start_weight=0.5))
    assert load_state(tmp_path, model, optimiser, often, []) == 1


def test_the_start_may_lie_elsewhere_and_not_be_another(tmp_path: Path) -> None:
    model, optimiser, recipe = make_parts()
    moved = replace(recipe, start=Start("y"))
    save_state(tmp_path, 1, model, optimiser, recipe, [], checkpoints=KNOWN)
    for same in (recipe, moved):
        assert load_state(tmp_path, model, optimiser, same, [], checkpoints=KNOWN) == 1
    told = r"started with, x \(SHA-256 a{16}\).*found b{16} in y\. .*set start\.checkpoint to where"
    with pytest.raises(ArtifactError, match=told):
        load_state(tmp_path, model, optimiser, moved, [], checkpoints=OTHERS)
    other = replace(moved, start=Start("y", dropout=0.5))
    with pytest.raises(ConfigError, match=r"start\.dropout = 0\.5"):
        load_state(tmp_path, model, optimiser, other, [], checkpoints=KNOWN)


def test_a_state_that_does_not_say_what_its_start_was_keeps_to_its_name(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = tmp_path / "training_state.pt"
    state = torch.load(path, weights_only=True)
    del state["checkpoints"]
    torch.save(state, path)
    model, optimiser, recipe = make_parts()
    assert load_state(tmp_path, model, optimiser, recipe, [], checkpoints=KNOWN) == 1
    moved = replace(recipe, start=Start("y"))
    with pytest.raises(ConfigError, match=r"Set start\.checkpoint back"):
        load_state(tmp_path, model, optimiser, moved, [], checkpoints=KNOWN)


def test_another_setting_is_named_with_both_values(tmp_path: Path) -> None:
    save(tmp_path, 1)
    model, optimiser, recipe = make_parts()
    for other, old, new in (
        (replace(recipe, optimiser=Optimiser(9, seed=8)), "optimiser.seed = 42", " = 8"),
        (replace(recipe, start=Start("x", lora=Lora())), "start.lora = None", "'rank': 16"),
        (replace(recipe, data=Data((Source("*", 2.0),))), "sources[0].weight = 1.0", " = 2.0"),
    ):
        with pytest.raises(ConfigError, match=r"Set .* back, or start without") as caught:
            load_state(tmp_path, model, optimiser, other, [])
        assert old in caught.value.expected and new in caught.value.found


def test_other_data_are_named(tmp_path: Path) -> None:
    model, optimiser, recipe = make_parts()
    corpora = [Corpus(Source("*"), (f"{name}.jsonl",), (), name * 64) for name in "abc"]
    save(tmp_path, 1, corpora[:2])
    assert load_state(tmp_path, model, optimiser, recipe, corpora[:2]) == 1
    with pytest.raises(ConfigError, match=r"SHA-256 b{16}, found c{16} in c\.jsonl"):
        load_state(tmp_path, model, optimiser, recipe, [corpora[0], corpora[2]])


def test_with_dropout_a_run_goes_on_with_as_many_processes(tmp_path: Path) -> None:
    model, optimiser, recipe = make_parts()
    save_state(tmp_path, 1, model, optimiser, recipe, [], processes=2)
    assert load_state(tmp_path, model, optimiser, recipe, [], processes=2) == 1
    message = r"started with \(2\).*start\.dropout.*found 1\. Go on with torchrun .*node 2,"
    with pytest.raises(ConfigError, match=message):
        load_state(tmp_path, model, optimiser, recipe, [], processes=1)
    save_state(tmp_path, 1, model, optimiser, recipe, [])
    with pytest.raises(ConfigError, match=r"found 4\. Go on with one process, without a launcher"):
        load_state(tmp_path, model, optimiser, recipe, [], processes=4)


@pytest.mark.parametrize(
    ("start", "accepted"),
    [
        (Start("x", dropout=0.0), True),
        (Start("x", dropout=0.1, fix_encoder=True), True),
        (Start("x", dropout=0.0, lora=Lora(dropout=0.0)), True),
        (Start("x", dropout=0.0, lora=Lora(dropout=0.1)), False),
    ],
)
def test_without_dropout_any_number_of_processes_goes_on(
    tmp_path: Path, start: Start, accepted: bool
) -> None:
    model, optimiser, recipe = make_parts()
    recipe = replace(recipe, start=start)
    save_state(tmp_path, 1, model, optimiser, recipe, [], processes=8)
    if accepted:
        assert load_state(tmp_path, model, optimiser, recipe, []) == 1
        return
    with pytest.raises(ConfigError, match="as many processes"):
        load_state(tmp_path, model, optimiser, recipe, [])


def test_a_state_that_does_not_say_how_many_processes_made_it_is_taken(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = tmp_path / "training_state.pt"
    state = torch.load(path, weights_only=True)
    del state["processes"]
    torch.save(state, path)
    model, optimiser, recipe = make_parts()
    assert load_state(tmp_path, model, optimiser, recipe, [], processes=4) == 1


@pytest.mark.parametrize("version", [1, 3, None])
def test_a_state_of_another_version_is_refused(tmp_path: Path, version: int | None) -> None:
    save(tmp_path, 1)
    path = tmp_path / "training_state.pt"
    state = torch.load(path, weights_only=True)
    torch.save(state | {"format_version": version}, path)
    model, optimiser, recipe = make_parts()
    with pytest.raises(ArtifactError, match="not a training state of this version"):
        load_state(tmp_path, model, optimiser, recipe, [])


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    _, _, recipe = make_parts()
    other = torch.nn.Linear(64, 63)
    with pytest.raises(ArtifactError, match=r"shapes of x \(start\.checkpoint\)"):
        load_state(tmp_path, other, torch.optim.AdamW(other.parameters()), recipe, [])


def test_a_state_of_an_earlier_version_says_what_its_start_was(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = tmp_path / "training_state.pt"
    state = torch.load(path, weights_only=True)
    del state["checkpoints"]
    torch.save(state | {"start": "a" * 64}, path)
    model, optimiser, recipe = make_parts()
    moved = replace(recipe, start=Start("y"))
    known = KNOWN | {"distillation.teacher": "c" * 64}
    assert load_state(tmp_path, model, optimiser, moved, [], checkpoints=known) == 1
