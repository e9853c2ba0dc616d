"""A small encoder, pairs and a recipe to train it by in a second."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_models import write_bert

from m3search.training.recipe import (
    Batches,
    Data,
    Objective,
    Optimiser,
    Output,
    Recipe,
    Source,
    Start,
)

SUBJECTS = ["lighthouse", "volcano", "bread", "glacier", "coffee", "octopus", "guitar", "zero"]


def write_pairs(path: Path, negatives: bool = False) -> Path:
    """Three questions on each of 16 passages."""
    lines = []
    for subject in SUBJECTS:
        for kind in ("history", "use"):
            text = f"The {kind} of the {subject}: a passage that tells of {subject} and {kind}."
            for word in ("what", "how", "why"):
                neg = [f"Nothing about {subject}."] if negatives else []
                query = f"{word} {subject} {kind}"
                lines.append({"query": query, "pos": [text], "neg": neg, "title": subject})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


def write_backbone(folder: Path, sample_texts: list[str]) -> Path:
    """A plain BERT encoder of 128 positions."""
    data = write_pairs(folder / "pairs.jsonl")
    texts = [*sample_texts[::8], *data.read_text(encoding="utf-8").splitlines()]
    return write_bert(folder / "plain", texts)


def make_recipe(backbone: Path, data: Path) -> Recipe:
    """Six steps on pairs that are written into the folder `data`."""
    write_pairs(data / "pairs.jsonl", negatives=True)
    return Recipe(
        stage="finetune",
        start=Start(str(backbone), multi_dim=8, pooling="mean", max_length=128, dropout=0.1),
        data=Data((Source("*.jsonl"),), str(data), 16, 32, queries_per_passage=2, negatives=1),
        optimiser=Optimiser(steps=6, learning_rate=1e-3, precision="fp32", seed=3),
        batches=Batches(passages=4, neighbours=2, sub_batch_tokens=64),
        objective=Objective(self_distill_start_step=2),
        output=Output(log_every=1, save_every=2),
    )
