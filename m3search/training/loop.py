"""Training by a recipe: what may be written where, and a run from its first step to the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from m3search.config import override, parse, read_toml
from m3search.errors import ArtifactError, ConfigError
from m3search.model.resolve import resolve
from m3search.training.devices import Devices
from m3search.training.finetuning import Metrics
from m3search.training.lengths import FOLDER as LENGTHS_FOLDER
from m3search.training.recipe import Recipe
from m3search.training.refreshing import FOLDER as MINED_FOLDER
from m3search.training.run import Run
from m3search.training.state import PARTIAL_FILE, STATE_FILE, check_state
from m3search.training.watching import METRICS_FILE, TENSORBOARD_FOLDER


def train(
    recipe: str | Path | Recipe,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    report: Callable[[Metrics], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Path:
    """Run a recipe; the folder of the finished checkpoint is returned.

    recipe: a TOML file or a `Recipe`. overrides: ``table.key=value`` settings over the file's.
    resume: go on from the training state in `out`; `load_state` says how exactly.
    report: called with the metrics of every logged step, which also go to ``metrics.jsonl``.
    note: called with what a new run says before its first step, line by line.
    Started by `torchrun` or `accelerate launch`, every process calls this; the first one writes.
    """
    settings = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, overrides)
    folder, devices = Path(out), Devices()
    _check_out(folder, settings, resume)
    devices.wait()  # nobody makes the folder before everybody has looked at it
    if devices.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            (folder / METRICS_FILE).unlink(missing_ok=True)
    devices.wait()
    run = Run(settings, folder, devices)
    if resume:
        run.resume()
    elif note and devices.is_first:
        for line in run.notes:
            note(line)
    run.train(report)
    return folder


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a TOML file with some settings replaced."""
    table = read_toml(path)
    for setting in overrides:
        table = override(table, setting)
    return parse(Recipe, table, str(path))


def _check_out(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Raises where a training would write over something that is not its own."""
    start = resolve(recipe.start.checkpoint, "start.checkpoint")[1]
    if folder.is_dir() and start.resolve() == folder.resolve():
        raise ConfigError(
            "out",
            expected="another folder than start.checkpoint",
            found=str(folder),
            remedy="Choose another folder; the start weights are not written over.",
        )
    if resume:
        check_state(folder)
    if resume or not folder.exists():
        return
    # of a run that ended before its first state
    leftovers = {METRICS_FILE, PARTIAL_FILE, LENGTHS_FOLDER, MINED_FOLDER, TENSORBOARD_FOLDER}
    names = {path.name for path in folder.iterdir()} - leftovers if folder.is_dir() else {"a file"}
    if not names:
        return
    is_ours = STATE_FILE in names
    raise ArtifactError(
        str(folder),
        expected="no folder of this name, or an empty one",
        found="the state of an earlier training" if is_ours else ", ".join(sorted(names)[:5]),
        remedy=f"{'Go on with it (--resume), or choose' if is_ours else 'Choose'} another folder.",
    )
