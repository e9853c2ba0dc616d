"""The largest batch of a fine-tuning step within a memory budget, with and without sub-batches.

    python eval/benchmarks/training_memory.py CHECKPOINT
    python eval/benchmarks/training_memory.py CHECKPOINT --budget 60 --batches 2 4 8 16   # one GPU

One optimiser step with all three heads, from nothing but the weights: forward, loss with
self-distillation, backward, clipping, AdamW. Texts are random ids of the full length, one query for
each passage, and CHECKPOINT gets positions for them where it has too few. Dropout is off: on a CPU,
attention with dropout has no path of linear memory. The methods:

    whole         all texts in one forward pass
    checkpointed  the same with activation checkpointing
    parts         sub-batches of one passage, gradient caching and activation checkpointing

Memory is weights + what the step adds at its peak: on a GPU what torch has allocated, on a CPU the
resident size (Linux only). Every trial is a process of its own. The small batches are doubled until
the texts and not the optimiser decide the peak; the line through the last two says how many texts
fit. A trial at that size then has to stay within the budget; where it does not, the line through
the last two trials says the next. Where the trial of `parts` would take more
than --verify-limit seconds, it is made at 20 times the batch of `whole` instead, and what it shows
is a lower bound.

Beside it: the batches of arXiv 2402.03216v4, Table 10, for a larger encoder on a GPU of 80 GB.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measuring import (
    GB,
    TrainingStep,
    die_first,
    make_resident,
    measure_apart,
    peak_bytes,
    publish,
    random_ids,
    warm_up,
)

from m3search.cli.ending import run_script
from m3search.errors import ConfigError
from m3search.evaluation.measures import markdown_table
from m3search.training.recipe import Batches, Data, Optimiser, Recipe, Source, Start
from m3search.training.start import start_model

PAPER = {1024: (262, 855), 4096: (25, 258), 8192: (6, 130)}
"""tokens -> texts of a batch without and with sub-batches, arXiv 2402.03216v4, Table 10"""
METHODS = ("whole", "checkpointed", "parts")
LOWER_BOUND = 20
"""times the batch of `whole` at which `parts` is tried where the real limit would take too long"""
ATTEMPTS = 4
GROWTH = 1.25
"""times the memory of the smallest batch from which on the texts are held to decide the peak"""


class Measured(NamedTuple):
    """One trial."""

    batch: int
    gb: float
    """10^9 bytes at the peak"""
    seconds: float


@dataclass(frozen=True)
class Largest:
    """What a method can do within the budget."""

    trials: list[Measured]
    base_gb: float
    gb_per_text: float
    predicted: int
    """texts, by the line"""
    batch: int
    """texts of the largest trial within the budget"""
    is_limit: bool
    """whether a trial was made where the line says that the budget ends"""


def measure_here(checkpoint: str, trial: Mapping[str, Any]) -> dict[str, float]:
    """GB and seconds of one step: length, query_length, batch, method and precision by `trial`."""
    die_first()
    length, method = trial["length"], trial["method"]
    recipe = Recipe(
        stage="finetune",
        start=Start(checkpoint, max_length=max(length, trial["query_length"]), dropout=0.0),
        data=Data((Source("*"),), ".", trial["query_length"], length),
        optimiser=Optimiser(steps=1, precision=trial["precision"]),
        batches=Batches(
            sub_batch_tokens=length if method == "parts" else sys.maxsize,
            gradient_cache=method == "parts",
            activation_checkpointing=method != "whole",
        ),
    )
    model, tokenizer, *_ = start_model(recipe.start)
    weights = make_resident(model)
    queries, passages = (
        random_ids([size] * trial["batch"], tokenizer, model.vocabulary, seed)
        for seed, size in enumerate((trial["query_length"], length))
    )
    step = TrainingStep(recipe, model, tokenizer, queries, passages)
    warm_up(step.model.backbone)
    started = time.perf_counter()
    added = peak_bytes(step, step.device)
    return {"gb": (weights + added) / GB, "seconds": time.perf_counter() - started}


def find_largest(
    measure: Callable[[int], Measured | None],
    batches: Sequence[int],
    budget: float,
    *,
    seconds: float = float("inf"),
    otherwise: int | None = None,
) -> Largest:
    """The largest batch within `budget` GB, by a line and by trials.

    measure: memory and time of a batch, None where the machine has not enough. batches: two small
    ones at least, all different. seconds: where a trial at the limit would take longer, `otherwise`
    is tried in its place, if it is smaller, and where the line is flat, too.
    """
    trials = _grow(measure, batches, budget, seconds)
    base, slope = fit_line(trials)
    is_flat = slope <= 0 and bool(otherwise)
    predicted = wanted = otherwise if is_flat and otherwise else largest_of(base, slope, budget)
    pace = max(trial.seconds / trial.batch for trial in trials[-2:])
    is_limit = not is_flat and predicted * pace <= seconds
    if not is_limit:
        wanted = min(predicted, otherwise or 0)
    tried = {trial.batch for trial in trials}
    for _ in range(ATTEMPTS):
        if wanted < 1 or wanted in tried:
            break
        tried.add(wanted)
        found = measure(wanted)
        if found is None:
            wanted = wanted * 9 // 10
            continue
        trials.append(found)
        if found.gb <= budget:
            break
        wanted = min(largest_of(*fit_line(trials), budget), wanted - 1)
    fitting = [trial.batch for trial in trials if trial.gb <= budget]
    return Largest(trials, base, slope, predicted, max(fitting, default=0), is_limit)


def _grow(
    measure: Callable[[int], Measured | None],
    batches: Sequence[int],
    budget: float,
    seconds: float,
) -> list[Measured]:
    """Trials of the batches, and of doubled ones until memory grows with them."""
    trials = [found for size in sorted(batches) if (found := measure(size))]
    while len(trials) > 1 and trials[-1].gb < GROWTH * trials[0].gb:
        last = trials[-1]
        if 2 * last.seconds > seconds or 2 * last.gb > budget:
            break
        found = measure(2 * last.batch)
        if found is None:
            break
        trials.append(found)
    return trials


def fit_line(trials: Sequence[Measured]) -> tuple[float, float]:
    """(base, slope) of GB = base + slope * batch, through the last two trials."""
    if len(trials) < 2:
        remedy = "Give smaller ones (--batches), or a machine with more memory."
        raise ConfigError(
            "--batches", expected="two that the machine can hold", found="fewer", remedy=remedy
        )
    before, last = trials[-2:]
    slope = (last.gb - before.gb) / (last.batch - before.batch)
    return last.gb - slope * last.batch, slope


def largest_of(base: float, slope: float, budget: float) -> int:
    """Texts that a line has room for."""
    if slope <= 0:
        raise ConfigError(
            "--batches",
            expected="ones whose memory grows with their size",
            found=f"{slope:.4f} GB a text",
            remedy="Give larger ones, so that the texts outweigh what else the step holds.",
        )
    return max(0, int((budget - base) / slope))


def compare(asked: argparse.Namespace, length: int) -> dict[str, Largest]:
    """What each method can do with texts of one length."""
    found: dict[str, Largest] = {}
    for method in asked.methods:

        def measure(batch: int, method: str = method) -> Measured | None:
            trial = {"length": length, "batch": batch, "method": method}
            trial |= {"query_length": asked.query_length, "precision": asked.precision}
            print(f"{length} tokens, {method}, {batch} texts", end=": ", file=sys.stderr)
            result = measure_apart(__file__, asked.checkpoint, trial)
            told = f"{result['gb']:.2f} GB, {result['seconds']:.1f} s" if result else "no memory"
            print(told, file=sys.stderr, flush=True)
            return Measured(batch, **result) if result else None

        otherwise = LOWER_BOUND * found["whole"].batch if "whole" in found else None
        found[method] = find_largest(
            measure,
            asked.batches,
            asked.budget,
            seconds=asked.verify_limit,
            otherwise=otherwise,
        )
    return found


def table(lengths: Mapping[int, Mapping[str, Largest]]) -> str:
    """Largest batch of each method, ratios to `whole`, and the paper's."""
    lines = [["tokens", "method", "GB = base + batch * slope", "by the line", "tried", "ratio"]]
    for length, methods in lengths.items():
        for method, found in methods.items():
            line = f"{found.base_gb:.2f} + batch * {found.gb_per_text:.4f}"
            tried = f"{found.batch}" if found.is_limit else f"at least {found.batch}"
            ratio = ratio_to_whole(methods, method)
            share = f"{ratio:.1f}" if ratio else ""
            lines.append([str(length), method, line, str(found.predicted), tried, share])
    for length, (whole, parts) in PAPER.items():
        lines.append([str(length), "Table 10", "", "", f"{whole}, {parts}", f"{parts / whole:.1f}"])
    return markdown_table(lines)


