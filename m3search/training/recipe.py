"""The recipe of a training: what a TOML file under trainer/recipes/ may say.

A value out of range is a ValueError here, which `config.parse` turns into a ConfigError.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from m3search.records import MODES, Mode
from m3search.training.inputs import SHORTEST, Batches, Data, Lora, Source, Start
from m3search.training.learning import Distillation, Objective, Pretraining
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
    idf: bool | None = None
    """whether searches with the finished checkpoint multiply lexical weights by how rare their
    terms are in the index; None is what the start says"""

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
    """of distil, and of other stages on pairs that imitate texts in steps of their own"""
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
        imitates = any(source.texts for source in self.data.sources)
        uses = {
            "pretraining": self.stage == "retromae",
            "distillation": self.stage == "distil" or (pairs and imitates),
            "objective": pairs,
            "refresh": pairs,
            "development": self.stage != "retromae",
        }
        for name, used in uses.items():
            if getattr(self, name) is not None and not used:
                why = (
                    ", where no source has texts = true" if name == "distillation" and pairs else ""
                )
                raise ValueError(f"{name} in stage {self.stage}{why}")
        if self.stage == "retromae":
            self._default("pretraining", Pretraining())
        elif self.stage == "distil" and self.distillation is None:
            raise ValueError("stage distil without distillation.teacher")
        elif pairs:
            alone = Objective(modes=("dense",), self_distill=False)
            self._default("objective", alone if self.stage == "contrastive" else Objective())
        if self.start.fix_encoder and not pairs:
            raise ValueError(f"fix_encoder = true in stage {self.stage}: nothing to train")
        if imitates and self.stage == "retromae":
            raise ValueError("texts = true of a source in stage retromae, which reads all so")
        if imitates and self.distillation is None:
            raise ValueError(
                f"texts = true of a source in stage {self.stage} without distillation.teacher"
            )
        if imitates and pairs:
            self._check_imitation()

    def _check_imitation(self) -> None:
        """Of a stage on pairs that imitates in steps of their own."""
        if not self.batches.same_source:
            raise ValueError("texts = true of a source with batches.same_source = false")
        if all(source.texts for source in self.data.sources):
            raise ValueError(f"texts = true of all sources in stage {self.stage}: no pairs")
        if self.start.fix_encoder:
            raise ValueError("texts = true of a source with fix_encoder = true: nothing to train")

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
