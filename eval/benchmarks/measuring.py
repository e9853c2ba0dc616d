"""What the benchmarks of training share: steps on given token ids, and their memory."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import io
import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from m3search.errors import ConfigError
from m3search.model.machine import machine as find_machine
from m3search.model.modeling import M3Model
from m3search.model.tokenization import Ids, Tokenization, Tokenized
from m3search.training.devices import Devices
from m3search.training.drawing import Batch
from m3search.training.finetuning import Finetuning
from m3search.training.optimiser import make_optimiser
from m3search.training.recipe import Recipe
from m3search.training.start import prepare

GB = 1e9


class GivenIds(Tokenization):
    """A tokenization that knows the ids of its texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, known: Mapping[str, Ids]) -> None:
        super().__init__(tokenizer)
        self._known = known

    def encode(self, texts: Sequence[str], max_length: int, mcls: bool = False) -> Tokenized:
        """The known ids of each text, whatever its length."""
        return Tokenized([self._known[text] for text in texts], np.zeros(len(texts), dtype=bool))


class TrainingStep:
    """The trainer's optimiser step on one batch of token ids; each call is the next step."""

    def __init__(
        self,
        recipe: Recipe,
        model: M3Model,
        tokenizer: PreTrainedTokenizerFast,
        queries: Sequence[Ids],
        passages: Sequence[Ids],
    ) -> None:
        """The positive of query q is passage q * (passages per query)."""
        devices = Devices()
        self.device = devices.device
        self.model = model.to(self.device)
        prepare(model, recipe)
        names = [f"query {n}" for n in range(len(queries))], [str(n) for n in range(len(passages))]
        known = dict(zip((*names[0], *names[1]), (*queries, *passages), strict=True))
        nobody = np.empty((len(queries), 0))
        batch = Batch(
            *names,
            np.arange(len(queries)) * (len(passages) // len(queries)),
            np.zeros((len(queries), len(passages)), dtype=bool),
            nobody.astype(np.int64),
            nobody.astype(np.float32),
        )
        self._finetuning = Finetuning(recipe, model, GivenIds(tokenizer, known), devices)
        self._texts = self._finetuning.read(batch)
        self._optimiser = make_optimiser(model, recipe)
        self._recipe, self._step = recipe, 0

    def __call__(self) -> float:
        """Forward, backward, clipping and AdamW; the loss."""
        self._optimiser.zero_grad()
        metrics = self._finetuning.accumulate(self._step, self._texts)
        parameters = [each for each in self.model.parameters() if each.requires_grad]
        nn.utils.clip_grad_norm_(parameters, self._recipe.optimiser.max_gradient_norm)
        self._optimiser.step()
        self._step += 1
        return metrics["loss"]


def random_ids(
    lengths: Sequence[int], tokenizer: PreTrainedTokenizerFast, vocabulary: int, seed: int
) -> list[Ids]:
    """A text of random pieces for each length in tokens, between the two special tokens."""
    rng = np.random.default_rng(seed)
    first, last = tokenizer("", add_special_tokens=True)["input_ids"]
    pieces = np.setdiff1d(np.arange(vocabulary), tokenizer.all_special_ids)
    return [np.array([first, *rng.choice(pieces, n - 2), last], np.int64) for n in lengths]


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Bytes that `work` holds at its peak beyond those that were held before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if platform.system() != "Linux":
        where, remedy = "the device", "Run it on Linux, or on a GPU."
        raise ConfigError(where, expected="Linux", found=platform.system(), remedy=remedy)
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not serve the work for nothing
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def resident(name: str) -> int:
    """Bytes of this process in memory: now by VmRSS, at the peak by VmHWM. On Linux alone."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def make_resident(model: nn.Module) -> int:
    """The bytes of the weights, which are in memory from here on, not from where they are used."""
    for weight in model.parameters():
        weight.data = weight.data.clone()
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


@torch.no_grad()
def warm_up(backbone: nn.Module) -> None:
    """A pass over one short text, so that no measured one loads what the first loads."""
    device = next(backbone.parameters()).device
    ids = torch.ones((1, 16), dtype=torch.int64, device=device)
    backbone(input_ids=ids, attention_mask=ids)


def die_first() -> None:
    """Where memory ends, Linux ends this process before any other."""
    if platform.system() == "Linux":
        Path("/proc/self/oom_score_adj").write_text("1000")


def measure_apart(script: str, checkpoint: str, trial: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `script CHECKPOINT --trial` prints in a process of its own; None without the memory.

    Where that process ends with an error, its own words stand on stderr and this one ends, too.
    """
    # large blocks come from the system and go back to it, so that resident is what is held
    sizes = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 25)}
    command = [sys.executable, script, checkpoint, "--trial", json.dumps(trial)]
    done = subprocess.run(
        command, env=os.environ | sizes, capture_output=True, text=True, check=False
    )
    if done.returncode < 0 or "OutOfMemoryError" in done.stderr or "allocate memory" in done.stderr:
        return None
    if done.returncode:
        sys.stderr.write(done.stderr)
        sys.exit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def no_flagembedding(error: ImportError) -> ConfigError:
    """The error for a benchmark that cannot be run without it."""
    return ConfigError(
        "FlagEmbedding",
        expected="the package, which this compares with",
        found=str(error),
        remedy="Install it: pip install -c constraints.txt -e '.[test]'.",
    )


def import_theirs() -> Any:
    """FlagEmbedding's M3 model for training; ConfigError where it is not installed."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            from FlagEmbedding.finetune.embedder.encoder_only.m3 import modeling
        except ImportError as error:
            raise no_flagembedding(error) from error
    return modeling.EncoderOnlyEmbedderM3Model


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"device": gpu or "cpu", **find_machine(), "torch": torch.__version__}


def settings_of(asked: argparse.Namespace) -> dict[str, Any]:
    """What a result was made with; of paths the names alone, as the rest says nothing elsewhere."""
    return {
        name: _name(value) for name, value in vars(asked).items() if name not in ("out", "trial")
    }


def _name(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_name(each) for each in value]
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).is_dir()):
        return Path(value).name
    return value


def publish(asked: argparse.Namespace, result: Mapping[str, Any], shown: str) -> None:
    """The table for people on stderr; the JSON in the file `asked.out` or on stdout."""
    print(shown, file=sys.stderr)
    text = json.dumps({"machine": machine(), "settings": settings_of(asked), **result}, indent=2)
    if asked.out is None:
        print(text)
    else:
        asked.out.write_text(text + "\n", encoding="utf-8")
