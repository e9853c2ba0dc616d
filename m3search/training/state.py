"""What a training needs to go on after it was stopped, written so that a kill loses nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from m3search.errors import ArtifactError, ConfigError
from m3search.model.damage import reading, writing
from m3search.training.recipe import Recipe
from m3search.training.sources import Corpus

STATE_FILE = "training_state.pt"
PARTIAL_FILE = f"{STATE_FILE}.partial"
"""a state that is being written; a kill may leave it"""
FORMAT_VERSION = 2
NO_CHECKPOINTS: Mapping[str, str] = MappingProxyType({})


def save_state(
    out: Path,
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    corpora: Sequence[Corpus],
    processes: int = 1,
    checkpoints: Mapping[str, str] = NO_CHECKPOINTS,
) -> None:
    """Replace the training state of `out` by the one after `step` optimiser steps.

    processes: how many train together. checkpoints: the fingerprint of each that the recipe names,
    by its setting, such as start.checkpoint.

    A kill at any moment leaves the old state or the new one, whole. ArtifactError, and the old
    one, where the disk does not take the new one.
    """
    state = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "recipe": json.dumps(_identity(recipe)),
        "data": [corpus.fingerprint for corpus in corpora],
        "processes": processes,
        "checkpoints": dict(checkpoints),
    }
    partial = out / PARTIAL_FILE
    then = "go on with --resume" if (out / STATE_FILE).exists() else "start again"
    with writing(partial, remedy=f"Free space on the disk, then {then}."):
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out / STATE_FILE)


def check_state(out: Path) -> None:
    """ArtifactError where the folder has no state to go on from."""
    if (out / STATE_FILE).is_file():
        return
    other = " into another folder" if (out / "config.json").exists() else " into the same folder"
    raise ArtifactError(
        str(out),
        expected=f"the state of a training that was stopped ({STATE_FILE})",
        found="none",
        remedy=f"Start without --resume{other}.",
    )


def load_state(
    out: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    corpora: Sequence[Corpus],
    processes: int = 1,
    checkpoints: Mapping[str, str] = NO_CHECKPOINTS,
) -> int:
    """Put model and optimiser back; the number of steps done is returned.

    The batches and random numbers that follow are those of a run without the stop: they are made
    from seed and step. On the same CPU with as many threads and processes the weights are too, to
    the last bit; on a GPU, whose sums have no fixed order, and on another machine they are so up to
    rounding. Without dropout that holds for any number of processes.

    Raises ArtifactError without a sound state, ConfigError if it was made by another recipe, from
    other data or, where their number decides the weights, by another number of processes. Where
    the data and the checkpoints lie and what `output` says may change; a state without the
    fingerprint of a checkpoint keeps to the name that it had.
    """
    check_state(out)
    path = out / STATE_FILE
    state = _read(path)
    old = json.loads(state["recipe"])
    _check_checkpoints(path, old, _checkpoints_of(state), recipe, checkpoints)
    _check_recipe(path, old, recipe)
    _check_data(path, state["data"], corpora)
    _check_processes(path, state.get("processes"), processes, recipe)
    try:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(
            str(path),
            expected=f"weights of the shapes of {recipe.start.checkpoint} (start.checkpoint)",
            found=str(error).splitlines()[0],
            remedy="Put the start checkpoint back, or start without --resume into another folder.",
        ) from error
    return int(state["step"])


def _check_recipe(path: Path, old: Any, recipe: Recipe) -> None:
    difference = _difference(old, json.loads(json.dumps(_identity(recipe))))
    if difference:
        raise ConfigError(
            str(path),
            expected=f"the recipe that this training started with ({difference[1]})",
            found=difference[2],
            remedy=_way_on(difference[0]),
        )


def _checkpoints_of(state: Mapping[str, Any]) -> dict[str, str]:
    """By setting, the fingerprints of a state; older ones have that of the start alone."""
    start = {"start.checkpoint": state["start"]} if state.get("start") else {}
    return {**start, **state.get("checkpoints", {})}


def _check_checkpoints(
    path: Path, old: Any, before: Mapping[str, str], recipe: Recipe, now: Mapping[str, str]
) -> None:
    """ArtifactError where a checkpoint has other files than that of the state.

    In the old recipe it then has the name that it has now: it is the same, wherever it lies.
    """
    new = asdict(recipe)
    for setting in before.keys() & now.keys():
        table, name = setting.split(".")
        if before[setting] != now[setting]:
            raise ArtifactError(
                str(path),
                expected=f"the checkpoint that this training started with, {old[table][name]} "
                f"(SHA-256 {before[setting][:16]}), in whatever folder ({setting})",
                found=f"{now[setting][:16]} in {new[table][name]}",
                remedy=f"Put it back, set {setting} to where it is now, or start without --resume "
                "into another folder.",
            )
        old[table][name] = new[table][name]


def _check_data(path: Path, fingerprints: Sequence[str], corpora: Sequence[Corpus]) -> None:
    for corpus, fingerprint in zip(corpora, fingerprints, strict=True):
        if corpus.fingerprint != fingerprint:
            raise ConfigError(
                str(path),
                expected=f"the data that this training started with, SHA-256 {fingerprint[:16]}",
                found=f"{corpus.fingerprint[:16]} in {', '.join(corpus.files)}",
                remedy="Put the files back, or start without --resume into another folder.",
            )


def _check_processes(path: Path, old: int | None, new: int, recipe: Recipe) -> None:
    """A state that does not say by how many processes it was made passes."""
    start = recipe.start
    drops = start.dropout > 0 and not start.fix_encoder
    drops = drops or (start.lora is not None and start.lora.dropout > 0)
    if drops and old is not None and old != new:
        raise ConfigError(
            str(path),
            expected=f"as many processes as this training started with ({old}), each of which "
            f"draws its own dropout (start.dropout, start.lora.dropout)",
            found=str(new),
            remedy=f"Go on with {_launch(old)}, or start without --resume into another folder.",
        )


def _launch(processes: int) -> str:
    if processes == 1:
        return "one process, without a launcher"
    return f"torchrun --nproc-per-node {processes}"


def _read(path: Path) -> dict[str, Any]:
    with reading(
        path,
        expected="the state of a training that was stopped",
        remedy="Start without --resume into another folder.",
    ):
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
            raise ValueError("not a training state of this version")
    return state


def _way_on(setting: str) -> str:
    """What to do where a setting is not that of the state."""
    if setting != "optimiser.steps":
        return f"Set {setting} back, or start without --resume into another folder."
    return (
        "Set it back: the learning rate of every step follows from it. For more steps let this run "
        "end, then start a new one from its folder (start.checkpoint) into another."
    )


def _identity(recipe: Recipe) -> dict[str, Any]:
    """The settings that decide the weights."""
    table = asdict(recipe)
    for name in ("output", "development"):  # what is logged, saved and measured changes no weight
        table.pop(name)
    table["data"].pop("folder")  # the fingerprints say what was read
    for source in table["data"]["sources"]:
        if source["titles"]:  # as in recipes of before there was a choice
            del source["titles"]
    return table


def _difference(old: Any, new: Any, where: str = "") -> tuple[str, str, str] | None:
    """The first setting that differs: its name, the old value, the new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            found = _difference(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
            if found:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = zip(old, new, strict=True)
        differences = (_difference(*pair, f"{where}[{i}]") for i, pair in enumerate(pairs))
        return next(filter(None, differences), None)
    return None if old == new else (where, f"{where} = {old!r}", f"{where} = {new!r}")
