"""What self-distillation and RetroMAE give, at small scale: the ablation of the M3 paper.

    python eval/benchmarks/ablation.py START DATA/train DATA/eval/A DATA/eval/B DATA/eval/C \
        --work /tmp/ablation --pooling mean

START is an encoder without heads. It is fine-tuned on the same pairs with and without
self-distillation, and with and without a RetroMAE stage before, once for each seed, which decides
the new heads, the order of the data and the masks. Every finished model is measured on three or
more development sets: nDCG@10, 0 to 1, of each mode and of all three.

Every training has a folder below --work; one that was stopped goes on from its last state, and one
that is measured is not made again. --out gets report.md and report.json. The defaults are for about
45 minutes on two CPU cores with an encoder of 6 layers and 384 dimensions.

Beside it, in percent, the paper's ablations (arXiv 2402.03216v4, MIRACL development sets, nDCG@10).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ablation_report import (
    CELLS,
    MEASURE,
    PAPER,
    ROWS,
    Cell,
    Results,
    Scores,
    summarise,
    to_markdown,
)
from measuring import machine, settings_of

from m3search.cli.ending import run_script
from m3search.encoder import Encoder
from m3search.errors import ConfigError
from m3search.evaluation import EvaluationSet, evaluate_sets
from m3search.training.loop import train
from m3search.training.recipe import (
    Batches,
    Data,
    Objective,
    Optimiser,
    Output,
    Recipe,
    Source,
    Start,
)
from m3search.training.state import STATE_FILE

SCORES = "scores.json"


class Ablation:
    """The trainings of the ablation and their scores, in one folder."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._asked = asked
        self._sets = [
            EvaluationSet(
                path,
                max_length=asked.max_length,
                measures=(MEASURE,),
                rows=ROWS,
                depth=asked.depth,
            )
            for path in asked.sets
        ]

    def run(self) -> Results:
        """Every cell with every seed; what is there already is read."""
        results: Results = {cell: {} for cell in CELLS}
        for seed, cell in itertools.product(self._asked.seeds, CELLS):
            started = time.perf_counter()
            results[cell][seed] = self._scores(cell, seed)
            means = ", ".join(
                f"{row} {statistics.mean(each[row] for each in results[cell][seed].values()):.3f}"
                for row in ROWS
            )
            spent = time.perf_counter() - started
            print(f"seed {seed}, {cell.name}: {means} ({spent:.0f} s)", file=sys.stderr, flush=True)
        return results

    def _scores(self, cell: Cell, seed: int) -> Scores:
        recipe = self.finetuning(cell, seed)
        folder = self._asked.work / f"{cell.name}-{seed}"
        told = json.loads(json.dumps([repr(recipe), [str(each.path) for each in self._sets]]))
        if (folder / SCORES).exists():
            kept = json.loads((folder / SCORES).read_text(encoding="utf-8"))
            if kept["settings"] != told:
                raise ConfigError(
                    "--work",
                    expected="a folder of trainings with the same settings",
                    found=f"others in {folder}",
                    remedy="Choose another folder, or give the settings of before.",
                )
            scores: Scores = kept["scores"]
            return scores
        if cell.pretrained:
            self._train(self.pretraining(seed), self._pretrained(seed))
        self._train(recipe, folder)
        scores = self._measure(folder)
        partial = folder / f"{SCORES}.partial"
        partial.write_text(json.dumps({"settings": told, "scores": scores}), encoding="utf-8")
        partial.replace(folder / SCORES)
        (folder / STATE_FILE).unlink(missing_ok=True)
        return scores

    def _train(self, recipe: Recipe, folder: Path) -> None:
        """Trains what is not trained; a training that is done has its state still."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        train(recipe, folder, resume=(folder / STATE_FILE).exists())

    def _measure(self, folder: Path) -> Scores:
        experiment = evaluate_sets(
            self._sets, lambda length: Encoder.load(folder, max_length=length)
        )
        return {
            each.name: {row: values[MEASURE] for row, values in each.report.means.items()}
            for each in experiment.sets
        }

    def finetuning(self, cell: Cell, seed: int) -> Recipe:
        """The recipe of a cell."""
        asked = self._asked
        checkpoint = str(self._pretrained(seed)) if cell.pretrained else asked.start
        return Recipe(
            stage="finetune",
            start=self._start(checkpoint),
            data=Data(tuple(map(Source, asked.pairs)), str(asked.data), 48, asked.passage_length),
            optimiser=self._optimiser(asked.steps, asked.learning_rate, seed),
            batches=Batches(passages=asked.passages),
            objective=Objective(self_distill=cell.distilled),
            output=Output(save_every=50),
        )

    def pretraining(self, seed: int) -> Recipe:
        """The recipe of the RetroMAE stage of a seed."""
        asked = self._asked
        return Recipe(
            stage="retromae",
            start=replace(self._start(asked.start), multi_dim=None),
            data=Data(
                tuple(map(Source, asked.texts)),
                str(asked.data),
                passage_max_length=asked.passage_length,
            ),
            optimiser=self._optimiser(asked.retromae_steps, asked.retromae_learning_rate, seed),
            # as many tokens a step whatever the texts: a pair's query is a text of its own
            batches=Batches(passages=4096, tokens=asked.passages * asked.passage_length),
            output=Output(save_every=50),
        )

    def _start(self, checkpoint: str) -> Start:
        asked = self._asked
        return Start(
            checkpoint,
            multi_dim=asked.multi_dim,
            pooling=asked.pooling,
            max_length=asked.max_length,
            dropout=0.0,  # a third of the time of a step
        )

    def _optimiser(self, steps: int, rate: float, seed: int) -> Optimiser:
        return Optimiser(steps, rate, seed=seed, precision=self._asked.precision)

    def _pretrained(self, seed: int) -> Path:
        folder: Path = self._asked.work / f"retromae-stage-{seed}"
        return folder


def write_report(asked: argparse.Namespace) -> None:
    """Trains what is missing; writes and prints the report of all."""
    started = time.perf_counter()
    summary = summarise(results := Ablation(asked).run())
    settings = settings_of(asked) | machine()
    asked.out.mkdir(parents=True, exist_ok=True)
    shown = to_markdown(summary, settings)
    (asked.out / "report.md").write_text(shown, encoding="utf-8")
    runs = {cell.name: by_seed for cell, by_seed in results.items()}
    content = summary | {"runs": runs, "settings": settings, "paper": PAPER}
    content["seconds"] = round(time.perf_counter() - started)
    text = json.dumps(content, indent=2)
    (asked.out / "report.json").write_text(text + "\n", encoding="utf-8")
    print(shown, file=sys.stderr)
    print(text)


def main() -> None:
    """Trains, measures and writes the report as the command line asks."""
    write_report(_parse())


def _parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("start", help="an encoder without heads")
    parser.add_argument("data", type=Path, help="a folder of training files")
    parser.add_argument("sets", type=Path, nargs="+", help="folders of development sets")
    parser.add_argument("--work", type=Path, required=True, help="the trainings stay here")
    parser.add_argument("--out", type=Path, default=Path("eval/reports/ablation"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    english = ["squadshifts-wiki.en.jsonl.gz", "squadshifts-reddit.en.jsonl.gz",
               "squadshifts-amazon.en.jsonl.gz", "qed.en.jsonl.gz"]  # fmt: skip
    parser.add_argument("--pairs", nargs="+", default=english, help="globs of fine-tuning files")
    parser.add_argument("--texts", nargs="+", default=english, help="globs of RetroMAE files")
    parser.add_argument("--steps", type=int, default=60, help="of fine-tuning")
    parser.add_argument("--retromae-steps", type=int, default=80)
    parser.add_argument("--passages", type=int, default=32, help="of a step")
    parser.add_argument("--passage-length", type=int, default=128, help="tokens")
    parser.add_argument("--max-length", type=int, default=256, help="tokens, in the evaluation")
    parser.add_argument("--depth", type=int, default=50, help="candidates of a mode, for all")
    parser.add_argument("--multi-dim", type=int, default=128)
    parser.add_argument("--pooling", choices=["cls", "mean"], help="by default START's")
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--retromae-learning-rate", type=float, default=1e-4)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_script(main)
