"""The recipe of a training: what a TOML file under trainer/recipes/ may say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from m3search.model.modeling import Pooling


@dataclass(frozen=True)
class Start:
    """Where training starts."""

    checkpoint: str
    """a folder or hub name: a Hugging Face encoder, or an M3 checkpoint whose heads are kept"""
    multi_dim: int = 128
    """length of a token vector; a checkpoint that has heads must agree"""
    pooling: Pooling = "cls"
    max_length: int = 512
    """tokens, recorded as the limit of the finished encoder"""
    dropout: float = 0.1
    """probability, in every dropout layer of the encoder while it trains"""


@dataclass(frozen=True)
class Source:
    """Files of pairs that are drawn from together."""

    files: str
    """a glob below the data folder"""
    weight: float = 1.0
    """passages taken in an epoch, as a share of those there are; above 1 repeats them"""


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


@dataclass(frozen=True)
class Objective:
    """The loss of arXiv 2402.03216v4, section 3.3, with its published weights as defaults."""

    temperature: float = 0.02
    ensemble_weights: tuple[float, float, float] = (1.0, 0.3, 1.0)
    """dense, sparse, multi in the ensemble score that teaches"""
    loss_weights: tuple[float, float, float] = (1.0, 0.1, 1.0)
    """dense, sparse, multi in the loss"""
    self_distill_start_step: int = 0
    """distillation is on from this optimiser step; -1 leaves it off"""


@dataclass(frozen=True)
class Optimiser:
    """AdamW with linear warm-up and linear decay to zero."""

    steps: int
    learning_rate: float = 2e-5
    head_learning_rate: float = 1e-3
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    seed: int = 42
    precision: Literal["fp32", "bf16"] = "bf16"


@dataclass(frozen=True)
class Output:
    """What is written while training runs."""

    log_every: int = 20
    """steps"""
    save_every: int = 200
    """steps between training states to resume from; the last one is kept"""
    weights: Literal["fp32", "fp16"] = "fp32"
    """precision of the finished checkpoint"""


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
