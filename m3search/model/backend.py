"""What computes the states of a backbone; this module is free of what does."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, get_args

from m3search.errors import ConfigError

Backend = Literal["torch", "openvino"]


def check_backend(backend: str) -> None:
    """ConfigError where there is none of that name, or what it needs is not installed."""
    if backend not in get_args(Backend):
        raise ConfigError.unknown("backend", str(backend), get_args(Backend))
    if backend == "openvino" and find_spec("openvino") is None:
        raise ConfigError(
            "backend",
            expected="the package openvino, for the backend of that name",
            found="none",
            remedy="Install the extra (pip install 'm3search[openvino]'), or take the backend "
            "torch.",
        )
