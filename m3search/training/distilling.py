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
    Reader,
    Reading,
    Teacher,
    Understood,
    understand,
    word_errors,
    word_rows,
)
from m3search.training.memory_bank import MemoryBank
from m3search.training.recipe import Distillation, Recipe
from m3search.training.sources import Corpus


class Texts(NamedTuple):
    """A batch, and this process's part of it as both encoders read it."""

    batch: Batch
    taught: list[Reading]
    """the passages, as the teacher reads them"""
    passages: list[Reading]
    translations: list[Reading]


class Lessons(NamedTuple):
    """This process's texts, the longest first, and what the student is to make of them."""

    texts: list[Reading]
    passages: IntArray
    """(N,) of each, or of what it translates, the number among the passages of all processes"""
    own: IntArray
    """(N,) the number among the passages of this process, -1 of a translation"""
    parts: list[tuple[int, int]]
    """(start, end) of each forward pass"""


class Wanted(NamedTuple):
    """What the teacher makes of the passages of a step."""

    own: Understood
    """of those of this process"""
    sizes: list[int]
    """words of each of them"""
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
        if self._teacher.dim != model.dim:
            raise ConfigError(
                "distillation.teacher",
                expected=f"sentence vectors of {model.dim} dimensions, as the student has",
                found=f"{self._teacher.dim} of {self._settings.teacher}",
                remedy="Take a teacher and a start checkpoint of the same hidden size.",
            )
        data = recipe.data
        self._read_taught = self._teacher.reader(data.passage_max_length)
        self._read_passages = Reader(tokenization, data.passage_max_length)
        self._read_translations = Reader(tokenization, data.query_max_length, words=False)
        self._bank: MemoryBank | None = None
        if self._settings.contrast_passages:
            texts = [passage.text for corpus in corpora for passage in corpus.passages]
            self._bank = MemoryBank(texts, self._teacher, data.passage_max_length, devices)

    def read(self, batch: Batch) -> Texts:
        """The texts that this process encodes; no model is needed."""
        own = self._devices.own
        passages = batch.passages[own(len(batch.passages))]
        translations = batch.queries[own(len(batch.queries))]
        return Texts(
            batch,
            self._read_taught(passages),
            self._read_passages(passages),
            self._read_translations(translations),
        )

    def accumulate(self, step: int, texts: Texts) -> Metrics:
        """Adds the gradients of the loss of a batch to those of the model; metrics come back.

        Passages are the teacher's own texts, queries their translations. The loss is the mean over
        all texts of 1 - cosine of the sentence vectors and of `contrast_weight` times the
        cross-entropy of the student's softmax of cosines to the teacher's, plus `word_weight` times
        the mean over the passages of the error of their words, whatever the number of processes
        and passes.
        """
        wanted = self._wanted(step, texts)
        lessons = self._lessons(texts)
        counts = {"passages": len(texts.batch.passages), "translations": len(texts.batch.queries)}
        seed = step_seed(self._recipe.optimiser.seed, step, self._devices.rank, "dropout")
        total = torch.zeros(len(Sums._fields), device=self._devices.device)
        for number, (start, end) in enumerate(lessons.parts):
            torch.manual_seed(seed + number)
            sums = self._compare(lessons, start, end, wanted)
            loss = sums.passages + sums.translations
            loss = loss + self._settings.contrast_weight * sums.contrast
            loss = loss / sum(counts.values())
            loss = loss + self._settings.word_weight * sums.words / counts["passages"]
            loss.backward()  # type: ignore[no-untyped-call]
            total += torch.stack(sums).detach()
        self._devices.sum_gradients(self._model)
        tokens = float(sum(len(text.ids) for text in lessons.texts))
        *found, tokens = self._devices.sum([*total.tolist(), tokens])
        return self._metrics(dict(zip(Sums._fields, found, strict=True)), counts) | {
            "tokens": tokens
        }

    def _wanted(self, step: int, texts: Texts) -> Wanted:
        own = self._teacher.understand(texts.taught)
        vectors = shown = self._devices.gather(own.sentences)
        if self._bank is not None:
            seed = step_seed(self._recipe.optimiser.seed, step, 0, "bank")
            drawn = self._bank.draw(self._settings.contrast_passages, seed)
            shown = torch.cat([vectors, drawn])
        return Wanted(own, [text.size for text in texts.taught], vectors, shown)

    def _lessons(self, texts: Texts) -> Lessons:
        passages = self._devices.own(len(texts.batch.passages))
        translations = self._devices.own(len(texts.batch.queries))
        first, end = passages.start, passages.stop
        both = [*texts.passages, *texts.translations]
        numbers = np.concatenate([np.arange(first, end), texts.batch.targets[translations]])
        own = np.concatenate([np.arange(end - first), np.full(len(texts.translations), -1)])
        order = np.argsort([-len(text.ids) for text in both], kind="stable")
        ordered = [both[place] for place in order]
        cut = Parts.on(self._devices.device, self._recipe.batches.sub_batch_tokens).cut
        return Lessons(ordered, numbers[order], own[order], cut([text.ids for text in ordered]))

    def _compare(self, lessons: Lessons, start: int, end: int, wanted: Wanted) -> Sums:
        """How far the student is from its teacher on the texts from `start` to `end`."""
        device, texts = wanted.shown.device, lessons.texts[start:end]
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._half):
            student = understand(self._model.backbone, self._model.pooling, texts, self._pad_id)
        vectors = wanted.vectors[torch.from_numpy(lessons.passages[start:end]).to(device)]
        far = 1 - (student.sentences * vectors).sum(dim=-1)
        contrast = far.new_zeros(())
        if self._settings.contrast_weight:
            shares = (vectors @ wanted.shown.T / self._settings.temperature).softmax(dim=-1)
            scores = student.sentences @ wanted.shown.T / self._settings.temperature
            contrast = functional.cross_entropy(scores, shares, reduction="sum")
        own = lessons.own[start:end]
        model = _select(wanted.own, wanted.sizes, own[own >= 0])
        is_passage = torch.from_numpy(own >= 0).to(device)
        return Sums(
            far[is_passage].sum(),
            far[~is_passage].sum(),
            word_errors(student, model, [text.size for text in texts]).sum(),
            contrast,
        )

    def _metrics(self, sums: Mapping[str, float], counts: Mapping[str, int]) -> Metrics:
        """Means over the texts of all processes from their sums."""
        settings, texts = self._settings, sum(counts.values())
        words, contrast = sums["words"] / counts["passages"], sums["contrast"] / texts
        sentences = (sums["passages"] + sums["translations"]) / texts
        loss = sentences + settings.word_weight * words + settings.contrast_weight * contrast
        metrics = {
            "loss": loss,
            "loss_passages": sums["passages"] / counts["passages"],
            "loss_words": words,
            "loss_contrast": contrast,
        }
        if counts["translations"]:
            metrics["loss_translations"] = sums["translations"] / counts["translations"]
        return metrics


def _select(understood: Understood, sizes: Sequence[int], texts: IntArray) -> Understood:
    """Of texts with `sizes` words each, those with these numbers, in this order."""
    device = understood.words.device
    rows = torch.from_numpy(word_rows(sizes, texts)).to(device)
    sentences = understood.sentences[torch.from_numpy(texts).to(device)]
    return Understood(sentences, understood.words[rows], understood.read[rows])
