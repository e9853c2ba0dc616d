"""Embeddings of E dimensions that give an encoder what its wide ones gave, as near as can be.

Wide, as in BERT: LayerNorm(word + position + type). Narrow, as in ELECTRA (arXiv 2003.10555):
project(LayerNorm_E(word + position + type)), where all but `project` has E dimensions.

The start is algebra. Both normalisations first take out the mean over the dimensions, so it is the
vectors without it that count; they are laid into the E - 1 directions that hold most of them
(singular vectors, weighted by frequency), turned so that their mean over E dimensions is 0. Then
both normalisations divide by the same length, but for what was cut off, and `project` is a least
squares problem. Gradient descent on the narrow parts alone does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from tooling import showing
from torch import Tensor, nn
from torch.nn import functional

BATCH = 8192
"""words at positions, of a step or a sample"""
EVERYWHERE = 0.5
"""the part of a batch that is uniform over words and positions; the rest is as in texts"""
SAMPLES = 16
"""batches, for least squares and errors"""


class Wide(NamedTuple):
    """What embeddings of the hidden size hold."""

    words: Tensor
    """(pieces, hidden)"""
    positions: Tensor
    """(positions, hidden)"""
    types: Tensor
    """(types, hidden)"""
    norm: nn.LayerNorm

    @torch.no_grad()
    def states(self, words: Tensor, positions: Tensor) -> Tensor:
        """(n, hidden) what the layers read of words (n,) at positions (n,), of type 0."""
        states: Tensor = self.norm(self.words[words] + self.positions[positions] + self.types[0])
        return states


class Narrow(nn.Module):
    """The embeddings of ELECTRA, by the names of their weights there."""

    def __init__(self, wide: Wide, size: int) -> None:
        super().__init__()
        hidden, eps = wide.words.shape[1], wide.norm.eps
        self.word_embeddings = nn.Embedding(len(wide.words), size)
        self.position_embeddings = nn.Embedding(len(wide.positions), size)
        self.token_type_embeddings = nn.Embedding(len(wide.types), size)
        self.LayerNorm = nn.LayerNorm(size, eps=eps)
        self.project = nn.Linear(size, hidden)

    def normalised(self, words: Tensor, positions: Tensor) -> Tensor:
        """(n, E) the states before they are projected."""
        summed = self.word_embeddings(words) + self.position_embeddings(positions)
        states: Tensor = self.LayerNorm(summed + self.token_type_embeddings.weight[0])
        return states

    def forward(self, words: Tensor, positions: Tensor) -> Tensor:
        """(n, hidden) as `Wide.states`."""
        states: Tensor = self.project(self.normalised(words, positions))
        return states


class Occurrences:
    """Words at positions to fit on: as texts have them, and everywhere."""

    def __init__(self, words: Tensor, positions: Tensor, wide: Wide, seed: int) -> None:
        """words, positions (n,): the tokens of texts."""
        self.words, self.positions = words, positions
        self._sizes = len(wide.words), len(wide.positions)
        self._random = torch.Generator().manual_seed(seed)

    def frequencies(self) -> tuple[Tensor, Tensor]:
        """(pieces,) and (positions,) the parts of all tokens, half of them everywhere."""
        found = []
        for ids, size in zip((self.words, self.positions), self._sizes, strict=True):
            in_texts = torch.bincount(ids, minlength=size) / len(ids)
            found.append((1 - EVERYWHERE) * in_texts + EVERYWHERE / size)
        return found[0], found[1]

    def draw(self, everywhere: float = EVERYWHERE) -> tuple[Tensor, Tensor]:
        """(BATCH,) words and their positions."""
        places = torch.randint(len(self.words), (BATCH,), generator=self._random)
        words, positions = self.words[places], self.positions[places]
        anywhere = round(BATCH * everywhere)
        for ids, size in zip((words, positions), self._sizes, strict=True):
            ids[:anywhere] = torch.randint(size, (anywhere,), generator=self._random)
        return words, positions

    def samples(self, everywhere: float = EVERYWHERE) -> Iterator[tuple[Tensor, Tensor]]:
        """Some batches."""
        return (self.draw(everywhere) for _ in range(SAMPLES))


@torch.no_grad()
def factorise(wide: Wide, size: int, seen: Occurrences) -> Narrow:
    """Narrow embeddings by singular vectors and least squares."""
    of_words, of_positions = seen.frequencies()
    middle = of_positions @ wide.positions + wide.types[0]
    rows = [
        (wide.words + middle) * of_words[:, None].sqrt(),
        (wide.positions - of_positions @ wide.positions) * of_positions[:, None].sqrt(),
    ]
    stacked = _centred(torch.cat(rows)).double()
    _, directions = torch.linalg.eigh(stacked.T @ stacked)  # ascending
    basis = (directions[:, -(size - 1) :] @ _balanced(size)).float()
    narrow = Narrow(wide, size)
    for table, old in (
        (narrow.word_embeddings, wide.words),
        (narrow.position_embeddings, wide.positions),
        (narrow.token_type_embeddings, wide.types),
    ):
        table.weight.copy_(_centred(old) @ basis)
    _solve_projection(narrow, wide, seen)
    return narrow


def _centred(vectors: Tensor) -> Tensor:
    return vectors - vectors.mean(dim=-1, keepdim=True)


def _balanced(size: int) -> Tensor:
    """(size - 1, size) orthonormal rows whose entries add up to 0."""
    ones = torch.full((size, 1), size**-0.5, dtype=torch.float64)
    columns = torch.cat([ones, torch.eye(size, dtype=torch.float64)], 1)
    complete: Tensor = torch.linalg.qr(columns)[0]
    return complete[:, 1:].T


def _solve_projection(narrow: Narrow, wide: Wide, seen: Occurrences) -> None:
    """Least squares, from the normal equations of a sample."""
    size, hidden = narrow.project.in_features, narrow.project.out_features
    squares, products = torch.zeros(size + 1, size + 1), torch.zeros(size + 1, hidden)
    for words, positions in seen.samples():
        states = functional.pad(narrow.normalised(words, positions), (0, 1), value=1.0)
        squares += states.T @ states
        products += states.T @ wide.states(words, positions)
    squares.diagonal().add_(1e-3 * BATCH)  # the states add up to 0: a direction is free
    solved = torch.linalg.solve(squares.double(), products.double()).float()
    narrow.project.weight.copy_(solved[:-1].T)
    narrow.project.bias.copy_(solved[-1])


def refine(narrow: Narrow, wide: Wide, seen: Occurrences, steps: int, rate: float) -> None:
    """Gradient descent on the squared errors, the rate falling to 0."""
    optimiser = torch.optim.Adam(narrow.parameters(), rate)
    for step in showing(range(steps), "steps", "embeddings"):
        optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        words, positions = seen.draw()
        errors = narrow(words, positions) - wide.states(words, positions)
        optimiser.zero_grad()
        errors.square().mean().backward()
        optimiser.step()


@torch.no_grad()
def relative_error(narrow: Narrow, wide: Wide, words: Tensor, positions: Tensor) -> float:
    """The root of the squared errors' part of the states' squared deviations from their mean."""
    states = wide.states(words, positions)
    errors = (narrow(words, positions) - states).square().sum()
    return float((errors / (states - states.mean(dim=0)).square().sum()).sqrt())
