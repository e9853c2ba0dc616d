"""What a training needs to go on after it was stopped, written so that a kill loses nothing."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from m3search.errors import ArtifactError, ConfigError
from m3search.training.recipe import Recipe

STATE_FILE = "training_state.pt"


def save_state(
    out: Path, step: int, model: nn.Module, optimiser: torch.optim.Optimizer, recipe: Recipe
) -> None:
    """Replace the training state of `out` by the one after `step` optimiser steps."""
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "random": torch.get_rng_state(),
        "recipe": _canonical(recipe),
    }
    temporary = out / f"{STATE_FILE}.partial"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(out / STATE_FILE)


def load_state(
    out: Path, model: nn.Module, optimiser: torch.optim.Optimizer, recipe: Recipe
) -> int:
    """Put model, optimiser and random state back; the number of steps done is returned.

    Raises ArtifactError without a state, ConfigError if it was made by another recipe.
    """
    path = out / STATE_FILE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise ArtifactError(
            str(path),
            expected="the state of a training that was stopped",
            found=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            remedy="Start it without --resume.",
        ) from error
    difference = _difference(json.loads(state["recipe"]), json.loads(_canonical(recipe)))
    if difference:
        raise ConfigError(
            str(path),
            expected=f"the recipe that this training started with ({difference[1]})",
            found=difference[2],
            remedy=f"Set {difference[0]} back, or start without --resume into another folder.",
        )
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["random"])
    return int(state["step"])


def _canonical(recipe: Recipe) -> str:
    table = asdict(recipe)
    table.pop("output")  # how often is logged and saved changes no weight
    return json.dumps(table, sort_keys=True)


def _difference(old: Any, new: Any, where: str = "") -> tuple[str, str, str] | None:
    """The first setting that differs: its name, the old value, the new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            found = _difference(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
            if found:
                return found
        return None
    return None if old == new else (where, f"{where} = {old!r}", f"{where} = {new!r}")
