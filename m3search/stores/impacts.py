"""How the weights of posting lists are stored: as they are, in 16 bits, or in 8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from m3search.errors import ConfigError
from m3search.records import FloatArray

OCTAVE = 16
"""codes of 8 bits from a weight to its double"""
TOP = 5.0
"""the highest code stands for two to this"""


@dataclass(frozen=True)
class Impacts:
    """One way to store weights; none needs to know others, so lists can be joined as they are."""

    name: str
    kind: str
    """of the store, in the manifest"""
    dtype: str
    encode: Callable[[FloatArray], npt.NDArray[Any]]
    table: FloatArray
    """(codes,) float32, the weight of each code; empty where the weights are stored themselves"""

    def decode(self, codes: npt.NDArray[Any]) -> FloatArray:
        """The weights (n,) float32 that codes (n,) stand for."""
        return self.table[codes] if len(self.table) else np.asarray(codes, dtype=np.float32)


def _to_halves(weights: FloatArray) -> npt.NDArray[np.uint16]:
    """The bits of the nearest float16, but neither 0 nor infinity."""
    halves = np.clip(weights, np.float32(2.0**-24), np.float32(65504)).astype("<f2")
    bits: npt.NDArray[np.uint16] = halves.view("<u2")
    return bits


def _to_octaves(weights: FloatArray) -> npt.NDArray[np.uint8]:
    """The nearest of 255 codes whose weights rise by the sixteenth root of two."""
    steps = np.rint((np.log2(weights.astype(np.float64)) - TOP) * OCTAVE) + 255
    codes: npt.NDArray[np.uint8] = np.clip(steps, 1, 255).astype(np.uint8)
    return codes


def _octaves() -> FloatArray:
    weights: FloatArray = (2.0 ** ((np.arange(256) - 255) / OCTAVE + TOP)).astype(np.float32)
    return weights


FP32 = Impacts("fp32", "lists", "<f4", lambda weights: weights, np.zeros(0, np.float32))
IMPACTS = {
    each.name: each
    for each in (
        FP32,
        Impacts(
            "fp16", "lists-fp16", "<u2", _to_halves,
            np.arange(1 << 16, dtype="<u2").view("<f2").astype(np.float32),
        ),
        Impacts("log8", "lists-log8", "|u1", _to_octaves, _octaves()),
    )
}  # fmt: skip
"""by name. Of a weight, fp16 keeps 11 bits from 6e-5 on, log8 is off by 2.2 % at most from 0.0005
to 32; what lies outside is stored as the nearest that there is."""
OLDER = {each.kind.replace("lists", "csc"): each for each in IMPACTS.values()}
"""by kind of the stores that have a list for every term of the vocabulary, empty or not"""
BY_KIND = {**{each.kind: each for each in IMPACTS.values()}, **OLDER}


def find_impacts(name: str) -> Impacts:
    """The way of that name, or ConfigError."""
    if name not in IMPACTS:
        raise ConfigError.unknown("sparse codec", name, tuple(IMPACTS))
    return IMPACTS[name]
