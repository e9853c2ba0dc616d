"""A small encoder, pairs and a recipe to train it by in a second."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_models import write_bert
from torch import Tensor
from transformers import PreTrainedModel

from m3search.training.encoding import Parts
from m3search.training.imitation import Pass, Reading, arrange
from m3search.training.inputs import Batches, Data, Source, Start
from m3search.training.recipe import Objective, Optimiser, Output, Recipe

SUBJECTS = ["lighthouse", "volcano", "bread", "glacier", "coffee", "octopus", "guitar", "zero"]


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


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
    return write_lines(path, lines)


def write_development(folder: Path) -> None:
    """A development set of eight documents with a question on each."""
    texts = [{"_id": s, "text": f"Of the {s}, its use and history."} for s in SUBJECTS]
    queries = [{"_id": f"q-{s}", "text": f"what {s} history"} for s in SUBJECTS]
    write_lines(folder / "corpus.jsonl", texts)
    write_lines(folder / "queries.jsonl", queries)
    (folder / "qrels").mkdir()
    judged = "".join(f"q-{s}\t{s}\t1\n" for s in SUBJECTS)
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")


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


def starting(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with other settings in its table `start`."""
    return replace(recipe, start=replace(recipe.start, **changes))


def read_log(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def measured(line: dict[str, float]) -> dict[str, float]:
    """What a line of the log says of the development sets."""
    return {name: value for name, value in line.items() if name.startswith("dev_")}


def copy_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights as they are now."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """Names of the weights that are not the same to the last bit."""
    assert before.keys() == after.keys()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def in_one_pass(
    texts: list[Reading], backbone: PreTrainedModel, pad_id: int
) -> tuple[Pass, list[int]]:
    """The pass of an encoder through all texts, and which text each of its rows is."""
    passes = arrange(texts, backbone, Parts(1 << 20, price=1 << 20), pad_id)
    (one,) = passes.parts
    return one, passes.order.tolist()
