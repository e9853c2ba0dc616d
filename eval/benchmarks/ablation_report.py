"""The numbers of the ablation: means, spreads, paired differences, and the report of them."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from m3search.evaluation.measures import markdown_table

MEASURE = "nDCG@10"
ROWS = ("dense", "sparse", "multi", "all")
FACTORS = ("self-distillation", "RetroMAE")
PAPER = {
    "self-distillation": "dense 68.7 -> 69.2, sparse 36.7 -> 53.9, multi 69.3 -> 70.5",
    "RetroMAE": "dense 60.5 -> 66.1",
}
EXACT = 16
"""differences up to which all ways to turn their signs are tried; beyond, that many at random"""

Scores = dict[str, dict[str, float]]
"""set -> row -> nDCG@10"""


class Cell(NamedTuple):
    """What a model was trained with, in the order of `FACTORS`."""

    distilled: bool
    pretrained: bool

    @property
    def name(self) -> str:
        """As folders and tables call it."""
        return "+".join(f for f, has in zip(FACTORS, self, strict=True) if has) or "neither"


CELLS = tuple(Cell(*has) for has in itertools.product((False, True), repeat=2))
Results = dict[Cell, dict[int, Scores]]
"""cell -> seed -> scores"""


def differences(results: Results, factor: int, row: str) -> list[float]:
    """With a factor minus without it, one number for each seed and set.

    Each is the mean over both levels of the other factor.
    """
    paired = []
    with_it = [cell for cell in CELLS if cell[factor]]
    for seed, scores in results[with_it[0]].items():
        for name in scores:
            gains = []
            for cell in with_it:
                without = Cell(*(has and place != factor for place, has in enumerate(cell)))
                gains.append(results[cell][seed][name][row] - results[without][seed][name][row])
            paired.append(statistics.mean(gains))
    return paired


def sign_flip_p(values: Sequence[float]) -> float:
    """Two-sided p of the mean being 0 if each difference were as likely to be turned around.

    Fisher's randomisation test (The Design of Experiments, 1935, section 21): the share of all
    ways to choose the signs whose sum is as far from 0 as the one found.
    """
    observed = np.asarray(values, np.float64)
    if len(observed) <= EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(observed))))
    else:
        signs = np.random.default_rng(1).choice((1.0, -1.0), (1 << EXACT, len(observed)))
        signs[0] = 1.0
    sums = np.abs(signs @ observed)
    return float((sums >= abs(observed.sum()) - 1e-12).mean())


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample; 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def summarise(results: Results) -> dict[str, Any]:
    """Mean and standard deviation over seeds of each cell, set and row; then the differences."""
    cells: dict[str, Any] = {}
    for cell, by_seed in results.items():
        names = list(next(iter(by_seed.values())))
        columns = {name: [scores[name] for scores in by_seed.values()] for name in names}
        columns["mean"] = [
            {row: statistics.mean(scores[name][row] for name in names) for row in ROWS}
            for scores in by_seed.values()
        ]
        cells[cell.name] = {
            name: {
                row: {
                    "mean": statistics.mean(each[row] for each in column),
                    "sd": spread([each[row] for each in column]),
                }
                for row in ROWS
            }
            for name, column in columns.items()
        }
    gains: dict[str, Any] = {}
    for place, factor in enumerate(FACTORS):
        for row in ROWS:
            paired = differences(results, place, row)
            gains.setdefault(factor, {})[row] = {
                "mean": statistics.mean(paired),
                "sd": spread(paired),
                "better": sum(value > 0 for value in paired),
                "of": len(paired),
                "p": sign_flip_p(paired),
            }
    return {"cells": cells, "differences": gains}


def to_markdown(summary: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The report: a table of cells, one of differences, what it was made with."""
    cells = [["trained with", "set", *ROWS]]
    for cell, sets in summary["cells"].items():
        for name, rows in sets.items():
            told = [f"{100 * rows[row]['mean']:.1f} ± {100 * rows[row]['sd']:.1f}" for row in ROWS]
            cells.append([cell, name, *told])
    gains = [["with - without", "mode", "mean", "sd", "better in", "p", "in the paper"]]
    for factor, rows in summary["differences"].items():
        for row, found in rows.items():
            told = [f"{100 * found['mean']:+.2f}", f"{100 * found['sd']:.2f}"]
            count = f"{found['better']} of {found['of']}"
            paper = PAPER[factor] if row == ROWS[0] else ""
            gains.append([factor, row, *told, count, f"{found['p']:.3f}", paper])
    made = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"""# Ablation: self-distillation and RetroMAE at small scale

{MEASURE} in percent: mean and standard deviation over seeds.

{markdown_table(cells)}

A difference is paired: the same seed and set with and without, averaged over the other factor. p is
that of Fisher's randomisation test over seeds x sets, two-sided; the seeds of one set share its
queries, so it says more of these sets than of others. A RetroMAE stage adds training steps; the
fine-tuning is the same with and without it.

{markdown_table(gains)}

Made with: {made}.
"""
