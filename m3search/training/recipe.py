"""The recipe of a training: what a TOML file under trainer/recipes/ may say.

A value out of range is a ValueError here, which `config.parse` turns into a ConfigError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Literal

from m3search.model.modeling import Pooling

SHORTEST = 3
"""tokens of a text of one piece: [CLS], the piece, [SEP]"""


@dataclass(frozen=True)
class Start:
    """Where training starts."""

    checkpoint: str
    """a folder or hub name: a Hugging Face encoder, or an M3 checkpoint whose heads are kept"""
    multi_dim: int | None = None
    """length of a token vector; None is that of the checkpoint's head, which a number must equal,
    or without heads the encoder's hidden size"""
    pooling: Pooling | None = None
    """None is what the checkpoint says, and "cls" where it says nothing"""
    max_length: int | None = None
    """tokens, recorded as the limit of the finished encoder; None is what the checkpoint says"""
    dropout: float = 0.1
    """probability, in every dropout layer of the encoder while it trains"""
    fix_encoder: bool = False
    """train the two heads alone: the encoder gets no gradient and no dropout"""

    def __post_init__(self) -> None:
        _check_least(self, 1, "multi_dim")
        _check_least(self, SHORTEST, "max_length")
        _check_share(self, "dropout", below=True)


@dataclass(frozen=True)
class Source:
    """Files of pairs that are drawn from together."""

    files: str
    """a glob below the data folder"""
    weight: float = 1.0
    """passages taken in an epoch, as a share of those there are; above 1 repeats them"""

    def __post_init__(self) -> None:
        _check_positive(self, "weight")
        if not self.files or PurePath(self.files).is_absolute():
            raise ValueError(f"files = {self.files!r}, not a glob below data.folder")


@dataclass(frozen=True)
class Data:
    """The pairs and how much of each text is read."""

    sources: tuple[Source, ...]
    folder: str = "."
    """where the globs start; a relative one starts at the working directory"""
    query_max_length: int = 64
    """tokens"""
    passage_max_length: int = 256
    """tokens"""
    queries_per_passage: int = 1
    """questions on one passage that are drawn with it; the passage is encoded once"""
    negatives: int = 0
    """hard negatives drawn per passage from the `neg` of its pairs, where they have any"""
    title_probability: float = 0.5
    """share of passages that are read with their title before them, where they have one"""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources = [], not at least one")
        _check_least(self, SHORTEST, "query_max_length", "passage_max_length")
        _check_least(self, 1, "queries_per_passage")
        _check_least(self, 0, "negatives")
        _check_share(self, "title_probability")


@dataclass(frozen=True)
class Batches:
    """How passages are put into batches."""

    passages: int = 32
    """positive passages in a batch; each is an in-batch negative of all others' queries"""
    neighbours: int = 1
    """passages that follow each other in a file stay together in runs of this many; in files that
    keep an article's paragraphs together these are hard negatives for each other"""
    sub_batch_tokens: int = 8192
    """padded tokens per forward pass"""

    def __post_init__(self) -> None:
        _check_least(self, 1, "passages", "neighbours", "sub_batch_tokens")


@dataclass(frozen=True)
class Objective:
    """The loss of arXiv 2402.03216v4, section 3.3, with its published weights as defaults."""

    temperature: float = 0.02
    ensemble_weights: tuple[float, float, float] = (1.0, 0.3, 1.0)
    """dense, sparse, multi in the ensemble score that teaches"""
    loss_weights: tuple[float, float, float] = (1.0, 0.1, 1.0)
    """dense, sparse, multi in the loss"""
    self_distill: bool = True
    """whether the ensemble score teaches each mode"""
    self_distill_start_step: int = 0
    """optimiser steps, counted from 0, before self-distillation begins"""

    def __post_init__(self) -> None:
        _check_positive(self, "temperature")
        _check_least(self, 0, "self_distill_start_step")
        for name in ("ensemble_weights", "loss_weights"):
            if not all(0 <= weight < math.inf for weight in getattr(self, name)):
                raise ValueError(f"{name} = {getattr(self, name)}, not all at least 0")


@dataclass(frozen=True)
class Optimiser:
    """AdamW with linear warm-up and linear decay towards zero."""

    steps: int
    learning_rate: float = 2e-5
    head_learning_rate: float = 1e-3
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    seed: int = 42
    precision: Literal["fp32", "bf16"] = "bf16"

    def __post_init__(self) -> None:
        _check_least(self, 1, "steps")
        _check_least(self, 0, "weight_decay", "seed")
        _check_positive(self, "learning_rate", "head_learning_rate", "max_gradient_norm")
        _check_share(self, "warmup_ratio")


@dataclass(frozen=True)
class Output:
    """What is written while training runs and at its end."""

    log_every: int = 20
    """steps"""
    save_every: int = 200
    """steps between training states to resume from; the last one is kept"""
    weights: Literal["fp32", "fp16"] = "fp32"
    """precision of the finished checkpoint"""
    start_weight: float = 0.0
    """share of the start weights in the finished encoder, the rest is as trained: keeps what the
    start encoder knew outside the training data; heads are as trained"""

    def __post_init__(self) -> None:
        _check_least(self, 1, "log_every", "save_every")
        _check_share(self, "start_weight", below=True)


@dataclass(frozen=True)
class Recipe:
    """One training stage."""

    stage: Literal["finetune"]
    start: Start
    data: Data
    optimiser: Optimiser
    batches: Batches = field(default_factory=Batches)
    objective: Objective = field(default_factory=Objective)
    output: Output = field(default_factory=Output)

    def __post_init__(self) -> None:
        if self.batches.passages == 1 and self.data.negatives == 0:
            raise ValueError("batches.passages = 1 and data.negatives = 0: nothing to tell apart")


def _check_least(table: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(table, name)
        if value is not None and not least <= value < math.inf:
            raise ValueError(f"{name} = {value}, not at least {least}")


def _check_positive(table: object, *names: str) -> None:
    for name in names:
        value = getattr(table, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name} = {value}, not above 0")


def _check_share(table: object, name: str, *, below: bool = False) -> None:
    value = getattr(table, name)
    if not 0 <= value <= 1 or (below and value == 1):
        raise ValueError(f"{name} = {value}, not from 0 to {'below 1' if below else '1'}")
