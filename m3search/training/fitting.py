"""New heads fitted to texts before the first step: lexical weights to the rarity of terms, token
vectors to the directions in which the states of tokens differ most.

Both are linear maps of the encoder's last states, so both have a solution in closed form: ridge
regression on the square root of the inverse document frequency (the product of two such weights,
which a query and a passage have for a term, is the idf), and principal components.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from m3search.model.modeling import M3Model
from m3search.model.tokenization import Ids, Tokenization, pad
from m3search.training.devices import Devices
from m3search.training.encoding import Parts
from m3search.training.moment import evaluating
from m3search.training.passes import read_states, width_of
from m3search.training.recipe import Recipe
from m3search.training.sources import Corpus

COUNTED = 4000
"""passages of a source at most, drawn at random, whose terms are counted"""
ENCODED = 6000
"""passages of all sources together whose states are fitted to"""
MEAN_WEIGHT = 0.2
"""lexical weight of a token on average, as heads have that are not fitted"""
STATES_TOKENS = 8192
"""padded tokens of a pass"""
RIDGE = 1e-3
"""penalty on the squares of the weights, as a part of the mean variance of a state's numbers"""

Floats = npt.NDArray[np.float64]


def fit_heads(
    model: M3Model,
    tokenization: Tokenization,
    corpora: Sequence[Corpus],
    modes: Collection[str],
    recipe: Recipe,
    devices: Devices,
) -> None:
    """Replaces the heads of `modes` ("sparse", "multi") of the model.

    Every source of pairs counts its terms for itself, as a word that is rare in all languages
    together may be on every line of its own, and takes part as often as in the training.
    """
    if not modes:
        return
    corpora = [corpus for corpus in corpora if not corpus.source.texts]
    drawn_of = [corpus.source.weight * len(corpus.passages) for corpus in corpora]
    moments, seed = Moments(model.dim), recipe.optimiser.seed
    for corpus, share in zip(corpora, drawn_of, strict=True):
        some = max(1, round(ENCODED * share / sum(drawn_of)))
        texts = [passage.text for passage in corpus.passages]
        rng = random.Random(f"{seed}:{corpus.fingerprint}")
        drawn = rng.sample(texts, min(COUNTED, len(texts)))
        ids = tokenization.encode(drawn, recipe.data.passage_max_length).ids
        wanted = np.sqrt(inverse_document_frequencies(ids, model.vocabulary))
        half = recipe.optimiser.precision == "bf16"
        for tokens, states in _states(model, tokenization, ids[:some], half):
            moments.add(states, wanted[tokens])
    if "sparse" in modes:
        weight, bias = moments.regression()
        scale = MEAN_WEIGHT / moments.mean_wanted
        _fill(model.sparse_linear, scale * weight[None], np.array([scale * bias]), devices)
    if "multi" in modes:
        directions = moments.principal_components(model.multi_dim)
        _fill(model.colbert_linear, directions, -directions @ moments.mean, devices)


def inverse_document_frequencies(texts: Sequence[Ids], vocabulary: int) -> Floats:
    """(vocabulary,) ln(1 + (N - n + 0.5) / (n + 0.5)), n of the N texts having the term.

    That of Lucene's BM25, above 0 for every term.
    """
    counts = np.zeros(vocabulary)
    for ids in texts:
        counts[np.unique(ids)] += 1
    found: Floats = np.log1p((len(texts) - counts + 0.5) / (counts + 0.5))
    return found


class Moments:
    """Sums over tokens from which both heads follow, however many the tokens."""

    def __init__(self, dim: int) -> None:
        """dim: numbers of a state."""
        self._count = 0
        self._sum = np.zeros(dim)
        self._squares = np.zeros((dim, dim))
        self._wanted = 0.0
        self._products = np.zeros(dim)

    def add(self, states: Floats, wanted: Floats) -> None:
        """Takes in states (tokens, dim) and what their lexical weights are to be (tokens,)."""
        self._count += len(states)
        self._sum += states.sum(axis=0)
        self._squares += states.T @ states
        self._wanted += float(wanted.sum())
        self._products += states.T @ wanted

    @property
    def mean(self) -> Floats:
        """(dim,) mean state."""
        found: Floats = self._sum / self._count
        return found

    @property
    def mean_wanted(self) -> float:
        """Of the lexical weights."""
        return self._wanted / self._count

    @property
    def _covariance(self) -> Floats:
        found: Floats = self._squares / self._count - np.outer(self.mean, self.mean)
        return found

    def regression(self) -> tuple[Floats, float]:
        """Weights (dim,) and bias with the least squared error, and RIDGE against large weights."""
        covariance = self._covariance
        ridge = RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        products = self._products / self._count - self.mean * self.mean_wanted
        weight: Floats = np.linalg.solve(covariance + ridge, products)
        return weight, self.mean_wanted - float(weight @ self.mean)

    def principal_components(self, count: int) -> Floats:
        """(count, dim) orthogonal unit rows, those of the largest variance first.

        With more rows than numbers in a state, those beyond are 0.
        """
        vectors = np.linalg.eigh(self._covariance)[1].T[::-1]
        rows = np.zeros((count, vectors.shape[1]))
        rows[: len(vectors)] = vectors[:count]
        return rows


@torch.no_grad()
def _states(
    model: M3Model, tokenization: Tokenization, texts: Sequence[Ids], half: bool
) -> Iterator[tuple[Ids, Floats]]:
    """Ids (tokens,) and last states (tokens, dim) of all tokens that are not special."""
    device = next(model.parameters()).device
    ordered = sorted(texts, key=len, reverse=True)
    with evaluating(model):
        for start, end in Parts.on(device, STATES_TOKENS).cut(ordered):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
                width = width_of(model.backbone, ordered[start:end])
                padded = pad(ordered[start:end], tokenization.pad_id, width)
                read = read_states(model.backbone, *padded)
            words = read.real & ~np.isin(read.ids, tokenization.special_ids)
            yield read.ids[words], read.states.cpu().numpy()[words].astype(np.float64)


def _fill(head: nn.Linear, weight: Floats, bias: Floats, devices: Devices) -> None:
    """All processes take what the first has found."""
    with torch.no_grad():
        for parameter, values in ((head.weight, weight), (head.bias, bias)):
            found = torch.from_numpy(values).to(parameter)
            parameter.copy_(devices.gather(found[None])[0])
