"""One training from its data to its checkpoint: the stage's model, its steps, its state."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from m3search.encoder import Encoder
from m3search.model.checkpoint import CheckpointInfo, save_checkpoint
from m3search.model.resolve import resolve
from m3search.model.tokenization import Tokenization
from m3search.model.words import WordTable
from m3search.records import IntArray
from m3search.training.ahead import ahead
from m3search.training.batching import Sampler
from m3search.training.development import development_sets, measure
from m3search.training.devices import Devices
from m3search.training.distilling import Distilling, Lesson
from m3search.training.finetuning import Finetuning, Metrics
from m3search.training.fitting import fit_heads
from m3search.training.lengths import passage_lengths
from m3search.training.masking import Vocabulary
from m3search.training.moment import as_encoder
from m3search.training.opening import check_contrast, check_refresh, describe
from m3search.training.optimiser import learning_rate_factor, make_optimiser
from m3search.training.prediction import take_pretrained
from m3search.training.pretraining import RetroMAETraining
from m3search.training.recipe import Recipe
from m3search.training.refreshing import mine_again, mined_file, with_negatives
from m3search.training.retromae import RetroMAE
from m3search.training.sources import Corpus, read_data
from m3search.training.start import (
    average_backbone,
    check_lengths,
    prepare,
    set_dropout,
    start_model,
)
from m3search.training.state import load_state, save_state
from m3search.training.watching import Health, Log, cut_log

Prepared: TypeAlias = Any
"""the texts of a step, as the `read` of its stage gives them"""
READERS = 6
"""processes that read ahead of a GPU, where there are so many cores; a CPU has a thread"""


class Run:
    """One training: model, optimiser, data and where it stands."""

    def __init__(self, recipe: Recipe, folder: Path, devices: Devices | None = None) -> None:
        self.recipe = recipe
        self.folder = folder
        self.devices = devices or Devices()
        self.step = 0
        self.notes: list[str] = []
        """what is to be said before the first step, a line each"""
        torch.manual_seed(recipe.optimiser.seed)
        started = start_model(recipe.start)
        self.model, self.tokenizer, self.max_length = started[:3]
        self._heads = started.heads
        self._checkpoints = {"start.checkpoint": started.fingerprint}
        self._fusion_weights = recipe.output.fusion_weights or started.fusion_weights
        self._idf = started.idf if recipe.output.idf is None else recipe.output.idf
        check_refresh(recipe, self._heads)
        check_lengths(recipe, self.model)
        self._word_terms = started.word_terms
        words = WordTable.made_for(self._word_terms, self.tokenizer, self.model.vocabulary)
        self.tokenization = Tokenization(self.tokenizer, words)
        self.corpora = read_data(recipe.data, texts=recipe.stage == "retromae")
        self._lengths = self._read_lengths()
        self.sampler = self._sampler()
        check_contrast(recipe, self.corpora, self.sampler)
        self.model.to(self.devices.device)
        prepare(self.model, recipe)
        self.trained: nn.Module = self.model
        if recipe.stage == "retromae":
            self.trained = self._retromae()
        parts = (recipe, self.model, self.tokenization)
        if recipe.distillation is not None:
            self.distilling = Distilling(*parts, self.corpora, self.devices)
            self._checkpoints["distillation.teacher"] = self.distilling.teacher_fingerprint
        if recipe.heads:
            self.finetuning = Finetuning(*parts, self.devices)
        self.optimiser = make_optimiser(self.trained, recipe)
        self.notes += describe(recipe, self.corpora, self.sampler, self.model, self.devices)
        self._health = Health()
        self._sets = development_sets(recipe)

    def _read_lengths(self) -> list[IntArray]:
        """Of the files' texts: what is mined later changes no plan of which passages meet."""
        place = self.folder if self.folder.is_dir() else None
        data = self.recipe.data
        with self.devices.first_before_others():
            return [passage_lengths(each, self.tokenization, data, place) for each in self.corpora]

    def _sampler(self) -> Sampler:
        data, batches = self.recipe.data, self.recipe.batches
        return Sampler(self.corpora, self._lengths, data, batches, self.recipe.optimiser.seed)

    def _retromae(self) -> RetroMAE:
        model = RetroMAE(self.model.backbone, pooling=self.model.pooling)
        model.train().to(self.devices.device)
        folder = resolve(self.recipe.start.checkpoint)[1]
        self.notes.append(take_pretrained(model.head, folder, self.model.backbone))
        set_dropout(model, self.recipe.start.dropout)
        vocabulary = Vocabulary.of(self.tokenizer, self.model.vocabulary)
        self.pretraining = RetroMAETraining(
            self.recipe, model, self.tokenization, vocabulary, self.devices
        )
        return model

    def resume(self) -> None:
        """Stand where the saved state stood; what was logged after it will be logged again."""
        self.step = load_state(self.folder, *self._parts())
        if self.devices.is_first:
            cut_log(self.folder, self.step)
        if self.recipe.refresh and (last := self._last_refresh()) and last < self.step:
            self._take_negatives(last)

    def train(self, report: Callable[[Metrics], None] | None = None) -> None:
        """Every remaining step, then the checkpoint."""
        first, step, board = self.devices.is_first, self.step, self.recipe.output.tensorboard
        if step == 0 and self.recipe.start.fit_heads:
            new = {*self.recipe.heads} - {"dense", *self._heads}
            fit_heads(self.model, self.tokenization, self.corpora, new, self.recipe, self.devices)
        log = Log(self.folder, tensorboard=board, report=report, step=step) if first else None
        try:
            while self.step < self.recipe.optimiser.steps:
                self._refresh()
                self._train_until(self._next_refresh(), log)
        finally:
            if log:
                log.close()
        if first:
            self.save()
        self.devices.wait()

    def _train_until(self, end: int, log: Log | None) -> None:
        """The steps before `end`, all with the negatives of now, the texts of each read ahead."""
        output, total = self.recipe.output, self.recipe.optimiser.steps
        readers = self.devices.spare_cores(READERS)
        with closing(ahead(self.prepare_step, range(self.step, end), readers)) as steps:
            started = time.perf_counter()
            for prepared in steps:
                metrics = self.train_step(prepared)
                metrics["seconds"] = time.perf_counter() - started
                metrics["tokens_per_second"] = metrics["tokens"] / metrics["seconds"]
                metrics |= self._measure()
                logged = self.step % output.log_every == 0 or self.step == total
                if log and (logged or any(name.startswith("dev_") for name in metrics)):
                    log.write(metrics)
                if log and (self.step % output.save_every == 0 or self.step == total):
                    self.save_state()
                started = time.perf_counter()

    def _measure(self) -> Metrics:
        """Quality on the development sets where it is due, by the first process for all."""
        settings, last = self.recipe.development, self.step == self.recipe.optimiser.steps
        if settings is None or not (last or (settings.every and self.step % settings.every == 0)):
            return {}
        metrics: Metrics = {}
        if self.devices.is_first:
            with self.as_encoder(settings.max_length) as encoder:
                metrics = measure(self._sets, encoder)
        self.devices.wait()
        return metrics

    def as_encoder(self, max_length: int) -> AbstractContextManager[Encoder]:
        """The model as it is now, for texts of at most `max_length` tokens."""
        half = self.recipe.optimiser.precision == "bf16"
        return as_encoder(
            self.model,
            self.tokenizer,
            step=self.step,
            max_length=min(max_length, self.max_length),
            device=self.devices.device,
            dtype=torch.bfloat16 if half else torch.float32,
            word_terms=self._word_terms,
            idf=self._idf,
        )

    def _last_refresh(self) -> int:
        """The step from which the negatives of now are used; 0 is those of the files."""
        every = self.recipe.refresh.every if self.recipe.refresh else 0
        return self.step // every * every if every else 0

    def _next_refresh(self) -> int:
        """The step up to which the negatives of now are used."""
        total = self.recipe.optimiser.steps
        every = self.recipe.refresh.every if self.recipe.refresh else 0
        return min(total, (self.step // every + 1) * every) if every else total

    def _refresh(self) -> None:
        """Mines the negatives anew where it is due, by the first process for all."""
        settings = self.recipe.refresh
        if settings is None or self.step == 0 or self._last_refresh() != self.step:
            return
        if self.devices.is_first:
            with self.as_encoder(self.recipe.data.passage_max_length) as encoder:
                mine_again(self.corpora, encoder, settings, mined_file(self.folder, self.step))
        self.devices.wait()
        self._take_negatives(self.step)

    def _take_negatives(self, step: int) -> None:
        self.corpora = with_negatives(self.corpora, mined_file(self.folder, step))
        self.sampler = self._sampler()

    def save_state(self) -> None:
        """Replace the training state of the folder by this one."""
        save_state(self.folder, self.step, *self._parts())

    def _parts(
        self,
    ) -> tuple[nn.Module, torch.optim.Optimizer, Recipe, Sequence[Corpus], int, Mapping[str, str]]:
        """What a state is of."""
        count = self.devices.count
        return self.trained, self.optimiser, self.recipe, self.corpora, count, self._checkpoints

    def train_step(self, prepared: Prepared | None = None) -> Metrics:
        """One optimiser step on the batch of this step number.

        prepared: what `prepare_step` gives for it; without, that is done here.
        """
        rate = learning_rate_factor(self.step, self.recipe)
        for group in self.optimiser.param_groups:
            group["lr"] = group["base_lr"] * rate
        self.optimiser.zero_grad()
        metrics = self.accumulate(prepared)
        self._health.check_finite(self.step, "loss", metrics["loss"])
        norm = nn.utils.clip_grad_norm_(
            [parameter for parameter in self.trained.parameters() if parameter.requires_grad],
            self.recipe.optimiser.max_gradient_norm,
        )
        # before it can spoil the weights
        self._health.check_finite(self.step, "gradient norm", float(norm))
        self.optimiser.step()
        self.step += 1
        self._health.check_terms(self.step, metrics)
        rates = {"learning_rate": self.optimiser.param_groups[0]["lr"]}
        return {"step": float(self.step)} | metrics | {"gradient_norm": float(norm)} | rates

    def prepare_step(self, step: int) -> Prepared:
        """Draws and reads the texts of a step, which needs no device."""
        if self.recipe.stage == "retromae":
            return self.pretraining.read(step, self.sampler.texts(step))
        batch = self.sampler.batch(step)
        if self.recipe.heads and batch.queries:
            return self.finetuning.read(batch)
        return self.distilling.read(batch)

    def accumulate(self, prepared: Prepared | None = None) -> Metrics:
        """Adds the gradients of this step's loss to those of the model, summed over processes."""
        texts = self.prepare_step(self.step) if prepared is None else prepared
        if self.recipe.stage == "retromae":
            return self.pretraining.accumulate(self.step, texts)
        if isinstance(texts, Lesson):
            return self.distilling.accumulate(self.step, texts)
        return self.finetuning.accumulate(self.step, texts)

    def save(self) -> None:
        """Write the finished checkpoint with where it came from.

        Of the heads it has those that were trained and those that the start had.
        """
        start, half = self.recipe.start, self.recipe.output.weights == "fp16"
        save_checkpoint(
            self.folder,
            average_backbone(self.model, start, self.recipe.output.start_weight),
            self.tokenizer,
            CheckpointInfo(
                self.model.pooling,
                self.max_length,
                self.step,
                _origin(self.recipe, self.corpora),
                self._fusion_weights,
                self._word_terms,
                self._idf,
            ),
            dtype=torch.float16 if half else torch.float32,
            heads={*self._heads, *self.recipe.heads} - {"dense"},
        )


def _origin(recipe: Recipe, corpora: Sequence[Corpus]) -> dict[str, Any]:
    """What a checkpoint says of the training that it comes from."""
    origin: dict[str, Any] = {
        "recipe": asdict(recipe),
        "data": [
            {
                "files": list(corpus.files),
                "passages": len(corpus.passages),
                "queries": corpus.questions,
                "sha256": corpus.fingerprint,
            }
            for corpus in corpora
        ],
    }
    origin["recipe"]["data"].pop("folder")  # a path of one machine says nothing elsewhere
    return origin
