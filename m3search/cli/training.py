"""`m3search train`: a recipe run, watched, and resumed."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m3search.cli.options import JsonOption
from m3search.cli.output import print_json, print_note

if TYPE_CHECKING:
    from tqdm import tqdm

SHOWN = (
    "loss", "loss_dense", "loss_sparse", "loss_multi", "loss_encoder", "loss_decoder",
    "loss_passages", "loss_translations", "loss_words",
    "accuracy_ensemble", "dev_dense", "dev_sparse", "dev_multi", "dev_all",
)  # fmt: skip
"""metrics on each line, where a stage has them; metrics.jsonl beside the checkpoint holds all"""


def train_model(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A TOML file.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="New or empty folder for the checkpoint; by default checkpoints/NAME-OF-RECIPE.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace a setting: optimiser.steps=200. Repeatable."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last saved state in --out.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Train a checkpoint by a recipe. Metrics appear as it goes.

    Every key of a recipe, with type, default and meaning: trainer/RECIPES.md.

    On several devices: torchrun --standalone --nproc-per-node N -m m3search train RECIPE.
    """
    from m3search.training.loop import read_recipe, train
    from m3search.training.state import STATE_FILE

    folder = out or Path("checkpoints") / recipe.stem
    chosen = read_recipe(recipe, settings or [])
    from tqdm import tqdm

    try:
        total = chosen.optimiser.steps
        hidden = True if _is_follower() else None  # None: where nobody looks
        with tqdm(total=total, unit=" steps", disable=hidden, dynamic_ncols=True) as bar:
            train(
                chosen,
                folder,
                resume=resume,
                report=lambda metrics: _show(bar, metrics),
                note=lambda line: bar.write(line, file=sys.stderr),
            )
    except KeyboardInterrupt:
        if _is_follower():
            raise
        if not (folder / STATE_FILE).exists():
            print_note("interrupted before the first state was saved (output.save_every)")
        elif os.environ.get("WORLD_SIZE", "1") != "1":  # their launcher belongs to the command
            print_note("interrupted; go on with the same command and --resume")
        else:
            again = [str(recipe), *(f"--set={each}" for each in settings or []), f"--out={folder}"]
            print_note(f"interrupted; go on with: m3search train {shlex.join(again)} --resume")
        raise
    if _is_follower():
        return
    if json:
        print_json({"checkpoint": str(folder), "steps": chosen.optimiser.steps})
    else:
        typer.echo(f"checkpoint in {folder}")


def _is_follower() -> bool:
    """Whether another process of the same training speaks for all."""
    return os.environ.get("RANK", "0") != "0"


def _show(bar: tqdm[None], metrics: Mapping[str, float]) -> None:
    step = int(metrics["step"])
    if bar.n:
        bar.update(step - bar.n)
    else:  # a resumed run starts here, and its rate counts only what was done now
        bar.initial = bar.n = step
        bar.refresh()
    shown = "  ".join(f"{name} {metrics[name]:.4f}" for name in SHOWN if name in metrics)
    bar.write(f"step {step}  {shown}", file=sys.stderr)
