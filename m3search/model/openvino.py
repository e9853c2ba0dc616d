"""A backbone's states by OpenVINO, on CPUs sooner than by PyTorch (the extra `m3search[openvino]`).

The backbone is traced once and compiled for the CPU at hand; nothing is written.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from m3search.errors import ConfigError
from m3search.model.checkpoint import quiet_transformers

_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVinoStates:
    """The states that a backbone computes, in float32 or bfloat16, on the CPU.

    It takes as many threads as PyTorch does. Any number of threads may call it; one at a time
    computes.
    """

    def __init__(self, backbone: PreTrainedModel, dtype: torch.dtype) -> None:
        """ConfigError where it does not compute in that precision."""
        import openvino  # of an extra, which `check_backend` looks for

        if dtype not in _HINTS:
            raise ConfigError(
                "dtype",
                expected="float32 or bfloat16, in which OpenVINO computes",
                found=str(dtype).removeprefix("torch."),
                remedy="Leave dtype out, or take the backend torch.",
            )
        settings = {
            "PERFORMANCE_HINT": "LATENCY",  # all threads for one batch
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": _HINTS[dtype],
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled = openvino.Core().compile_model(_trace(openvino, backbone), "CPU", settings)
        self._computing = threading.Lock()

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L, hidden) float32 of a padded batch: input_ids, attention_mask (B, L) int64."""
        with self._computing:
            states = self._compiled([input_ids.numpy(), attention_mask.numpy()])[0]
        return torch.from_numpy(np.asarray(states, dtype=np.float32))


class _Traced(nn.Module):
    """The backbone as a function of two tensors to one."""

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.backbone(input_ids=input_ids, attention_mask=attention_mask)[0]
        return states


def _trace(openvino: Any, backbone: PreTrainedModel) -> Any:
    """OpenVINO's form of the backbone, for batches of any shape."""
    ids = torch.ones((2, 16), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0  # without padding the mask may be traced as none
    with warnings.catch_warnings(), quiet_transformers(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of tracing, about shapes that are no constants here
        return openvino.convert_model(_Traced(backbone).eval(), example_input=(ids, mask))
