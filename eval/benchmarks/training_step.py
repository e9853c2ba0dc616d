"""Time and memory of an optimiser step: FlagEmbedding's M3 trainer beside m3search, on one batch.

    python eval/benchmarks/training_step.py CHECKPOINT
    python eval/benchmarks/training_step.py CHECKPOINT --vocabulary 250002 --queries 8 --group 2
    python eval/benchmarks/training_step.py CHECKPOINT --precision bf16 --queries 32 --group 8

Both sides start from the same weights and get the same token ids; each step is forward, the loss
with all three heads and self-distillation, backward, clipping and fused AdamW. FlagEmbedding 1.4.2
gets one padded tensor of queries and one of passages, as its collator makes them; m3search cuts its
passages into passes of --parts padded tokens. In `equal` all texts have the full length, in `mixed`
lengths are uniform from --shortest of it up to all of it. Dropout is off, so that the losses of the
first step, which are printed, are those of the same model on the same texts.

The sides take turns in every round; the median over the rounds of the ratio of their times counts.
Peak memory, weights included, is measured on the first step in a process of its own for each side.
--vocabulary: in place of CHECKPOINT's encoder one of XLM-R's shape with random weights, few layers
and that many embeddings: FlagEmbedding holds a (passages, length, vocabulary) tensor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from measuring import (
    GB,
    TrainingStep,
    die_first,
    import_theirs,
    make_resident,
    measure_apart,
    peak_bytes,
    publish,
    random_ids,
    warm_up,
)
from torch import nn
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from m3search.cli.ending import run_script
from m3search.evaluation.measures import markdown_table
from m3search.model.modeling import M3Model
from m3search.model.tokenization import Ids, pad
from m3search.training.devices import Devices
from m3search.training.recipe import Batches, Data, Optimiser, Recipe, Source, Start
from m3search.training.start import prepare, start_model

SIDES = ("FlagEmbedding", "m3search")
CASES = ("equal", "mixed")


class Setting(NamedTuple):
    """What both sides are given."""

    queries: int
    group: int
    """passages of a query, the first of them its positive"""
    query_length: int
    passage_length: int
    shortest: float
    """of the full length, that of the shortest text"""
    vocabulary: int | None
    layers: int
    hidden: int
    precision: Literal["fp32", "bf16"]
    parts: int
    """padded tokens of a forward pass of m3search"""

    def draw(self, tokenizer: PreTrainedTokenizerFast, vocabulary: int) -> list[list[Ids]]:
        """Queries and passages."""
        rng = np.random.default_rng(1)
        texts = []
        for count, full in (
            (self.queries, self.query_length),
            (self.queries * self.group, self.passage_length),
        ):
            lengths = rng.integers(max(3, round(full * self.shortest)), full + 1, count)
            lengths[0] = full
            texts.append(random_ids(lengths.tolist(), tokenizer, vocabulary, seed=full))
        return texts


class FlagEmbeddingStep:
    """The optimiser step of FlagEmbedding's M3 model on one batch; each call is the next step."""

    def __init__(
        self,
        recipe: Recipe,
        model: M3Model,
        tokenizer: PreTrainedTokenizerFast,
        queries: Sequence[Ids],
        passages: Sequence[Ids],
    ) -> None:
        self.device = Devices().device
        prepare(model, recipe)
        self.model = import_theirs()(
            {
                "model": model.backbone,
                "colbert_linear": model.colbert_linear,
                "sparse_linear": model.sparse_linear,
            },
            tokenizer=tokenizer,
            temperature=recipe.losses.temperature,
            sentence_pooling_method=model.pooling,
            normalize_embeddings=True,
            unified_finetuning=True,
            use_self_distill=True,
        ).to(self.device)
        self.model.train()
        self._features = [self._pad(texts, tokenizer) for texts in (queries, passages)]
        options = recipe.optimiser
        self._optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=options.learning_rate, fused=True
        )
        self._norm, self._half = options.max_gradient_norm, options.precision == "bf16"

    def _pad(
        self, texts: Sequence[Ids], tokenizer: PreTrainedTokenizerFast
    ) -> dict[str, torch.Tensor]:
        ids, mask = pad(texts, int(tokenizer.pad_token_id or 0))
        features = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        return {name: torch.from_numpy(each).to(self.device) for name, each in features.items()}

    def __call__(self) -> float:
        """Forward, backward, clipping and AdamW; the loss."""
        self._optimiser.zero_grad()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._half):
            loss = self.model(*self._features).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self._norm)
        self._optimiser.step()
        return float(loss.detach())


def build(
    checkpoint: str, setting: Setting, sides: Sequence[str]
) -> dict[str, TrainingStep | FlagEmbeddingStep]:
    """The step of each side, from the same weights and on the same texts."""
    longest = max(setting.query_length, setting.passage_length)
    start = Start(checkpoint, max_length=longest, dropout=0.0)
    model, tokenizer, *_ = start_model(start)
    if setting.vocabulary:
        model = random_model(setting, tokenizer, longest)
    recipe = Recipe(
        stage="finetune",
        start=start,
        data=Data((Source("*"),), ".", setting.query_length, setting.passage_length),
        optimiser=Optimiser(steps=1, precision=setting.precision),
        batches=Batches(sub_batch_tokens=setting.parts),
    )
    texts = setting.draw(tokenizer, model.vocabulary)
    kinds: dict[str, Any] = dict(zip(SIDES, (FlagEmbeddingStep, TrainingStep), strict=True))
    models = [model, *(deepcopy(model) for _ in sides[1:])]
    return {
        side: kinds[side](recipe, own, tokenizer, *texts)
        for side, own in zip(sides, models, strict=True)
    }


