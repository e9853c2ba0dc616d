"""Texts taken together: windows that are sorted by length, and batches cut out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from m3search.errors import ConfigError
from m3search.model.tokenization import Tokenized

WINDOW = 2048
"""Texts that are sorted by length together, at most; memory beside the result is bounded by it."""
WINDOW_CHARACTERS = 1 << 20
"""characters of such texts, at most: of long documents, a window holds few"""
_MAX_BATCH_TEXTS = 512

Item = TypeVar("Item")


def count_characters(text: str) -> int:
    """Of a text; ConfigError for what is none."""
    if not isinstance(text, str):
        raise ConfigError(
            "texts",
            expected="strings",
            found=f"{type(text).__name__}: {text!r}"[:60],
            remedy="Encode texts; of a document, document_text(document).",
        )
    return len(text)


def windows(items: Iterable[Item], characters_of: Callable[[Item], int]) -> Iterator[list[Item]]:
    """The items in order, as many together as the two limits allow, and at least one."""
    window: list[Item] = []
    characters = 0
    for item in items:
        window.append(item)
        characters += characters_of(item)
        if len(window) == WINDOW or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def cut(order: np.ndarray, tokenized: Tokenized, budget: int) -> Iterator[np.ndarray]:
    """Runs of `order` (longest first) whose padded size fits the budget; at least one text each."""
    start = 0
    while start < len(order):
        longest = len(tokenized.ids[order[start]])
        size = max(1, min(budget // longest, _MAX_BATCH_TEXTS))
        yield order[start : start + size]
        start += size
