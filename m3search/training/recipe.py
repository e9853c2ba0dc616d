"""The recipe of a training: what a TOML file under trainer/recipes/ may say.

A value out of range is a ValueError here, which `config.parse` turns into a ConfigError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from m3search.model.modeling import Pooling
from m3search.records import MODES, Mode
from m3search.training.inputs import SHORTEST, Batches, Data, Lora, Source, Start
from m3search.training.mining.rules import MiningSettings
from m3search.training.ranges import check_least, check_positive, check_share, check_weights

__all__ = [
    "Batches",
    "Data",
    "Development",
    "Distillation",
    "Lora",
    "Objective",
    "Optimiser",
    "Output",
    "Pretraining",
    "Recipe",
    "Refresh",
    "Source",
    "Start",
]


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
    """a folder or hub name, of an encoder with the student's hidden size; it reads the passages,
    which are in a language that it knows, and a query is a translation of its passage"""
    pooling: Pooling | None = None
    """of the teacher; None is what its checkpoint says, and "cls" where it says nothing"""
    word_weight: float = 0.0
    """in the loss, of the error of the mean states of a passage's words; 0 is sentences alone"""
    contrast_weight: float = 0.0
    """in the loss, of telling passages apart: the softmax of a text's cosines with the teacher's
    vectors of all passages of the step is to be the one that the teacher has; 0 is none"""
    contrast_passages: int = 0
    """of all sources, drawn for each step beside its own, out of four times as many, which the
    teacher reads before the first step"""
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
        check_least(self, 1, "steps")
        check_least(self, 0, "weight_decay", "seed")
        check_positive(self, "learning_rate", "head_learning_rate", "max_gradient_norm")
        check_share(self, "warmup_ratio")


@dataclass(frozen=True)
class Development:
    """A quality measured while training runs: nDCG@10 of every mode that is trained."""

    sets: tuple[str, ...]
    """folders with corpus.jsonl, queries.jsonl and qrels/<split>.tsv; relative to data.folder; []
    measures nothing"""
    every: int = 500
    """steps; 0 measures at the end only"""
    split: str = "test"
    max_length: int = 512
    """tokens of a document"""
    unknown_documents: Literal["error", "keep"] = "error"
    """judgements of documents that the corpus has not: "keep" counts them as never found"""

    def __post_init__(self) -> None:
        check_least(self, 0, "every")
        check_least(self, SHORTEST, "max_length")


@dataclass(frozen=True)
class Refresh:
    """Hard negatives mined again while training runs, with the model as it is then (ANCE, Xiong
    et al. 2021, arXiv 2007.00808), from all passages of the sources."""

    every: int
    """steps; what the files hold is used up to the first time"""
    modes: tuple[Mode, ...] = ("dense",)
    """by which candidates are retrieved"""
    weights: tuple[float, float, float] | None = None
    """of dense, sparse and multi where there are several; by default those of a search"""
    rules: MiningSettings = field(default_factory=MiningSettings)

    def __post_init__(self) -> None:
        check_least(self, 1, "every")
        if not self.modes or len(set(self.modes)) < len(self.modes):
            raise ValueError(f"modes = {list(self.modes)}, not one or more different ones")
        check_weights(self, "weights")
        by_mode = dict(zip(MODES, self.weights or (1.0,) * len(MODES), strict=True))
        if len(self.modes) > 1 and not any(by_mode[mode] for mode in self.modes):
            raise ValueError(f"weights = {self.weights}, all 0 for {', '.join(self.modes)}")
        if self.rules.asks_reranker:
            raise ValueError("rules of a reranker, which takes too long between two steps")


@dataclass(frozen=True)
class Output:
    """What is written while training runs and at its end."""

    log_every: int = 20
    """steps"""
    save_every: int = 200
    """steps between training states to resume from; the last one is kept"""
    tensorboard: bool = False
    """write the metrics for TensorBoard, too, into the folder `tensorboard`"""
    weights: Literal["fp32", "fp16"] = "fp32"
    """precision of the finished checkpoint"""
    start_weight: float = 0.0
    """share of the start weights in the finished encoder, the rest is as trained: keeps what the
    start encoder knew outside the training data; heads are as trained"""
    fusion_weights: tuple[float, float, float] | None = None
    """of dense, sparse and multi in a search with the finished checkpoint that names none; None is
    what the start says"""

    def __post_init__(self) -> None:
        check_least(self, 1, "log_every", "save_every")
        check_weights(self, "fusion_weights")
        if self.fusion_weights is not None and not any(self.fusion_weights):
            raise ValueError(f"fusion_weights = {self.fusion_weights}, all 0")
        check_share(self, "start_weight", below=True)