def random_model(setting: Setting, tokenizer: PreTrainedTokenizerFast, positions: int) -> M3Model:
    """An encoder of XLM-R's shape with random weights and `setting.vocabulary` embeddings."""
    torch.manual_seed(1)
    padding = int(tokenizer.pad_token_id or 0)
    config = XLMRobertaConfig(
        vocab_size=setting.vocabulary or len(tokenizer),
        hidden_size=setting.hidden,
        num_hidden_layers=setting.layers,
        num_attention_heads=max(1, setting.hidden // 64),
        intermediate_size=4 * setting.hidden,
        max_position_embeddings=positions + padding + 1,
        type_vocab_size=1,
        pad_token_id=padding,
    )
    return M3Model(XLMRobertaModel(config), multi_dim=setting.hidden, pooling="cls")


def measure_time(
    steps: Mapping[str, Callable[[], float]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each side's steps, in turning order."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    seconds: dict[str, list[float]] = {side: [] for side in steps}
    for number in range(rounds):
        for side in SIDES if number % 2 else reversed(SIDES):
            wait()
            started = time.perf_counter()
            steps[side]()
            wait()
            seconds[side].append(time.perf_counter() - started)
    return seconds


def measure_memory(checkpoint: str, trial: Mapping[str, Any]) -> dict[str, float]:
    """GB that the first step of trial["side"] holds at its peak, weights included."""
    die_first()
    (step,) = build(checkpoint, Setting(**trial["setting"]), [trial["side"]]).values()
    weights = make_resident(step.model)
    warm_up(step.model.backbone if isinstance(step, TrainingStep) else step.model.model)
    return {"gb": (weights + peak_bytes(step, step.device)) / GB}


def compare(checkpoint: str, setting: Setting, rounds: int, *, memory: bool) -> dict[str, Any]:
    """Times, memory and losses of both sides, and the ratios of FlagEmbedding to m3search."""
    steps = build(checkpoint, setting, SIDES)
    losses = {side: step() for side, step in steps.items()}  # and the caches are warm
    seconds = measure_time(steps, rounds, next(iter(steps.values())).device)
    theirs, ours = (seconds[side] for side in SIDES)
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    result: dict[str, Any] = {
        "seconds": {side: round(statistics.median(each), 4) for side, each in seconds.items()},
        "time_ratio": round(statistics.median(ratios), 3),
        "time_ratios": [round(ratio, 3) for ratio in ratios],
        "loss_of_the_first_step": losses,
    }
    del steps
    if memory:
        trials = ({"side": side, "setting": setting._asdict()} for side in SIDES)
        found = [measure_apart(__file__, checkpoint, trial) for trial in trials]
        sizes = [each["gb"] if each else None for each in found]
        result["gb"] = dict(zip(SIDES, sizes, strict=True))
        if sizes[0] and sizes[1]:
            result["memory_ratio"] = round(sizes[0] / sizes[1], 3)
    return result


def table(cases: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each case and side."""
    lines = [["lengths", "side", "seconds", "GB", "loss of the first step"]]
    for case, found in cases.items():
        for side in SIDES:
            gb = found.get("gb", {}).get(side)
            told = "" if gb is None else f"{gb:.2f}"
            loss = found["loss_of_the_first_step"][side]
            lines.append([case, side, f"{found['seconds'][side]:.3f}", told, f"{loss:.4f}"])
        memory = found.get("memory_ratio")
        told = "" if memory is None else f"{memory:.2f}"
        lines.append([case, "ratio", f"{found['time_ratio']:.2f}", told, ""])
    return markdown_table(lines)


def main() -> None:
    """Measures as the command line asks, and prints."""
    asked = _parse()
    if asked.trial:
        print(json.dumps(measure_memory(asked.checkpoint, asked.trial)))
        return
    cases = {}
    for case in asked.cases:
        options = {name: getattr(asked, name) for name in Setting._fields}
        if case == "equal":
            options["shortest"] = 1.0
        print(f"{case} lengths ...", file=sys.stderr, flush=True)
        cases[case] = compare(
            asked.checkpoint, Setting(**options), asked.rounds, memory=asked.memory
        )
    publish(asked, {"cases": cases}, table(cases))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", help="an encoder or an M3 checkpoint")
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--group", type=int, default=2, help="passages of a query")
    parser.add_argument("--query-length", type=int, default=32, help="tokens")
    parser.add_argument("--passage-length", type=int, default=128, help="tokens")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--shortest", type=float, default=0.25, help="share of the full length")
    parser.add_argument("--vocabulary", type=int, help="embeddings of a random encoder")
    parser.add_argument("--layers", type=int, default=2, help="of the random encoder")
    parser.add_argument("--hidden", type=int, default=256, help="of the random encoder")
    parser.add_argument("--parts", type=int, default=8192, help="padded tokens of a pass")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="times alone")
    parser.add_argument("--out", type=Path, help="the JSON goes here instead of stdout")
    parser.add_argument("--trial", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    run_script(main)
