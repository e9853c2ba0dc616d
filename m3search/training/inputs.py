"""What a recipe says of the model that it starts from, of its texts and of their batches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath

from m3search.model.modeling import Pooling
from m3search.records import WordTerms
from m3search.training.ranges import check_least, check_most, check_positive, check_share

SHORTEST = 3
"""tokens of a text of one piece: [CLS], the piece, [SEP]"""
LONGEST = 131_072
"""tokens; no encoder has learned positions for more, and a table for much more fills the memory"""
BUCKETS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) in place of training all weights."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("query", "key", "value")
    """ends of the names of the linear layers that get adapters"""

    def __post_init__(self) -> None:
        check_least(self, 1, "rank")
        check_positive(self, "alpha")
        check_share(self, "dropout", below=True)
        if not self.targets:
            raise ValueError("targets = [], not at least one")


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
    """tokens, the limit of the finished encoder, whose position table is extended where it is
    shorter; None is what the checkpoint says"""
    word_terms: WordTerms | None = None
    """what are terms beside the pieces: "words" of several pieces, or the "stems" of words;
    None is what the checkpoint says, and "none" where it says nothing"""
    dropout: float = 0.1
    """probability, in every dropout layer of the encoder while it trains"""
    fit_heads: bool = False
    """fit new heads to the texts before the first step: lexical weights to the rarity of terms,
    token vectors to the directions in which states differ most; otherwise lexical weights start
    equal and token vectors at random"""
    fix_encoder: bool = False
    """train the heads alone: the encoder gets no gradient and no dropout"""
    lora: Lora | None = None
    """train adapters in the encoder, merged into it at the end; None trains all its weights"""

    def __post_init__(self) -> None:
        check_least(self, 1, "multi_dim")
        check_least(self, SHORTEST, "max_length")
        check_most(self, LONGEST, "max_length")
        check_share(self, "dropout", below=True)
        if self.lora and self.fix_encoder:
            raise ValueError("fix_encoder = true with lora: adapters would change the encoder")


@dataclass(frozen=True)
class Source:
    """Files of texts or pairs that are drawn from together."""

    files: str
    """a glob below the data folder; of a folder that it matches, all training files in it"""
    weight: float = 1.0
    """passages taken in an epoch, as a share of those there are; above 1 repeats them"""
    in_batch_negatives: bool = True
    """whether the passages of other queries are negatives; otherwise only a query's own are"""
    by_file: bool = False
    """whether every file that matches is a source of its own, such as one language of many"""
    titles: bool = True
    """whether titles count; without them where questions hold them, which could then be copied"""
    texts: bool = False
    """whether every text of the files is read alone, those of pairs, too, and imitated: for files
    that are wholly in the teacher's language; RetroMAE always reads so"""

    def __post_init__(self) -> None:
        check_positive(self, "weight")
        if not self.files or PurePath(self.files).is_absolute():
            raise ValueError(f"files = {self.files!r}, not a glob below data.folder")


@dataclass(frozen=True)
class Data:
    """The texts and how much of each is read."""

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
    shuffle_probability: float = 0.0
    """share of passages over 100 characters that are cut in three and joined in random order, so
    that not only their beginning is learned; the paper has 0.002 for long unlabelled texts"""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources = [], not at least one")
        if self.negatives == 0 and not all(source.in_batch_negatives for source in self.sources):
            raise ValueError("negatives = 0 with in_batch_negatives = false: nothing to tell apart")
        check_least(self, SHORTEST, "query_max_length", "passage_max_length")
        check_least(self, 1, "queries_per_passage")
        check_least(self, 0, "negatives")
        check_share(self, "title_probability", "shuffle_probability")


@dataclass(frozen=True)
class Batches:
    """How texts are put into steps, over all processes together, and through the model."""

    passages: int = 32
    """positive passages of a step at most; each is a negative of all others' queries"""
    tokens: int | None = None
    """padded tokens of a step's positive passages at most: long texts make smaller batches"""
    buckets: tuple[int, ...] = BUCKETS
    """tokens; passages of a step are of one bucket, each up to the next of these lengths"""
    same_source: bool = True
    """whether the passages of a step come from one source"""
    neighbours: int = 1
    """passages that follow each other in a file stay together in runs of this many; in files that
    keep an article's paragraphs together these are hard negatives for each other"""
    sub_batch_tokens: int = 8192
    """padded tokens per forward pass of one process"""
    gradient_cache: bool = False
    """hold the activations of one forward pass at a time; costs a second forward pass"""
    activation_checkpointing: bool = False
    """hold one layer's activations at a time within a pass; costs a second forward pass, too"""

    def __post_init__(self) -> None:
        check_least(self, 1, "passages", "tokens", "neighbours", "sub_batch_tokens")
        if any(a >= b for a, b in pairwise((0, *self.buckets))):
            raise ValueError(f"buckets = {list(self.buckets)}, not rising from 1 up")
