"""Quality on development sets while a training runs: nDCG@10 of every mode that is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m3search.encoder import Encoder
from m3search.evaluation import EvaluationSet, evaluate_sets
from m3search.records import MODES, Mode
from m3search.training.finetuning import Metrics
from m3search.training.recipe import Development

MEASURE = "nDCG@10"


def development_sets(
    settings: Development, folder: Path, modes: Sequence[Mode]
) -> tuple[EvaluationSet, ...]:
    """The sets of a recipe, with a row for each mode and one for all that are trained together."""
    rows: tuple[str, ...] = tuple(modes)
    if len(modes) > 1:
        rows += ("all" if len(modes) == len(MODES) else "+".join(modes),)
    return tuple(
        EvaluationSet(
            folder / name,
            split=settings.split,
            max_length=settings.max_length,
            measures=(MEASURE,),
            rows=rows,
            unknown_documents=settings.unknown_documents,
        )
        for name in settings.sets
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
