"""One step of imitating another encoder: texts and translations in, gradients and metrics out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from m3search.errors import ConfigError
from m3search.model.modeling import M3Model
from m3search.model.tokenization import Tokenization
from m3search.records import IntArray
from m3search.training.devices import Devices
from m3search.training.drawing import Batch
from m3search.training.encoding import Parts
from m3search.training.finetuning import Metrics, step_seed
from m3search.training.imitation import (
    Pass,
    Passes,
    Reader,
    Teacher,
    Understood,
    arrange,
    understand,
    word_errors,
    word_rows,
)
from m3search.training.memory_bank import ROOM, MemoryBank
from m3search.training.recipe import Distillation, Recipe
from m3search.training.sources import Corpus


class Lesson(NamedTuple):
    """This process's part of a batch, as both encoders read it."""

    passages: int
    translations: int
    """how many the batch has, over all processes"""
    taught: Passes
    """its passages, as the teacher reads them"""
    learned: Passes
    """its passages and translations, as the student does"""
    wanted: IntArray
    """(N,) by the rows of `learned`: the number, among the passages of all processes, of a passage
    or of what a translation says"""
    own: IntArray
    """(N,) likewise: the number of a passage among those of this process, -1 of a translation"""


class Wanted(NamedTuple):
    """What the teacher makes of the passages of a step."""

    own: Understood
    """of those of this process"""
    vectors: Tensor
    """(P, hidden) of those of all processes"""
    shown: Tensor
    """(M, hidden) the vectors that a text's is told apart from, `vectors` and more"""


class Sums(NamedTuple):
    """Over some texts, each a scalar."""

    passages: Tensor
    """1 - cosine, of passages"""
    translations: Tensor
    """the same of translations"""
    words: Tensor
    """mean error of a passage's words"""
    contrast: Tensor
    """cross-entropy to the teacher's shares"""


