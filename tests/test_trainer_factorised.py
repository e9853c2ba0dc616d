"""What smaller embeddings keep of wide ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from trainer_scripts import script

narrow = script("factorised_embeddings")


def make_wide(rank: int, pieces: int = 300, hidden: int = 24) -> Any:
    torch.manual_seed(4)
    basis = torch.randn(rank, hidden)
    norm = nn.LayerNorm(hidden, eps=1e-12).requires_grad_(False)
    norm.weight.uniform_(0.5, 1.5)
    norm.bias.normal_()
    parts = (torch.randn(n, rank) @ basis for n in (pieces, 16, 2))
    return narrow.Wide(*parts, norm)


def occurrences(wide: Any, tokens: int = 5000) -> Any:
    words = torch.multinomial(1 / torch.arange(1.0, len(wide.words) + 1), tokens, replacement=True)
    positions = torch.randint(len(wide.positions), (tokens,))
    return narrow.Occurrences(words, positions, wide, seed=5)


def test_nothing_is_lost_where_the_vectors_need_no_more_dimensions() -> None:
    wide = make_wide(rank=9)
    seen = occurrences(wide)
    made = narrow.factorise(wide, 12, seen)
    assert narrow.relative_error(made, wide, seen.words, seen.positions) < 1e-3
    assert made.word_embeddings.weight.shape == (300, 12)


def test_frequent_words_lose_least() -> None:
    """Ten words that fill all texts, and 290 others that need other dimensions."""
    torch.manual_seed(4)
    often, seldom = torch.randn(10, 10) @ torch.randn(10, 24), torch.randn(290, 8)
    words = torch.cat([often, 0.5 * seldom @ torch.randn(8, 24)])
    norm = nn.LayerNorm(24, eps=1e-12).requires_grad_(False)
    wide = narrow.Wide(words, torch.zeros(16, 24), torch.zeros(2, 24), norm)
    places = torch.arange(5000)
    made = narrow.factorise(wide, 12, narrow.Occurrences(places % 10, places % 16, wide, seed=5))
    everywhere = torch.arange(16)
    errors = [
        narrow.relative_error(made, wide, some.repeat_interleave(16), everywhere.repeat(len(some)))
        for some in (torch.arange(10), torch.arange(10, 300))
    ]
    assert errors[0] < 0.8 * errors[1]


def test_refining_makes_the_error_smaller() -> None:
    wide = make_wide(rank=24)
    seen = occurrences(wide)
    made = narrow.factorise(wide, 12, seen)
    before = narrow.relative_error(made, wide, seen.words, seen.positions)
    narrow.refine(made, wide, seen, steps=100, rate=1e-2)
    after = narrow.relative_error(made, wide, seen.words, seen.positions)
    assert 0 < after < 0.97 * before
