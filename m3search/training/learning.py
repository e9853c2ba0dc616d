"""What a recipe says of what is learned: the loss of each stage and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from m3search.model.modeling import Pooling
from m3search.records import MODES, Mode
from m3search.training.ranges import check_least, check_positive, check_share, check_weights


@dataclass(frozen=True)
class Objective:
    """The loss of arXiv 2402.03216v4, section 3.3, with its published weights as defaults."""

    modes: tuple[Mode, ...] = MODES
    """the heads that are trained"""
    temperature: float = 0.02
    ensemble_weights: tuple[float, float, float] = (1.0, 0.3, 1.0)
    """dense, sparse, multi in the ensemble score that teaches"""
    loss_weights: tuple[float, float, float] = (1.0, 0.1, 1.0)
    """dense, sparse, multi in the loss"""
    self_distill: bool = True
    """whether the ensemble score teaches each mode"""
    self_distill_start_step: int = 0
    """optimiser steps, counted from 0, before self-distillation begins"""
    teacher: Literal["none", "kl", "listwise"] = "none"
    """what is made of `pos_scores` and `neg_scores` in the files"""

    def __post_init__(self) -> None:
        check_positive(self, "temperature")
        check_least(self, 0, "self_distill_start_step")
        check_weights(self, "ensemble_weights", "loss_weights")
        if not self.modes or len(set(self.modes)) < len(self.modes):
            raise ValueError(f"modes = {list(self.modes)}, not one or more different ones")

    def weights_of(self, kind: Literal["ensemble", "loss"]) -> Mapping[Mode, float]:
        """The weights of the ensemble score or of the loss by mode."""
        weights = self.ensemble_weights if kind == "ensemble" else self.loss_weights
        return dict(zip(MODES, weights, strict=True))


@dataclass(frozen=True)
class Pretraining:
    """RetroMAE (Xiao et al. 2022, arXiv 2205.12035) with enhanced decoding."""

    encoder_share: float = 0.3
    """of the tokens, hidden from the encoder and predicted by it"""
    decoder_share: float = 0.5
    """of the tokens, hidden from each row of the decoder, which predicts all"""
    masks: int = 128
    """different masks that the decoder's rows of a text choose from"""

    def __post_init__(self) -> None:
        check_positive(self, "encoder_share", "decoder_share")
        check_share(self, "encoder_share", "decoder_share", below=True)
        check_least(self, 1, "masks")


@dataclass(frozen=True)
class Distillation:
    """An encoder whose sentence vectors and word states are imitated, also across languages
    (Reimers and Gurevych 2020, arXiv 2004.09813)."""

    teacher: str
    """a folder or hub name, of an encoder with the student's hidden size; in stage distil it reads
    the passages, which are in a language that it knows, and a query is a translation of its
    passage; beside pairs it reads the sources with texts = true; neither reads a text further than
    it can"""
    pooling: Pooling | None = None
    """of the teacher; None is what its checkpoint says, and "cls" where it says nothing"""
    word_weight: float = 0.0
    """in the loss, of the error of the mean states of a passage's words; 0 is sentences alone"""
    contrast_weight: float = 0.0
    """in the loss, of telling passages apart: the softmax of a text's cosines with the teacher's
    vectors of all passages of the step is to be the one that the teacher has; 0 is none"""
    contrast_passages: int = 0
    """of what it reads, drawn for each step beside its own, out of four times as many, which it
    reads before the first step"""
    temperature: float = 0.05
    """of that softmax, by which cosines are divided"""

    def __post_init__(self) -> None:
        check_least(self, 0, "word_weight", "contrast_weight", "contrast_passages")
        check_positive(self, "temperature")
        if self.contrast_passages and not self.contrast_weight:
            raise ValueError(
                f"contrast_passages = {self.contrast_passages} with contrast_weight = 0: "
                "nothing is told apart"
            )
