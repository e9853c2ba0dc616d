"""One step of imitating another encoder: texts and translations in, gradients and metrics out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from m3search.errors import ConfigError
from m3search.model.modeling import M3Model
from m3search.model.tokenization import Tokenization
from m3search.training.devices import Devices
from m3search.training.drawing import Batch
from m3search.training.encoding import Parts
from m3search.training.finetuning import Metrics, step_seed
from m3search.training.imitation import (
    Distances,
    Reading,
    Teacher,
    Understood,
    distances,
    join,
    read,
    sentence_alone,
    understand,
)
from m3search.training.recipe import Distillation, Recipe


class Texts(NamedTuple):
    """A batch, and this process's part of it as both encoders read it."""

    batch: Batch
    taught: list[Reading]
    """the passages, as the teacher reads them"""
    passages: list[Reading]
    translations: list[Reading]


class Lesson(NamedTuple):
    """A text, and what the student is to make of it."""

    text: Reading
    wanted: Understood
    passage: int
    """among those of all processes, the one that the teacher has read"""
    is_translation: bool
    """whether the teacher has read another text, which this one translates"""


class Distilling:
    """What a step does with the model; every process does its part of the same batch."""

    def __init__(
        self, recipe: Recipe, model: M3Model, tokenization: Tokenization, devices: Devices
    ) -> None:
        """ConfigError where the teacher's vectors have another length than the student's."""
        assert recipe.distillation is not None
        self._recipe = recipe
        self._settings: Distillation = recipe.distillation
        self._model = model
        self._tokenization = tokenization
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

    def read(self, batch: Batch) -> Texts:
        """The texts that this process encodes; no model is needed."""
        data, own = self._recipe.data, self._devices.own
        passages = batch.passages[own(len(batch.passages))]
        translations = batch.queries[own(len(batch.queries))]
        return Texts(
            batch,
            self._teacher.read(passages, data.passage_max_length),
            read(self._tokenization, passages, data.passage_max_length),
            read(self._tokenization, translations, data.query_max_length),
        )

    def accumulate(self, step: int, texts: Texts) -> Metrics:
        """Adds the gradients of the loss of a batch to those of the model; metrics come back.

        Passages are the teacher's own texts, queries their translations. The loss is the mean over
        all texts of 1 - cosine of the sentence vectors and of `contrast_weight` times InfoNCE, plus
        `word_weight` times the mean over the passages of the error of their words, whatever the
        number of processes and passes.
        """
        understood = self._teacher.understand(texts.taught)
        vectors = self._vectors_of_all(understood)
        lessons = self._lessons(texts, understood, vectors)
        counts = {"passages": len(texts.batch.passages), "translations": len(texts.batch.queries)}
        sums = dict.fromkeys(("passages", "translations", "words", "contrast"), 0.0)
        parts = Parts.on(self._devices.device, self._recipe.batches.sub_batch_tokens)
        seed = step_seed(self._recipe.optimiser.seed, step, self._devices.rank, "dropout")
        for number, (start, end) in enumerate(parts.cut([each.text.ids for each in lessons])):
            torch.manual_seed(seed + number)
            part = lessons[start:end]
            found, contrast = self._compare(part, vectors)
            sentences = found.sentences + self._settings.contrast_weight * contrast
            loss = sentences.sum() / sum(counts.values())
            loss = loss + self._settings.word_weight * found.words.sum() / counts["passages"]
            loss.backward()  # type: ignore[no-untyped-call]
            for lesson, distance in zip(part, found.sentences.tolist(), strict=True):
                sums["translations" if lesson.is_translation else "passages"] += distance
            sums["words"] += float(found.words.detach().sum())
            sums["contrast"] += float(contrast.detach().sum())
        self._devices.sum_gradients(self._model)
        tokens = float(sum(len(each.text.ids) for each in lessons))
        *total, tokens = self._devices.sum([*sums.values(), tokens])
        return self._metrics(dict(zip(sums, total, strict=True)), counts) | {"tokens": tokens}

    def _lessons(
        self, texts: Texts, understood: Sequence[Understood], vectors: Tensor
    ) -> list[Lesson]:
        """This process's texts, each with what it is to become, the longest first."""
        passages = range(len(texts.batch.passages))[self._devices.own(len(texts.batch.passages))]
        given = zip(texts.passages, understood, passages, strict=True)
        lessons = [Lesson(text, wanted, passage, False) for text, wanted, passage in given]
        targets = texts.batch.targets[self._devices.own(len(texts.batch.queries))].tolist()
        for text, target in zip(texts.translations, targets, strict=True):
            wanted = sentence_alone(vectors[target], text.size)
            lessons.append(Lesson(text, wanted, target, True))
        return sorted(lessons, key=lambda each: -len(each.text.ids))

    def _vectors_of_all(self, own: Sequence[Understood]) -> Tensor:
        """(P, hidden) the teacher's sentence vectors of the passages of all processes."""
        nothing = torch.zeros((0, self._teacher.dim), device=self._devices.device)
        return self._devices.gather(torch.cat([nothing, *(each.sentences for each in own)]))

    def _compare(self, lessons: Sequence[Lesson], vectors: Tensor) -> tuple[Distances, Tensor]:
        """Of N texts how far the student is from its teacher, and InfoNCE (N,) over `vectors`."""
        texts = [each.text for each in lessons]
        with torch.autocast(self._devices.device.type, dtype=torch.bfloat16, enabled=self._half):
            student = understand(
                self._model.backbone, self._model.pooling, texts, self._tokenization.pad_id
            )
        wanted = join([each.wanted for each in lessons])
        scores = student.sentences @ vectors.T / self._settings.temperature
        own = torch.tensor([each.passage for each in lessons], device=scores.device)
        return (
            distances(student, wanted, [text.size for text in texts]),
            functional.cross_entropy(scores, own, reduction="none"),
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
