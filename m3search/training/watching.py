"""What a run says of itself: the metrics of its steps in files, and when it has to stop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from m3search.errors import ConfigError, M3Error
from m3search.stores.files import naming
from m3search.training.finetuning import Metrics

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
DEAD_BELOW = 0.5
"""mean active terms of a query or passage below which the lexical head counts as dead"""
DEAD_STEPS = 20
"""steps in a row after which a dead head stops the run; one batch may be of a foreign script"""


class DivergenceError(M3Error):
    """A run that could only get worse: a loss that is not finite, a head that is dead."""


class Health:
    """Looks at every step and raises DivergenceError where going on is of no use."""

    def __init__(self) -> None:
        self._dead = 0

    def check_finite(self, step: int, name: str, value: float) -> None:
        """Nothing is finite after a number that is not."""
        if not math.isfinite(value):
            raise DivergenceError(
                f"step {step}",
                expected=f"a finite {name}",
                found=str(value),
                remedy="Lower the learning rate, or raise the temperature; start in a new folder.",
            )

    def check_terms(self, step: int, metrics: Metrics) -> None:
        """A lexical head without active terms gets no gradient and stays as it is."""
        active = [
            metrics[n] for n in ("active_terms_query", "active_terms_passage") if n in metrics
        ]
        if not active:  # a step of another kind
            return
        self._dead = self._dead + 1 if min(active) < DEAD_BELOW else 0
        if self._dead >= DEAD_STEPS:
            raise DivergenceError(
                f"step {step}",
                expected=f"a lexical head with at least {DEAD_BELOW} active terms a text",
                found=f"{min(active):.2f} over the last {DEAD_STEPS} steps",
                remedy="Lower optimiser.head_learning_rate, raise the lexical share of "
                "objective.loss_weights, or begin with self_distill_start_step above 0.",
            )


class Log:
    """The metrics of logged steps as JSON lines, and for TensorBoard where that is asked."""

    def __init__(
        self,
        folder: Path,
        *,
        tensorboard: bool,
        report: Callable[[Metrics], None] | None,
        step: int = 0,
    ) -> None:
        """step: what was logged for TensorBoard after it is dropped, as `cut_log` drops it."""
        self._board = _summary_writer(folder / TENSORBOARD_FOLDER, step) if tensorboard else None
        self._path = folder / METRICS_FILE
        self._file = self._path.open("a", encoding="utf-8")
        self._report = report

    def write(self, metrics: Metrics) -> None:
        """One line of seven digits a number, on disk when this returns."""
        line = {name: float(f"{value:.7g}") for name, value in metrics.items()}
        with naming(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, int(metrics["step"]))
            self._board.flush()
        if self._report:
            self._report(metrics)

    def close(self) -> None:
        """Ends both."""
        with naming(self._path):
            self._file.close()
        if self._board is not None:
            self._board.close()


def cut_log(folder: Path, step: int) -> None:
    """Drops what was logged after a step, which a resumed run logs again."""
    log = folder / METRICS_FILE
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    kept = [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= step]
    if kept != lines or not log.exists():
        with naming(log):
            log.write_text("".join(kept), encoding="utf-8")


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "output.tensorboard",
            expected="the package tensorboard",
            found="none",
            remedy="Install it (pip install tensorboard), or set output.tensorboard = false.",
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
