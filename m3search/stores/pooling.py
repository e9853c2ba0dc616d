"""Token pooling: of the vectors of a text, those that are alike become one, their mean."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from m3search.errors import ConfigError
from m3search.records import FloatArray

TOGETHER = 256
"""vectors that can be pooled with each other; clustering takes time in their square"""


def check_pooling(factor: int) -> int:
    """The factor, or ConfigError."""
    if factor < 1:
        raise ConfigError(
            "pooling",
            expected="a whole number from 1 up: token vectors that become one on the mean",
            found=str(factor),
            remedy="1 keeps every vector, 2 halves their number.",
        )
    return factor


def pool_vectors(vectors: FloatArray, factor: int) -> FloatArray:
    """The n unit vectors (n, dim) as ceil(n / factor), the unit means of clusters of them.

    Hierarchical clustering by Ward's criterion (Clavié et al. 2024, arXiv 2409.14683), of
    neighbours in the text only: up to 256 vectors at a time. Clusters come in the order of their
    first vector.
    """
    if factor == 1 or len(vectors) < 2:
        return vectors
    parts = [
        _pool(vectors[start : start + TOGETHER], factor)
        for start in range(0, len(vectors), TOGETHER)
    ]
    return np.concatenate(parts)


def _pool(vectors: FloatArray, factor: int) -> FloatArray:
    most = -(-len(vectors) // factor)
    if most == len(vectors):
        return vectors
    tree = linkage(vectors.astype(np.float64), method="ward")
    labels = fcluster(tree, most, criterion="maxclust")
    _, firsts, places = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(firsts))[places]
    sums = np.zeros((len(firsts), vectors.shape[1]), dtype=np.float64)
    np.add.at(sums, order, vectors)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    means: FloatArray = (sums / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return means
