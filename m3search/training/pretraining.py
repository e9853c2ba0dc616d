"""One step of RetroMAE pre-training: texts in, gradients and metrics out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from m3search.model.tokenization import Ids, Tokenization
from m3search.training.devices import Devices
from m3search.training.encoding import Parts
from m3search.training.finetuning import Metrics, step_seed
from m3search.training.masking import Vocabulary
from m3search.training.passes import width_of
from m3search.training.recipe import Pretraining, Recipe
from m3search.training.retromae import Masked, RetroMAE, decoder_labels, make_masked


class RetroMAETraining:
    """What a step does with the model; every process does its part of the same texts."""

    def __init__(
        self,
        recipe: Recipe,
        model: RetroMAE,
        tokenization: Tokenization,
        vocabulary: Vocabulary,
        devices: Devices,
    ) -> None:
        assert recipe.pretraining is not None
        self._recipe = recipe
        self._settings: Pretraining = recipe.pretraining
        self._model = model
        self._tokenization = tokenization
        self._vocabulary = vocabulary
        self._devices = devices

    def read(self, step: int, texts: Sequence[str]) -> list[Masked]:
        """This process's part of a step's texts, in its forward passes; the model is not needed."""
        own = self._devices.own(len(texts))
        ids = self._tokenization.encode(texts[own], self._recipe.data.passage_max_length).ids
        return self._mask(step, ids, range(len(texts))[own])

    def accumulate(self, step: int, parts: Sequence[Masked]) -> Metrics:
        """Adds the gradients of the losses of a step's texts to those of the model.

        Both losses are means over the predicted tokens of all texts, whatever the number of
        processes and forward passes.
        """
        encoder = sum(int((part.labels >= 0).sum()) for part in parts)
        decoder = sum(int((decoder_labels(part) >= 0).sum()) for part in parts)
        read = sum(int(part.attention_mask.sum()) for part in parts)
        *predicted, tokens = self._devices.sum([encoder, decoder, read])
        sums = [0.0, 0.0]
        half = self._recipe.optimiser.precision == "bf16"
        for number, part in enumerate(parts):
            torch.manual_seed(self._seed(step, self._devices.rank, "dropout") + number)
            with torch.autocast(self._devices.device.type, dtype=torch.bfloat16, enabled=half):
                losses = self._model(part.to(self._devices.device), predicted)
            losses.total.backward()
            sums = [sums[0] + float(losses.encoder), sums[1] + float(losses.decoder)]
        self._devices.sum_gradients(self._model)
        encoder_loss, decoder_loss = self._devices.sum(sums)
        return {
            "loss": encoder_loss + decoder_loss,
            "loss_encoder": encoder_loss,
            "loss_decoder": decoder_loss,
            "tokens": tokens,
        }

    def _mask(self, step: int, ids: Sequence[Ids], numbers: Sequence[int]) -> list[Masked]:
        """The texts, the longest first, in batches of similar length, masked for this step.

        numbers: of the texts among all of the step, so that what hides a text depends on nothing
        else, neither on the number of processes nor on what it shares a pass with.
        """
        settings = self._settings
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        ordered = [ids[row] for row in order]
        rngs = [np.random.default_rng(self._seed(step, numbers[row], "masks")) for row in order]
        parts = Parts.on(self._devices.device, self._recipe.batches.sub_batch_tokens)
        return [
            make_masked(
                ordered[start:end],
                self._vocabulary,
                rngs[start:end],
                encoder_share=settings.encoder_share,
                decoder_share=settings.decoder_share,
                masks=settings.masks,
                width=width_of(self._model.backbone, ordered[start:end]),
            )
            for start, end in parts.cut(ordered)
        ]

    def _seed(self, step: int, number: int, what: str) -> int:
        return step_seed(self._recipe.optimiser.seed, step, number, what)
