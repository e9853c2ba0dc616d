"""Checks of a recipe's numbers: a ValueError names the setting, its value and what it may be.

`m3search.config.parse` turns it into a ConfigError that says where the setting stands.
"""

from __future__ import annotations

import math


def check_least(table: object, least: int, *names: str) -> None:
    """Every named setting is None or a finite number from `least` up."""
    for name in names:
        value = getattr(table, name)
        if value is not None and not least <= value < math.inf:
            raise ValueError(f"{name} = {value}, not at least {least}")


def check_most(table: object, most: int, *names: str) -> None:
    """Every named setting is None or a number up to `most`."""
    for name in names:
        value = getattr(table, name)
        if value is not None and value > most:
            raise ValueError(f"{name} = {value}, not at most {most}")


def check_positive(table: object, *names: str) -> None:
    """Every named setting is a finite number above 0."""
    for name in names:
        value = getattr(table, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name} = {value}, not above 0")


def check_weights(table: object, *names: str) -> None:
    """Every named setting is None or numbers from 0 up."""
    for name in names:
        weights = getattr(table, name)
        if weights is not None and not all(0 <= weight < math.inf for weight in weights):
            raise ValueError(f"{name} = {weights}, not all at least 0")


def check_share(table: object, *names: str, below: bool = False) -> None:
    """Every named setting is from 0 to 1, with `below` less than 1."""
    for name in names:
        value = getattr(table, name)
        if not 0 <= value <= 1 or (below and value == 1):
            raise ValueError(f"{name} = {value}, not from 0 to {'below 1' if below else '1'}")
