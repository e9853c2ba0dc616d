"""Texts and candidate sources that mining can be checked on by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from searching import WordEncoder

from m3search.index import Index
from m3search.records import Document, Mode
from m3search.search import Searcher
from m3search.training.mining.candidates import (
    Candidate,
    Example,
    Found,
    IndexSource,
    KeyedText,
)
from m3search.training.mining.rules import (
    MiningSettings,
)

WORDS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "koi", "lark")


ALL = MiningSettings(ranks=(0, 1000), negatives=1000, relative_margin=None)


Record = dict[str, Any]


def write_texts(count: int, seed: int, length: int = 6) -> list[str]:
    """Different texts of words drawn at random."""
    drawn = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[" ".join(drawn.choices(WORDS, k=length))] = None
    return list(texts)


def open_source(
    folder: Path, texts: Sequence[str | Document], modes: Sequence[Mode] = ("dense",)
) -> IndexSource:
    documents = [
        text if isinstance(text, Document) else Document(f"d{row}", text)
        for row, text in enumerate(texts)
    ]
    index = Index.build(folder / "index", documents, WordEncoder(), segment_documents=15)
    return IndexSource(Searcher(index, WordEncoder()), modes)  # type: ignore[arg-type]


class ListedSource:
    """Every query finds the same passages, best first, and its positives' scores are given."""

    def __init__(self, ranked: dict[str, float], positive: float = math.nan) -> None:
        self.passages = [KeyedText.of(Document(f"d{i}", text)) for i, text in enumerate(ranked)]
        self.scores = list(ranked.values())
        self.positive = positive
        self.asked: list[int] = []

    def find(self, examples: Sequence[Example], depth: int) -> list[Found]:
        self.asked.append(len(examples))
        pairs = zip(self.scores, self.passages, strict=True)
        candidates = [Candidate(rank, *pair) for rank, pair in enumerate(pairs, start=1)]
        return [
            Found(candidates[:depth], [self.positive] * len(example.positives))
            for example in examples
        ]

    def draw(self, count: int, rng: np.random.Generator) -> list[KeyedText]:
        rows = rng.choice(len(self.passages), size=min(count, len(self.passages)), replace=False)
        return [self.passages[row] for row in rows]


def number_texts(count: int) -> dict[str, float]:
    return {f"text {number}": 1 - number / 100 for number in range(1, count + 1)}