class Distilling:
    """What a step does with the model; every process does its part of the same batch."""

    def __init__(
        self,
        recipe: Recipe,
        model: M3Model,
        tokenization: Tokenization,
        corpora: Sequence[Corpus],
        devices: Devices,
    ) -> None:
        """ConfigError where the teacher's vectors have another length than the student's."""
        assert recipe.distillation is not None
        self._recipe = recipe
        self._settings: Distillation = recipe.distillation
        self._model = model
        self._pad_id = tokenization.pad_id
        self._devices = devices
        self._half = recipe.optimiser.precision == "bf16"
        self._teacher = Teacher(self._settings, devices.device, half=self._half)
        self.teacher_fingerprint = self._teacher.fingerprint
        if self._teacher.dim != model.dim:
            raise ConfigError(
                "distillation.teacher",
                expected=f"sentence vectors of {model.dim} dimensions, as the student has",
                found=f"{self._teacher.dim} of {self._settings.teacher}",
                remedy="Take a teacher and a start checkpoint of the same hidden size.",
            )
        data = recipe.data
        length = min(data.passage_max_length, self._teacher.positions)
        self._read_taught = self._teacher.reader(length)
        self._read_passages = Reader(tokenization, length)
        self._read_translations = Reader(tokenization, data.query_max_length, words=False)
        self._bank: MemoryBank | None = None
        if drawn := self._settings.contrast_passages:
            taught = (c for c in corpora if recipe.stage == "distil" or c.source.texts)
            texts = [passage.text for corpus in taught for passage in corpus.passages]
            self._bank = MemoryBank(texts, self._teacher, length, devices, most=ROOM * drawn)

    def read(self, batch: Batch) -> Lesson:
        """The texts that this process encodes; no device is needed."""
        passages = self._devices.own(len(batch.passages))
        translations = self._devices.own(len(batch.queries))
        texts = batch.passages[passages]
        readings = self._read_passages(texts)
        readings += self._read_translations(batch.queries[translations])
        parts = Parts.on(self._devices.device, self._recipe.batches.sub_batch_tokens)
        learned = arrange(readings, self._model.backbone, parts, self._pad_id)
        numbers = range(len(batch.passages))[passages]
        wanted = np.concatenate([np.array(numbers, np.int64), batch.targets[translations]])
        own = np.where(np.arange(len(readings)) < len(texts), np.arange(len(readings)), -1)
        return Lesson(
            len(batch.passages),
            len(batch.queries),
            self._teacher.arrange(self._read_taught(texts)),
            learned,
            wanted[learned.order],
            own[learned.order],
        )

    def accumulate(self, step: int, texts: Lesson) -> Metrics:
        """Adds the gradients of the loss of a batch to those of the model; metrics come back.

        Passages are the teacher's own texts, queries their translations. The loss is the mean over
        all texts of 1 - cosine of the sentence vectors and of `contrast_weight` times the
        cross-entropy of the student's softmax of cosines to the teacher's, plus `word_weight` times
        the mean over the passages of the error of their words, whatever the number of processes
        and passes.
        """
        wanted, settings = self._wanted(step, texts), self._settings
        seed = step_seed(self._recipe.optimiser.seed, step, self._devices.rank, "dropout")
        total = torch.zeros(len(Sums._fields), device=self._devices.device)
        start = 0
        for number, part in enumerate(texts.learned.parts):
            torch.manual_seed(seed + number)
            rows = slice(start, start + len(part.ids))
            sums = self._compare(part, texts, rows, wanted)
            loss = sums.passages + sums.translations + settings.contrast_weight * sums.contrast
            loss = loss / (texts.passages + texts.translations)
            loss = loss + settings.word_weight * sums.words / texts.passages
            loss.backward()  # type: ignore[no-untyped-call]
            total += torch.stack(sums).detach()
            start = rows.stop
        self._devices.sum_gradients(self._model)
        tokens = float(sum(part.real.sum() for part in texts.learned.parts))
        *found, tokens = self._devices.sum([*total.tolist(), tokens])
        return self._metrics(dict(zip(Sums._fields, found, strict=True)), texts) | {
            "tokens": tokens
        }

    def _wanted(self, step: int, texts: Lesson) -> Wanted:
        own = self._teacher.understand(texts.taught)
        vectors = shown = self._devices.gather(own.sentences)
        if self._bank is not None:
            seed = step_seed(self._recipe.optimiser.seed, step, 0, "bank")
            drawn = self._bank.draw(self._settings.contrast_passages, seed)
            shown = torch.cat([vectors, drawn])
        return Wanted(own, vectors, shown)

    def _compare(self, part: Pass, texts: Lesson, rows: slice, wanted: Wanted) -> Sums:
        """How far the student is from its teacher on one pass of texts, `rows` of all of them."""
        device = wanted.shown.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._half):
            student = understand(self._model.backbone, self._model.pooling, part)
        vectors = wanted.vectors[torch.from_numpy(texts.wanted[rows]).to(device)]
        far = 1 - (student.sentences * vectors).sum(dim=-1)
        contrast = far.new_zeros(())
        if self._settings.contrast_weight:
            shares = (vectors @ wanted.shown.T / self._settings.temperature).softmax(dim=-1)
            scores = student.sentences @ wanted.shown.T / self._settings.temperature
            contrast = functional.cross_entropy(scores, shares, reduction="sum")
        own = texts.own[rows]
        passages = own[own >= 0]  # translations have no words
        sizes = texts.taught.sizes
        words = torch.from_numpy(word_rows(sizes, passages)).to(device)
        teacher = Understood(wanted.own.sentences, wanted.own.words[words], wanted.own.read[words])
        is_passage = torch.from_numpy(own >= 0).to(device)
        return Sums(
            far[is_passage].sum(),
            far[~is_passage].sum(),
            word_errors(student, teacher, sizes[passages]).sum(),
            contrast,
        )

    def _metrics(self, sums: Mapping[str, float], texts: Lesson) -> Metrics:
        """Means over the texts of all processes from their sums."""
        settings, count = self._settings, texts.passages + texts.translations
        words, contrast = sums["words"] / texts.passages, sums["contrast"] / count
        sentences = (sums["passages"] + sums["translations"]) / count
        loss = sentences + settings.word_weight * words + settings.contrast_weight * contrast
        metrics = {
            "loss": loss,
            "loss_passages": sums["passages"] / texts.passages,
            "loss_words": words,
            "loss_contrast": contrast,
        }
        if texts.translations:
            metrics["loss_translations"] = sums["translations"] / texts.translations
        return metrics
