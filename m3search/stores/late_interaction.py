"""MaxSim of one query with documents as they are stored, a few vectors decoded at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from m3search.stores.compiling import compiled, compiled_sums

Array = npt.NDArray[Any]

VECTORS = 64
"""decoded at a time: 32 kB of float32 at 128 dimensions, which stays in a core's nearest cache"""
HALF_BIAS = np.float32(2.0**112)
"""what a float16's exponent lacks when its bits are put in the place of a float32's"""
SIGN, REST = np.uint32(0x8000), np.uint32(0x7FFF)
TO_SIGN, TO_REST = np.uint32(16), np.uint32(13)


@compiled_sums
def raise_best(best: Array, query: Array, vectors: Array) -> None:
    """Raises best (m,) to the highest product of each query vector (m, dim) with vectors (n, dim).

    Four vectors at a time, so that a query vector is read once for four.
    """
    dim = query.shape[1]
    fours = len(vectors) // 4 * 4
    for i in range(len(query)):
        highest = best[i]
        for j in range(0, fours, 4):
            a = b = c = d = np.float32(0)
            for x in range(dim):
                value = query[i, x]
                a += value * vectors[j, x]
                b += value * vectors[j + 1, x]
                c += value * vectors[j + 2, x]
                d += value * vectors[j + 3, x]
            highest = max(highest, a, b, c, d)
        for j in range(fours, len(vectors)):
            a = np.float32(0)
            for x in range(dim):
                a += query[i, x] * vectors[j, x]
            highest = max(highest, a)
        best[i] = highest


@compiled
def decode_halves(bits: Array, values: Array) -> None:
    """Writes float16, as uint16 (n,), to values (n,) float32, exactly.

    Values below the least normal float16, too: the product makes them normal.
    """
    raw = values.view(np.uint32)
    for i in range(len(bits)):
        half = np.uint32(bits[i])
        raw[i] = ((half & SIGN) << TO_SIGN) | ((half & REST) << TO_REST)
    for i in range(len(bits)):
        values[i] *= HALF_BIAS


@compiled
def decode_levels(scales: Array, levels: Array, dim: int, values: Array) -> None:
    """Writes scale * level to values (n * dim,) float32; scales (n,), levels (n * dim,) int8."""
    for i in range(len(scales)):
        for x in range(i * dim, (i + 1) * dim):
            values[x] = scales[i] * np.float32(levels[x])


@compiled
def mean(values: Array) -> float:
    """The mean of values (n,), added in float64 from the first to the last."""
    total = 0.0
    for i in range(len(values)):
        total += values[i]
    return total / len(values)


@compiled
def maxsim_halves(query: Array, bits: Array) -> float:
    """`m3search.scoring.maxsim` of query (m, dim) float32 with float16 vectors (n * dim,).

    The bits of these come as uint16.
    """
    dim = query.shape[1]
    best = np.full(len(query), -np.inf, np.float32)
    values = np.empty(VECTORS * dim, np.float32)
    for start in range(0, len(bits), len(values)):
        part = bits[start : start + len(values)]
        decode_halves(part, values)
        raise_best(best, query, values[: len(part)].reshape(len(part) // dim, dim))
    return mean(best)


@compiled
def maxsim_levels(query: Array, scales: Array, levels: Array) -> float:
    """As `maxsim_halves`; vectors are scales (n,) float32 times levels (n * dim,) int8."""
    dim = query.shape[1]
    best = np.full(len(query), -np.inf, np.float32)
    values = np.empty(VECTORS * dim, np.float32)
    for start in range(0, len(scales), VECTORS):
        part = scales[start : start + VECTORS]
        decode_levels(part, levels[start * dim : (start + len(part)) * dim], dim, values)
        raise_best(best, query, values[: len(part) * dim].reshape(len(part), dim))
    return mean(best)
