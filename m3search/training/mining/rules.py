"""What a hard negative may be: the settings of mining, the rules they make, and the drawing.

The margins are those of NV-Retriever (Moreira et al. 2024, arXiv 2407.15831), the window is that of
FlagEmbedding's hn_mine.py.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from m3search.training.mining.candidates import Candidate, KeyedText
from m3search.training.mining.records import KnownPositives


@dataclass(frozen=True)
class MiningSettings:
    """Which candidates become negatives."""

    ranks: tuple[int, int] = (10, 210)
    """as in FlagEmbedding's hn_mine.py: the first so many are skipped, and ranks up to the second
    are taken; positives still count as ranks, and are taken out afterwards"""
    negatives: int = 15
    """drawn for a query, at most"""
    margin: float | None = None
    """a negative scores at most the positive's score less this"""
    relative_margin: float | None = None
    """a negative scores at most the positive's score less this share of it (TopK-PercPos)"""
    max_score: float | None = None
    """a negative scores at most this"""
    reranker_threshold: float | None = None
    """a negative gets at most this probability (0 to 1) of being relevant from the reranker"""
    teacher_scores: bool = False
    """write the reranker's logits as pos_scores and neg_scores"""
    fill_random: bool = False
    """where rules leave too few, take passages of the corpus that were not retrieved"""
    keep: bool = False
    """put the mined negatives behind those that the pair has, not in their place"""
    seed: int = 42

    def __post_init__(self) -> None:
        first, last = self.ranks
        if not 0 <= first < last:
            raise ValueError(f"ranks = {first}-{last}, not a-b with 0 <= a < b")
        if self.negatives < 1:
            raise ValueError(f"negatives = {self.negatives}, not 1 or more")
        if self.margin is not None and not (math.isfinite(self.margin) and self.margin >= 0):
            raise ValueError(f"margin = {self.margin}, not 0 or more")
        for name in ("relative_margin", "reranker_threshold"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} = {share}, not from 0 to 1")
        if self.max_score is not None and not math.isfinite(self.max_score):
            raise ValueError(f"max_score = {self.max_score}, not a number")

    @property
    def asks_reranker(self) -> bool:
        """Whether a reranker is needed."""
        return self.reranker_threshold is not None or self.teacher_scores

    @property
    def asks_positives(self) -> bool:
        """Whether the scores of positives are needed."""
        return self.margin is not None or self.relative_margin is not None


def rank_window(candidates: Sequence[Candidate], ranks: tuple[int, int]) -> Sequence[Candidate]:
    """The candidates of ranks first + 1 to last."""
    first, last = ranks
    return candidates[first:last]


def score_limits(positive_scores: Sequence[float], settings: MiningSettings) -> dict[str, float]:
    """By rule, the highest score that a negative may have.

    Margins hold against the positive that scores lowest: a training step pairs the negatives with
    any one of the positives. TopK-PercPos (arXiv 2407.15831, section 3.1) is written for scores
    above 0, as (1 - r) * s; s - r * |s| is the same there, and stays below s elsewhere. Scores
    that are NaN limit nothing.
    """
    limits = {} if settings.max_score is None else {"max score": settings.max_score}
    lowest = min((score for score in positive_scores if not math.isnan(score)), default=None)
    if lowest is not None and settings.margin is not None:
        limits["margin"] = lowest - settings.margin
    if lowest is not None and settings.relative_margin is not None:
        limits["relative margin"] = lowest - settings.relative_margin * abs(lowest)
    return limits


@dataclass
class Rules:
    """What the negatives of one query must not be."""

    query: bytes
    """`text_key` of the query"""
    positives: frozenset[bytes]
    """names of the record's own"""
    known: KnownPositives
    limits: Mapping[str, float]
    """by rule, the highest score allowed"""
    taken: set[bytes] = field(default_factory=set)
    """names of what is a negative already: with another title it would be the same text again"""

    def broken_by(self, passage: KeyedText, score: float = -math.inf) -> str | None:
        """The first rule that a passage breaks; one that breaks none counts as taken from now."""
        if passage.names & self.positives or self.known.answers(self.query, passage.names):
            return "positive"
        if self.query in passage.names:
            return "query"
        for rule, limit in self.limits.items():
            if score > limit:
                return rule
        if passage.names & self.taken:
            return "duplicate"
        self.taken |= passage.names
        return None


def drawing_order(candidates: Iterable[Candidate], seed: int, query: bytes) -> list[Candidate]:
    """The candidates in an order that seed, query and texts decide, all orders being as likely.

    The first n are a uniform sample without replacement (bottom-k: Cohen and Kaplan 2007). Neither
    other queries nor other candidates move two candidates against each other.
    """
    return sorted(candidates, key=lambda each: digest(seed, query, each.passage.key))


def digest(seed: int, *parts: bytes) -> bytes:
    """16 bytes that a seed and keys decide, and that look random."""
    return hashlib.blake2b(b"\0".join((str(seed).encode(), *parts)), digest_size=16).digest()
