"""Batches drawn from a few passages, for the tests of drawing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from m3search.training.drawing import Batch, Known, draw
from m3search.training.recipe import Data, Source
from m3search.training.sources import Passage, Question


def settings(**changes: Any) -> Data:
    return Data((Source("*"),), **{"title_probability": 0.0} | changes)


def asking(
    *queries: str, text: str, negatives: Sequence[str] = (), scores: Sequence[float] = ()
) -> Passage:
    """A passage whose questions have the same negatives; the first score is that of the passage."""
    score, rest = (scores[0], tuple(scores[1:])) if scores else (None, ())
    return Passage(text, "", tuple(Question(q, tuple(negatives), score, rest) for q in queries))


def draw_from(
    passages: Sequence[Passage],
    seed: int = 0,
    known: Sequence[Passage] = (),
    own_negatives_only: bool = False,
    **changes: Any,
) -> Batch:
    """known: passages that the questions have elsewhere."""
    return draw(
        passages,
        settings(**changes),
        random.Random(seed),
        Known.of([*passages, *known]),
        own_negatives_only=own_negatives_only,
    )


def masked_texts(batch: Batch, query: str) -> set[str]:
    row = batch.masked[batch.queries.index(query)]
    return {text for text, masked in zip(batch.passages, row, strict=True) if masked}
