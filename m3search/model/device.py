"""Where a model runs, and at which precision."""

from __future__ import annotations

import torch

from m3search.errors import ConfigError
from m3search.model.backend import check_backend

_DTYPES = {
    "float32": torch.float32, "fp32": torch.float32,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
}  # fmt: skip


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A precision by torch's type or by its name: float32, bf16, ..."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise ConfigError.unknown("dtype", dtype, _DTYPES)
    return _DTYPES[dtype]


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device has instructions for it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    if device.type == "cpu" and any(
        getattr(torch.cpu, test, bool)()  # torch has no public name for the question
        for test in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ):
        return torch.bfloat16
    return torch.float32


def best_device() -> torch.device:
    """A CUDA GPU, else an Apple one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_device(device: str | torch.device | None, backend: str) -> torch.device:
    """The one asked for, else the best; ConfigError where the backend does not run there."""
    check_backend(backend)
    if backend == "torch":
        return torch.device(device) if device is not None else best_device()
    place = torch.device(device or "cpu")
    if place.type != "cpu":
        raise ConfigError(
            "device",
            expected="cpu, where OpenVINO computes",
            found=str(place),
            remedy="Leave the device out, or take the backend torch.",
        )
    return place
