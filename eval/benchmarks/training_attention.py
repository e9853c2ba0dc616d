"""How long a text must be for PyTorch's fused attention to pay in training, on this processor.

    python eval/benchmarks/training_attention.py CHECKPOINT

A forward and backward pass over --tokens tokens in texts of each length, once with the fused
attention and once with matrix products of whole heads, in turns; the median over the rounds of the
ratio of their times counts, products over fused. m3search.training.passes.SHORT holds the lengths
up to which a training takes products; that the numbers are the same both ways is tested.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from measuring import publish
from transformers import PreTrainedModel

from m3search.cli.ending import run_script
from m3search.evaluation.measures import markdown_table
from m3search.model.checkpoint import load_backbone
from m3search.training.passes import SHORT
from m3search.training.start import set_dropout

WAYS = ("sdpa", "eager")
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def seconds(backbone: PreTrainedModel, ids: torch.Tensor, way: str, dtype: torch.dtype) -> float:
    """Of one forward and backward pass."""
    backbone.set_attn_implementation(way)
    backbone.zero_grad()
    mask = torch.ones_like(ids)
    mask[::2, ids.shape[1] // 2 :] = 0
    started = time.perf_counter()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        states = backbone(input_ids=ids, attention_mask=mask)[0]
    states.float().square().mean().backward()
    return time.perf_counter() - started


def compare(
    backbone: PreTrainedModel, length: int, precision: str, asked: argparse.Namespace
) -> dict[str, Any]:
    """The row of a length and a precision."""
    dtype, texts = PRECISIONS[precision], max(2, asked.tokens // length)
    ids = torch.randint(1000, int(backbone.config.vocab_size), (texts, length))
    for way in WAYS:
        seconds(backbone, ids, way, dtype)
    rounds = [
        {way: seconds(backbone, ids, way, dtype) for way in WAYS} for _ in range(asked.rounds)
    ]
    return {
        "precision": precision,
        "length": length,
        "texts": texts,
        "ratio": statistics.median(each["eager"] / each["sdpa"] for each in rounds),
        "taken": "products" if length <= SHORT[dtype] else "fused",
        "rounds": rounds,
    }


def main() -> None:
    """Measures as the command line asks, and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 96, 128, 256, 384, 512])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    asked = parser.parse_args()
    backbone = load_backbone(asked.checkpoint).train()
    set_dropout(backbone, 0.0)
    rows = [compare(backbone, n, name, asked) for name in asked.precisions for n in asked.lengths]
    shown = [[r["precision"], str(r["length"]), f"{r['ratio']:.2f}", r["taken"]] for r in rows]
    titles = ["precision", "tokens", "products / fused", "taken"]
    publish(asked, {"rows": rows}, markdown_table([titles, *shown]))


if __name__ == "__main__":
    run_script(main)
