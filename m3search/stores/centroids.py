"""Centroids of token vectors, and the group of each vector: that of a centroid near to it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import faiss
import numpy as np

from m3search.records import FloatArray, IntArray
from m3search.stores.threads import side_by_side

TRAINED_ON, TRAINED_ON_LEAST = 32, 8
"""vectors for each centroid, where memory suffices, and in any case"""
SAMPLE_BYTES = 1 << 29
TRAINED_AT_MOST = 256
"""vectors for each of the few centroids that part the sample"""
ROUNDS = 6
SEED = 1
CELLS = 5
"""parts of the sample whose centroids a vector is compared with"""


class Tokens(NamedTuple):
    """Token vectors of neighbouring rows."""

    rows: IntArray
    """(n,) the row of each vector, ascending"""
    vectors: FloatArray
    """(n, dim)"""


@dataclass(frozen=True)
class Groups:
    """Centroids in two levels: the sample is parted around few, and each part around its own."""

    coarse: Any
    """what finds the nearest parts of vectors"""
    centroids: FloatArray
    """(centroids, dim) unit rows, those of one part after those of the other"""
    ends: IntArray
    """(parts + 1,) part i has centroids [ends[i], ends[i + 1])"""

    @classmethod
    def train(cls, blocks: Iterator[Tokens], vectors: int) -> Groups:
        """Of a sample of the vectors; each part has its share of all centroids."""
        sample = _sample(blocks, vectors, TRAINED_ON * _wanted(vectors))
        count = min(_wanted(vectors), len(sample) // TRAINED_ON_LEAST + 1)
        around = _kmeans(sample, min(len(sample), round(count**0.5)))
        coarse = faiss.IndexFlatIP(sample.shape[1])
        coarse.add(around)
        cells = coarse.search(sample, 1)[1][:, 0]
        used, sizes = np.unique(cells, return_counts=True)

        def divide(part: tuple[int, int]) -> FloatArray:
            cell, size = part
            share = max(1, round(count * size / len(sample)))
            return _kmeans(sample[cells == cell], min(size, share))

        parts = zip(used.tolist(), sizes.tolist(), strict=True)
        centroids = list(side_by_side(divide, parts))
        if len(used) < len(around):  # no vector is nearest to the others
            coarse.reset()
            coarse.add(around[used])
        ends = np.concatenate([[0], np.cumsum([len(each) for each in centroids])])
        return cls(coarse, np.concatenate(centroids), ends)

    def nearest(self, vectors: FloatArray) -> IntArray:
        """The centroid (n,) of the highest product with each vector (n, dim), in the nearest parts.

        For 98 % of vectors there is no nearer one in any other part.
        """
        parts = self.coarse.search(vectors, min(CELLS, len(self.ends) - 1))[1]
        found = np.zeros(len(vectors), dtype=np.int64)
        highest = np.full(len(vectors), -np.inf, dtype=np.float32)
        order = np.argsort(parts, axis=None, kind="stable")
        cuts = np.searchsorted(parts.reshape(-1)[order], np.arange(len(self.ends)))
        for part, (start, stop) in enumerate(pairwise(cuts.tolist())):
            rows = order[start:stop] // parts.shape[1]
            products = vectors[rows] @ self.centroids[self.ends[part] : self.ends[part + 1]].T
            best = products.argmax(axis=1)
            values = products[np.arange(len(rows)), best]
            nearer = values > highest[rows]
            found[rows[nearer]] = self.ends[part] + best[nearer]
            highest[rows[nearer]] = values[nearer]
        return found


def _wanted(vectors: int) -> int:
    """How many centroids suit so many vectors."""
    return 1 << max(4, round(math.log2(8 * vectors**0.5)))


def _sample(blocks: Iterator[Tokens], vectors: int, most: int) -> FloatArray:
    """Up to `most` of the vectors, evenly over all, and no more than SAMPLE_BYTES of them."""
    sample, places = np.zeros((0, 0), dtype=np.float32), np.zeros(0, dtype=np.int64)
    filled = seen = 0
    for block in blocks:
        if not filled:
            dim = block.vectors.shape[1]
            size = min(vectors, most, max(1, SAMPLE_BYTES // (4 * dim)))
            step = np.arange(size) + np.random.default_rng(SEED).random(size)
            places = (step * (vectors / size)).astype(np.int64)
            sample = np.empty((size, dim), dtype=np.float32)
        last = seen + len(block.vectors)
        chosen = places[filled : np.searchsorted(places, last)] - seen
        sample[filled : filled + len(chosen)] = block.vectors[chosen]
        filled, seen = filled + len(chosen), last
    return sample[:filled]


def _kmeans(vectors: FloatArray, count: int) -> FloatArray:
    """So many centroids of vectors (n, dim), unit rows."""
    wrapped: Any = faiss  # its type stubs know only the C++ signatures
    training = wrapped.Kmeans(
        vectors.shape[1], count, niter=ROUNDS, seed=SEED, spherical=True,
        min_points_per_centroid=1, max_points_per_centroid=TRAINED_AT_MOST,
    )  # fmt: skip
    training.train(np.ascontiguousarray(vectors))
    return np.asarray(training.centroids, dtype=np.float32)
