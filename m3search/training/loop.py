"""The training loop: batches through the model, the loss back, a checkpoint at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from m3search.config import override, parse, read_toml
from m3search.errors import ArtifactError, ConfigError, M3Error
from m3search.model.checkpoint import CheckpointInfo, save_checkpoint
from m3search.model.resolve import resolve
from m3search.model.tokenization import Tokenization
from m3search.training.batching import Batch, Sampler
from m3search.training.data import Corpus, read_source
from m3search.training.forward import represent, score
from m3search.training.losses import Losses, Scores, m3_loss
from m3search.training.optimiser import learning_rate_factor, make_optimiser
from m3search.training.recipe import Recipe
from m3search.training.start import average_backbone, check_lengths, start_model
from m3search.training.state import PARTIAL_FILE, STATE_FILE, load_state, save_state

Metrics = dict[str, float]
METRICS_FILE = "metrics.jsonl"


class DivergenceError(M3Error):
    """A run that could only get worse: its loss or gradient is not finite."""


def train(
    recipe: str | Path | Recipe,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    report: Callable[[Metrics], None] | None = None,
) -> Path:
    """Run a recipe; the folder of the finished checkpoint is returned.

    recipe: a TOML file or a `Recipe`. overrides: ``table.key=value`` settings over the file's.
    resume: go on from the training state in `out`; `load_state` says how exactly.
    report: called with the metrics of every logged step, which also go to ``metrics.jsonl``.
    """
    settings = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, overrides)
    folder = Path(out)
    _check_out(folder, settings, resume)
    run = Run(settings, folder)
    if resume:
        run.resume()
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / METRICS_FILE).unlink(missing_ok=True)
    run.train(report)
    return folder


def _check_out(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Raises where a training would write over something that is not its own."""
    if folder.is_dir() and resolve(recipe.start.checkpoint)[1].resolve() == folder.resolve():
        raise ConfigError(
            "out",
            expected="another folder than start.checkpoint",
            found=str(folder),
            remedy="Choose another folder; the start weights are not written over.",
        )
    if resume or not folder.exists():
        return
    leftovers = {METRICS_FILE, PARTIAL_FILE}  # of a run that ended before its first state
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


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a TOML file with some settings replaced."""
    table = read_toml(path)
    for setting in overrides:
        table = override(table, setting)
    return parse(Recipe, table, str(path))


class Run:
    """One training: model, optimiser, data and where it stands."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder
        self.step = 0
        torch.manual_seed(recipe.optimiser.seed)
        data = Path(recipe.data.folder).expanduser()
        self.corpora: list[Corpus] = [read_source(data, s) for s in recipe.data.sources]
        self.sampler = Sampler(self.corpora, recipe.data, recipe.batches, recipe.optimiser.seed)
        self.model, self.tokenizer, self.max_length = start_model(recipe.start)
        check_lengths(recipe, self.model)
        self.tokenization = Tokenization(self.tokenizer)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.train().to(self.device)
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = recipe.start.dropout
        if recipe.start.fix_encoder:
            self.model.backbone.requires_grad_(False).train(False)
        self.optimiser = make_optimiser(self.model, recipe)

    def resume(self) -> None:
        """Stand where the saved state stood; what was logged after it will be logged again."""
        self.step = load_state(self.folder, self.model, self.optimiser, self.recipe, self.corpora)
        log = self.folder / METRICS_FILE
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        kept = [line for line in lines if line.endswith("}\n") and self._is_past(line)]
        log.write_text("".join(kept), encoding="utf-8")

    def _is_past(self, line: str) -> bool:
        return bool(json.loads(line)["step"] <= self.step)

    def train(self, report: Callable[[Metrics], None] | None) -> None:
        """Every remaining step, then the checkpoint."""
        output, total = self.recipe.output, self.recipe.optimiser.steps
        with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as log:
            while self.step < total:
                started = time.perf_counter()
                metrics = self.train_step()
                metrics["seconds"] = time.perf_counter() - started
                if self.step % output.log_every == 0 or self.step == total:
                    log.write(json.dumps({k: round(v, 6) for k, v in metrics.items()}) + "\n")
                    log.flush()
                    if report:
                        report(metrics)
                if self.step % output.save_every == 0 or self.step == total:
                    self.save_state()
        self.save()

    def save_state(self) -> None:
        """Replace the training state of the folder by this one."""
        save_state(self.folder, self.step, self.model, self.optimiser, self.recipe, self.corpora)

    def train_step(self) -> Metrics:
        """One optimiser step on the batch of this step number."""
        batch = self.sampler.batch(self.step)
        rate = learning_rate_factor(self.step, self.recipe)
        for group in self.optimiser.param_groups:
            group["lr"] = group["base_lr"] * rate
        losses, scores, active, tokens = self.losses_of(batch)
        self._check_finite("loss", losses.total)
        self.optimiser.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(
            self.model.parameters(), self.recipe.optimiser.max_gradient_norm
        )
        self._check_finite("gradient norm", norm)  # before it can spoil the weights
        self.optimiser.step()
        self.step += 1
        with torch.no_grad():
            metrics = self._metrics(losses, scores, batch)
        return metrics | {
            "active_terms_query": active[0],
            "active_terms_passage": active[1],
            "gradient_norm": float(norm),
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            "tokens": float(tokens),
        }

    def _check_finite(self, name: str, value: Tensor) -> None:
        if not torch.isfinite(value):
            raise DivergenceError(
                f"step {self.step}",
                expected=f"a finite {name}",
                found=str(value.item()),
                remedy="Lower the learning rate, or raise the temperature; start in a new folder.",
            )

    def losses_of(self, batch: Batch) -> tuple[Losses, Scores, tuple[float, float], int]:
        """Losses and scores of a batch, mean active terms of queries and passages, token count."""
        data, objective = self.recipe.data, self.recipe.objective
        queries = self.tokenization.encode(batch.queries, data.query_max_length).ids
        passages = self.tokenization.encode(batch.passages, data.passage_max_length).ids
        budget = self.recipe.batches.sub_batch_tokens
        half = self.recipe.optimiser.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            q = represent(self.model, self.tokenization, queries, budget)
            p = represent(self.model, self.tokenization, passages, budget)
        scores = score(q, p)
        targets = torch.tensor(batch.targets, device=self.device)
        masked = torch.zeros(scores.dense.shape, dtype=torch.bool, device=self.device)
        if batch.masked:
            masked[tuple(torch.tensor(batch.masked, device=self.device).T)] = True
        distil = objective.self_distill and self.step >= objective.self_distill_start_step
        losses = m3_loss(scores, targets, masked, objective, distil)
        active = tuple(float((r.weights > 0).sum(dim=1).float().mean()) for r in (q, p))
        return losses, scores, (active[0], active[1]), sum(map(len, [*queries, *passages]))

    def save(self) -> None:
        """Write the finished checkpoint with where it came from."""
        training: dict[str, Any] = {
            "recipe": asdict(self.recipe),
            "data": [
                {
                    "files": list(corpus.files),
                    "passages": len(corpus.passages),
                    "queries": sum(len(p.queries) for p in corpus.passages),
                    "sha256": corpus.fingerprint,
                }
                for corpus in self.corpora
            ],
        }
        training["recipe"]["data"].pop("folder")  # a path of one machine says nothing elsewhere
        start = self.recipe.start
        info = CheckpointInfo(self.model.pooling, self.max_length, self.step, training)
        half = self.recipe.output.weights == "fp16"
        save_checkpoint(
            self.folder,
            average_backbone(self.model, start, self.recipe.output.start_weight),
            self.tokenizer,
            info,
            dtype=torch.float16 if half else torch.float32,
        )

    def _metrics(self, losses: Losses, scores: Scores, batch: Batch) -> Metrics:
        targets = torch.tensor(batch.targets, device=self.device)
        weights = self.recipe.objective.ensemble_weights
        ensemble = sum((w * s for w, s in zip(weights, scores, strict=True)), torch.zeros(()))
        named = {**scores._asdict(), "ensemble": ensemble}
        return (
            {"step": float(self.step), "loss": float(losses.total)}
            | {
                f"loss_{name}": float(value)
                for name, value in losses._asdict().items()
                if name != "total"
            }
            | {f"accuracy_{name}": _accuracy(value, targets) for name, value in named.items()}
        )


def _accuracy(scores: Tensor, targets: Tensor) -> float:
    """Share of queries whose positive has the highest score in the batch."""
    return float((scores.argmax(dim=1) == targets).float().mean())
