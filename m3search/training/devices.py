"""The processes of a training run: what each of them does, and what they tell each other.

One process needs no set-up. Several are started by `torchrun` or `accelerate launch`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from m3search.errors import ConfigError

MESSAGE = 1 << 24
"""numbers that are summed over processes at a time"""
PATIENCE = timedelta(days=1)
"""how long processes wait for one that mines or measures for all"""


class Devices:
    """This process among all, and its device."""

    def __init__(self) -> None:
        self._accelerator: Any = _accelerator()
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def own(self, size: int) -> slice:
        """This process's part of `size` things; the parts differ by one at most."""
        return slice(size * self.rank // self.count, size * (self.rank + 1) // self.count)

    def spare_cores(self, most: int) -> int:
        """Cores that this process may use beside its own where a GPU computes; none on a CPU."""
        if self.device.type != "cuda":
            return 0
        return max(0, min(most, len(os.sched_getaffinity(0)) // self.count - 1))

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, one after the other along the first axis, no gradient."""
        if self.count == 1:
            return tensor.detach()
        sizes = self._accelerator.gather(torch.tensor([len(tensor)], device=self.device)).tolist()
        if not any(sizes):
            return tensor.detach()
        missing = max(sizes) - len(tensor)
        padding = [0, 0] * (tensor.ndim - 1) + [0, missing]
        gathered = self._accelerator.gather(
            nn.functional.pad(tensor.detach(), padding).contiguous()
        )
        blocks = gathered.split(max(sizes))
        return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])

    def own_share(self, gathered: Tensor, size: int) -> Tensor:
        """Of gradients by what `gather` gave: their sum over all processes, this one's part.

        size: length of the tensor that this process gave to `gather`.
        """
        if self.count == 1:
            return gathered
        sizes = self._accelerator.gather(torch.tensor([size], device=self.device)).tolist()
        start = sum(sizes[: self.rank])
        total: Tensor = self._accelerator.reduce(gathered.contiguous(), reduction="sum")
        return total[start : start + size]

    def sum(self, values: Iterable[float]) -> list[float]:
        """Numbers summed over all processes."""
        tensor = torch.tensor(list(values), dtype=torch.float32, device=self.device)
        if self.count > 1:
            tensor = self._accelerator.reduce(tensor, reduction="sum")
        found: list[float] = tensor.tolist()
        return found

    def sum_gradients(self, model: nn.Module) -> None:
        """Replaces each gradient by its sum over all processes, many of them in one message."""
        if self.count == 1:
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        used = self.sum(float(parameter.grad is not None) for parameter in parameters)
        known = [p for p, processes in zip(parameters, used, strict=True) if processes]
        for bucket in _buckets(known):
            own = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([gradient.flatten() for gradient in own])
            total = self._accelerator.reduce(flat, reduction="sum")
            for parameter, part in zip(
                bucket, total.split([p.numel() for p in bucket]), strict=True
            ):
                parameter.grad = part.view_as(parameter)

    def wait(self) -> None:
        """Returns when all processes have come here."""
        self._accelerator.wait_for_everyone()

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """A block that the others begin when the first process has ended it: what that has written
        into a file they only read."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The parameters in runs of one type and at most `MESSAGE` numbers, or of one parameter."""
    run: list[nn.Parameter] = []
    for parameter in parameters:
        size = sum(each.numel() for each in run) + parameter.numel()
        if run and (size > MESSAGE or parameter.dtype != run[0].dtype):
            yield run
            run = []
        run.append(parameter)
    if run:
        yield run


def _accelerator() -> Any:
    try:
        from accelerate import Accelerator, InitProcessGroupKwargs
    except ImportError as error:
        raise ConfigError(
            "training",
            expected="the package accelerate",
            found="none",
            remedy="Install the extra: pip install 'm3search[train]'.",
        ) from error
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    # without being told, accelerate lets processes that have no GPU run alone, each for itself
    alone = launched > 1 and not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=alone, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    if accelerator.num_processes != launched:
        raise ConfigError(
            "training",
            expected=f"{launched} processes, as the launcher started (WORLD_SIZE)",
            found=f"{accelerator.num_processes}, as accelerate counts them",
            remedy="Start them by torchrun --nproc-per-node N.",
        )
    return accelerator
