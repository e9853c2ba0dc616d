"""Quality on development sets while a training runs: nDCG@10 of every mode that is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m3search.encoder import Encoder
from m3search.errors import ConfigError
from m3search.evaluation import EvaluationSet, evaluate_sets
from m3search.evaluation.collection import load_collection
from m3search.records import MODES, Mode
from m3search.training.finetuning import Metrics
from m3search.training.recipe import Recipe

MEASURE = "nDCG@10"


def development_sets(recipe: Recipe) -> tuple[EvaluationSet, ...]:
    """The sets of a recipe, with a row for each mode and one for all that are trained together.

    Each is read once, so that a bad one is told before the first step and not after hours;
    ConfigError where one is not there.
    """
    settings = recipe.development
    if settings is None:
        return ()
    folder = Path(recipe.data.folder).expanduser()
    _check_folders(settings.sets, folder)
    sets = tuple(
        EvaluationSet(
            folder / name,
            split=settings.split,
            max_length=settings.max_length,
            measures=(MEASURE,),
            rows=_rows(recipe.heads or ("dense",)),
            unknown_documents=settings.unknown_documents,
        )
        for name in settings.sets
    )
    for each in sets:
        load_collection(each)
    return sets


def _rows(modes: Sequence[Mode]) -> tuple[str, ...]:
    if len(modes) == 1:
        return tuple(modes)
    return (*modes, "all" if len(modes) == len(MODES) else "+".join(modes))


def _check_folders(names: Sequence[str], folder: Path) -> None:
    for name in names:
        place = folder / name
        if not place.is_dir():
            raise ConfigError(
                "development.sets",
                expected=f"the folder of a set, relative to data.folder = {str(folder)!r}",
                found=f"{'a file' if place.exists() else 'nothing'} at {place}",
                remedy="Correct the name or data.folder, or measure nothing: "
                "--set 'development.sets=[]'.",
            )


def measure(sets: Sequence[EvaluationSet], encoder: Encoder) -> Metrics:
    """`dev_<set>_<row>`: nDCG@10, 0 to 1, and `dev_<row>`, the mean over the sets."""
    experiment = evaluate_sets(sets, lambda _: encoder)
    metrics: Metrics = {}
    for each in experiment.sets:
        for row, values in each.report.means.items():
            metrics[f"dev_{each.name}_{row}"] = values[MEASURE]
    for row, values in experiment.means().items():
        metrics[f"dev_{row}"] = values[MEASURE]
    return metrics
