"""Processes started by a launcher train together, without a word about devices."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from m3search.errors import ConfigError
from m3search.training import devices
from m3search.training.devices import Devices
from m3search.training.loop import train
from m3search.training.recipe import Recipe

RECIPE = """
stage = "finetune"
[start]
checkpoint = "{backbone}"
multi_dim = 8
pooling = "mean"
dropout = 0.0
[data]
folder = "{data}"
query_max_length = 16
passage_max_length = 32
queries_per_passage = 2
negatives = 1
[[data.sources]]
files = "*.jsonl"
[batches]
passages = 4
neighbours = 2
sub_batch_tokens = 64
[objective]
self_distill_start_step = 2
[optimiser]
steps = 6
learning_rate = 1e-3
precision = "fp32"
seed = 3
"""


def launch(recipe: Path, out: Path) -> subprocess.CompletedProcess[str]:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "m3search", "train", str(recipe), "--out", str(out)]
    return subprocess.run(
        [sys.executable, "-m", *launcher, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_launched_processes_train_as_one(recipe: Recipe, backbone: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(backbone=backbone, data=recipe.data.folder), encoding="utf-8")
    done = launch(path, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint in") == 1
    assert "2 processes (cpu)" in done.stderr
    alone = replace(recipe, start=replace(recipe.start, dropout=0.0, max_length=None))
    train(alone, tmp_path / "one")
    found, wanted = (load_file(tmp_path / n / "model.safetensors") for n in ("two", "one"))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-3)


def test_processes_that_do_not_know_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of several that a launcher started, without what the others are found by."""
    import accelerate

    class Lonely:
        def __init__(self, **_: object) -> None:
            self.num_processes = 1

    monkeypatch.setattr(accelerate, "Accelerator", Lonely)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"3 processes.*found 1.*torchrun"):
        Devices()


def test_gradients_travel_together_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "MESSAGE", 10)
    sizes, halves = (4, 5, 2, 30, 1, 1, 1), (5,)
    made = [
        torch.nn.Parameter(torch.zeros(size, dtype=torch.half if n in halves else torch.float))
        for n, size in enumerate(sizes)
    ]
    found = [[each.numel() for each in run] for run in devices._buckets(made)]
    assert found == [[4, 5], [2], [30], [1], [1], [1]]
    assert list(devices._buckets([])) == []