@dataclass(frozen=True)
class Recipe:
    """One training stage: RetroMAE, the imitation of another encoder, contrastive on the dense
    mode alone, or fine-tuning."""

    stage: Literal["retromae", "distil", "contrastive", "finetune"]
    start: Start
    data: Data
    optimiser: Optimiser
    batches: Batches = field(default_factory=Batches)
    objective: Objective | None = None
    """by default that of the paper; RetroMAE and distil have none"""
    pretraining: Pretraining | None = None
    """of RetroMAE alone"""
    distillation: Distillation | None = None
    """of distil alone"""
    development: Development | None = None
    """None, also of a table without sets, measures nothing"""
    refresh: Refresh | None = None
    output: Output = field(default_factory=Output)

    def __post_init__(self) -> None:
        if self.development is not None and not self.development.sets:
            object.__setattr__(self, "development", None)
        self._check_tables()
        self._check_lengths()
        if self.stage not in ("contrastive", "finetune"):
            return
        if self.batches.passages == 1 and self.data.negatives == 0:
            raise ValueError("batches.passages = 1 and data.negatives = 0: nothing to tell apart")
        if self.refresh is not None and self.data.negatives == 0:
            raise ValueError("refresh with data.negatives = 0: none of the negatives would be used")
        if self.refresh is not None and self.losses.teacher != "none":
            raise ValueError("refresh with objective.teacher: mined negatives have no scores")
        if self.stage == "contrastive" and self.losses.modes != ("dense",):
            raise ValueError(f"objective.modes = {list(self.losses.modes)} in stage contrastive")
        if self.start.fix_encoder and self.losses.modes == ("dense",):
            raise ValueError("fix_encoder = true with the dense mode alone: nothing to train")

    def _check_tables(self) -> None:
        """Each stage has the tables that it uses, by default or as given, and no other."""
        pairs = self.stage in ("contrastive", "finetune")
        uses = {
            "pretraining": self.stage == "retromae",
            "distillation": self.stage == "distil",
            "objective": pairs,
            "refresh": pairs,
            "development": self.stage != "retromae",
        }
        for name, used in uses.items():
            if getattr(self, name) is not None and not used:
                raise ValueError(f"{name} in stage {self.stage}")
        if self.stage == "retromae":
            self._default("pretraining", Pretraining())
        elif self.stage == "distil" and self.distillation is None:
            raise ValueError("stage distil without distillation.teacher")
        elif pairs:
            alone = Objective(modes=("dense",), self_distill=False)
            self._default("objective", alone if self.stage == "contrastive" else Objective())
        if self.start.fix_encoder and not pairs:
            raise ValueError(f"fix_encoder = true in stage {self.stage}: nothing to train")
        if self.stage != "distil" and any(source.texts for source in self.data.sources):
            raise ValueError(f"texts = true of a source in stage {self.stage}")

    def _check_lengths(self) -> None:
        """No text is read further than the finished encoder is said to read."""
        longest = self.start.max_length
        read = {"passage_max_length": self.data.passage_max_length}
        if self.stage != "retromae":  # which has no queries
            read["query_max_length"] = self.data.query_max_length
        for name, length in read.items():
            if longest is not None and length > longest:
                raise ValueError(
                    f"data.{name} = {length}, above start.max_length = {longest}: the encoder "
                    "would be trained on texts longer than it is to read"
                )

    def _default(self, name: str, value: object) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    @property
    def heads(self) -> tuple[Mode, ...]:
        """Modes that are trained as such: RetroMAE and distil train the encoder alone."""
        return () if self.objective is None else self.objective.modes

    @property
    def losses(self) -> Objective:
        """The objective of a stage that has one."""
        assert self.objective is not None
        return self.objective