def ratio_to_whole(methods: Mapping[str, Largest], method: str) -> float | None:
    """How many times the texts of `whole` a method was seen to hold."""
    if method == "whole" or "whole" not in methods or not methods["whole"].batch:
        return None
    return methods[method].batch / methods["whole"].batch


def main() -> None:
    """Measures as the command line asks, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", help="an encoder or an M3 checkpoint")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192], help="tokens")
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 4, 8], help="for the line")
    parser.add_argument("--budget", type=float, default=8.0, help="GB (10^9 bytes), weights too")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["whole", "parts"])
    parser.add_argument("--query-length", type=int, default=64, help="tokens")
    half = "bf16" if torch.cuda.is_available() else "fp32"
    parser.add_argument("--precision", choices=["fp32", "bf16"], default=half)
    parser.add_argument("--verify-limit", type=float, default=600, help="seconds of a trial")
    parser.add_argument("--out", type=Path, help="the JSON goes here instead of stdout")
    parser.add_argument("--trial", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if len(set(asked.batches)) < 2:
        given = " ".join(map(str, asked.batches))
        parser.error(f"argument --batches: a line needs two different numbers, found {given}")
    if asked.trial:
        print(json.dumps(measure_here(asked.checkpoint, asked.trial)))
        return
    lengths = {length: compare(asked, length) for length in asked.lengths}
    result = {
        "lengths": {
            length: {
                method: {
                    **vars(found),
                    "trials": [trial._asdict() for trial in found.trials],
                    "times_whole": ratio_to_whole(methods, method),
                }
                for method, found in methods.items()
            }
            for length, methods in lengths.items()
        },
        "paper": {length: {"whole": a, "parts": b} for length, (a, b) in PAPER.items()},
    }
    publish(asked, result, table(lengths))


if __name__ == "__main__":
    run_script(main)
