"""Single tensors out of a checkpoint's weight files, beside what transformers loads of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from m3search.model.damage import reading
from m3search.model.layout import weight_files


def read_tensors(folder: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Those of the named tensors that the folder has, on the CPU, in the precision of the file.

    Raises ArtifactError for a file that cannot be read.
    """
    found: dict[str, Tensor] = {}
    for path in weight_files(folder):
        with reading(
            path,
            expected="weights by name",
            remedy="Copy the file again from the checkpoint it belongs to.",
        ):
            found |= _read_file(path, names)
    return found


def _read_file(path: Path, names: Collection[str]) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if name in names}  # noqa: SIM118
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor for name, tensor in state.items() if name in names}
