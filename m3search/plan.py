"""What a search was asked to do, checked once."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import SupportsIndex, TypeAlias, cast, get_args

from m3search.errors import ConfigError
from m3search.records import DEFAULT_WEIGHTS, MODES, Candidates, Missing, Mode

GivenWeights: TypeAlias = Sequence[float] | Mapping[str, float] | Mapping[Mode, float]
Weights: TypeAlias = GivenWeights | None
MOST_WEIGHT = 1e9
"""of a mode; beyond it sums of scores come near the end of what float32 holds"""


@dataclass(frozen=True)
class Plan:
    """One way to search; `check` makes it from what a caller gave."""

    k: int
    depth: int
    """documents taken from each first stage, at least k"""
    modes: tuple[Mode, ...]
    """the modes asked, in the order of MODES"""
    weights: Mapping[Mode, float]
    """by mode asked, finite, >= 0; where one mode is asked it weighs 1"""
    missing: Missing
    candidates: Candidates

    @classmethod
    def check(
        cls,
        k: SupportsIndex,
        depth: SupportsIndex,
        modes: Sequence[str],
        weights: Weights,
        missing: str,
        candidates: str,
        default: Sequence[float] = DEFAULT_WEIGHTS,
    ) -> Plan:
        """The plan, or ConfigError for the first setting that is out of range.

        default: the weights of dense, sparse and multi where none are given.
        """
        asked = _checked_modes(modes)
        size = _checked_count("k", k)
        return cls(
            k=size,
            depth=max(_checked_count("depth", depth), size),
            modes=asked,
            weights=_checked_weights(default if weights is None else weights, asked),
            missing=cast(Missing, _checked_name("missing", missing, get_args(Missing))),
            candidates=cast(
                Candidates, _checked_name("candidates", candidates, get_args(Candidates))
            ),
        )

    @property
    def retrieves_only(self) -> bool:
        """Whether one mode retrieves its own best, with nothing to rerank."""
        return len(self.modes) == 1 and self.candidates == "union"

    @property
    def first_stages(self) -> tuple[Mode, ...]:
        """The modes that give the candidates."""
        if self.retrieves_only:
            return self.modes
        if self.candidates == "dense":
            return ("dense",)
        return tuple(mode for mode in self.modes if mode != "multi")

    def clip(self, documents: int) -> Plan:
        """The same plan with k and depth no larger than a corpus of that many documents."""
        return replace(self, k=min(self.k, documents), depth=min(self.depth, documents))


def _checked_count(name: str, value: SupportsIndex) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ConfigError(
            name, expected="a whole number from 1 up", found=repr(value), remedy="Raise it."
        )
    return count


def _checked_name(where: str, value: str, valid: Sequence[str]) -> str:
    if value not in valid:
        raise ConfigError.unknown(where, str(value), valid)
    return value


def _checked_modes(modes: Sequence[str]) -> tuple[Mode, ...]:
    if isinstance(modes, str) or not modes:
        raise ConfigError(
            "modes",
            expected=f"a sequence of one or more of {', '.join(MODES)}",
            found=repr(modes),
            remedy="For example --modes dense,sparse, in Python ('dense', 'sparse').",
        )
    for mode in modes:
        _checked_name("modes", mode, MODES)
    return tuple(mode for mode in MODES if mode in modes)


def _checked_weights(weights: GivenWeights, modes: tuple[Mode, ...]) -> dict[Mode, float]:
    given = _by_mode(weights, modes)
    for mode, weight in given.items():
        if not 0 <= weight <= MOST_WEIGHT:
            raise _bad_weights(f"numbers from 0 to {MOST_WEIGHT:.0e}", f"{weight!r} for {mode}")
    if len(modes) == 1:
        return dict.fromkeys(modes, 1.0)
    if not any(given.values()):
        raise _bad_weights(f"a weight above 0 for {' or '.join(modes)}", "only zeros")
    return given


def _by_mode(weights: GivenWeights, modes: tuple[Mode, ...]) -> dict[Mode, float]:
    """The weight of every mode asked, as given."""
    if isinstance(weights, Mapping):
        for name in weights:
            _checked_name("weights", name, MODES)
        absent = [mode for mode in modes if mode not in weights]
        if absent:
            raise _bad_weights("a weight for every mode asked", f"none for {', '.join(absent)}")
        pairs = [(mode, weights[mode]) for mode in modes]
    else:
        if len(weights) != len(MODES):
            raise _bad_weights("three numbers: dense, sparse, multi", repr(weights))
        pairs = [(mode, weights[MODES.index(mode)]) for mode in modes]
    try:
        return {mode: float(weight) for mode, weight in pairs}
    except (TypeError, ValueError) as error:
        raise _bad_weights("numbers", repr(weights)) from error


def _bad_weights(expected: str, found: str) -> ConfigError:
    remedy = "For example 1, 0.3, 1; without any, those of the model hold."
    return ConfigError("weights", expected=expected, found=found, remedy=remedy)
