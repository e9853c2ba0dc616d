"""Padding in training batches, and what it costs: random batches beside those of m3search.

    python eval/benchmarks/training_batches.py DATA/train --tokenizer CHECKPOINT
    python eval/benchmarks/training_batches.py DATA/train --tokenizer CHECKPOINT --steps-length 8192

The passages of all pair files of a folder, without titles, --per-file of each at most, in batches:

    random             any --batch passages together, each batch padded to its longest text
    random, one file   the same with the passages of a batch from one file
    buckets            batches of m3search (one file, one length bucket), each padded to its longest
    buckets and parts  the same, sorted by length and cut into the forward passes of a step

The first two are what FlagEmbedding 1.4.2 does without and with `same_dataset_within_batch`.
Padding is the share of all tokens in the passes that are padding, 0 to 1; wasted is padding per
real token.

Then the time of forward and backward, on passages of --steps-passages that each round draws anew
from all files: all of them in random batches, and the same ones in buckets and parts, one after the
other in turning order. The median over the rounds of the ratio of tokens a second counts; tokens
are real ones, without padding.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from measuring import publish

from m3search.cli.ending import run_script
from m3search.errors import ConfigError
from m3search.evaluation.measures import markdown_table
from m3search.lines import read_records
from m3search.model.tokenization import Ids, Tokenization
from m3search.records import MODES
from m3search.training.batching import Sampler
from m3search.training.devices import Devices
from m3search.training.encoding import Encoding, Parts, represent
from m3search.training.recipe import Batches, Data, Optimiser, Recipe, Source, Start
from m3search.training.representations import Representations
from m3search.training.sources import Corpus, read_source
from m3search.training.start import prepare, start_model

Texts = Sequence[Ids]
"""token ids of texts"""
_AT_ONCE = 1024


class Padding(NamedTuple):
    """What forward passes hold."""

    real: int
    """tokens of the texts"""
    padded: int
    """tokens with padding"""

    @classmethod
    def of(cls, passes: Iterable[Texts]) -> Padding:
        """Of passes that are padded to the longest text of each."""
        real = padded = 0
        for texts in passes:
            real += sum(map(len, texts))
            padded += len(texts) * max(map(len, texts))
        return cls(real, padded)

    def to_json(self) -> dict[str, float]:
        """The counts, the share of padding and the padding per real token."""
        wasted = self.padded - self.real
        return {
            **self._asdict(),
            "padding": round(wasted / self.padded, 4),
            "wasted": round(wasted / self.real, 4),
        }


def read_pairs(folder: Path, per_file: int) -> list[Corpus]:
    """The passages of every pair file of a folder, at most `per_file` of each, in file order."""
    corpora = []
    for path in sorted(folder.glob("*.jsonl*")):
        if ".docs.jsonl" in path.name or not _has_pairs(path):
            continue
        corpus = read_source(folder, Source(path.name))
        corpora.append(corpus._replace(passages=corpus.passages[:per_file]))
    if not corpora:
        remedy = "Give a folder of training files."
        raise ConfigError(str(folder), expected="files of pairs", found="none", remedy=remedy)
    return corpora


def _has_pairs(path: Path) -> bool:
    return next((b'"query"' in line for line in read_records(path, lambda _, line: line)), False)


def read_ids(corpora: Sequence[Corpus], tokenization: Tokenization, length: int) -> dict[str, Ids]:
    """The token ids of every passage, at most `length` of each."""
    texts = list(dict.fromkeys(p.text for corpus in corpora for p in corpus.passages))
    found: dict[str, Ids] = {}
    for start in range(0, len(texts), _AT_ONCE):
        block = texts[start : start + _AT_ONCE]
        found |= zip(block, tokenization.encode(block, length).ids, strict=True)
    return found


def cut(ids: dict[str, Ids], length: int) -> dict[str, Ids]:
    """The texts as they are with a shorter limit: the last token stays."""
    return {
        text: row if len(row) <= length else np.append(row[: length - 1], row[-1])
        for text, row in ids.items()
    }


def random_batches(groups: Sequence[Texts], size: int, seed: int) -> Iterator[list[Ids]]:
    """Batches of the texts of each group in random order; the last of a group may be smaller."""
    rng = random.Random(seed)
    for group in groups:
        mixed = rng.sample(list(group), len(group))
        yield from (mixed[start : start + size] for start in range(0, len(mixed), size))


def bucket_batches(
    corpora: Sequence[Corpus], ids: dict[str, Ids], size: int, length: int, *, same_source: bool
) -> Iterator[list[Ids]]:
    """The batches of one epoch of m3search."""
    lengths = [np.array([len(ids[p.text]) for p in c.passages], np.int64) for c in corpora]
    data = Data(tuple(c.source for c in corpora), passage_max_length=length, title_probability=0.0)
    batches = Batches(passages=size, same_source=same_source)
    sampler = Sampler(corpora, lengths, data, batches, seed=1)
    for step in range(sampler.steps_per_epoch):
        yield [ids[text] for text in sampler.texts(step)]


def parts_of(batches: Iterable[Texts], parts: Parts) -> Iterator[list[Ids]]:
    """The forward passes of each batch, as `Encoding` makes them."""
    for batch in batches:
        ordered = sorted(batch, key=len, reverse=True)
        yield from (ordered[start:end] for start, end in parts.cut(ordered))


def measure_padding(
    corpora: Sequence[Corpus], ids: dict[str, Ids], length: int, size: int, parts: Parts
) -> dict[str, Padding]:
    """The padding of every kind of batch, over all passages once."""
    files = [[ids[p.text] for p in corpus.passages] for corpus in corpora]
    mixed = [[row for file in files for row in file]]
    buckets = list(bucket_batches(corpora, ids, size, length, same_source=True))
    return {
        "random": Padding.of(random_batches(mixed, size, 1)),
        "random, one file": Padding.of(random_batches(files, size, 1)),
        "buckets": Padding.of(buckets),
        "buckets and parts": Padding.of(parts_of(buckets, parts)),
    }


class Passes:
    """Forward and backward passes of a model with all three heads."""

    def __init__(self, checkpoint: str, length: int, tokens: int, precision: str) -> None:
        start = Start(checkpoint, max_length=length)
        data = Data((Source("*"),), query_max_length=length, passage_max_length=length)
        recipe = Recipe("finetune", start, data, Optimiser(steps=1))
        self._model, tokenizer, *_ = start_model(start)
        prepare(self._model, recipe)
        self._device = Devices().device
        self._model.to(self._device)
        self._tokenization = Tokenization(tokenizer)
        self._parts, self._half = Parts.on(self._device, tokens), precision == "bf16"

    def whole(self, batch: Texts) -> None:
        """All texts in one padded pass."""
        results = self._forward(batch)
        torch.autograd.backward(list(results), [torch.ones_like(each) for each in results])

    def parts(self, batch: Texts) -> None:
        """In parts of similar length."""
        encoding = Encoding(self._forward, batch, self._parts, cached=False, seed=1)
        encoding.backward(Representations(*map(torch.ones_like, encoding.results)))

    def seconds(self, step: Any, batches: Iterable[Texts]) -> float:
        """Of all batches; gradients are dropped behind each."""
        self._wait()
        started = time.perf_counter()
        for batch in batches:
            step(batch)
            self._model.zero_grad()
        self._wait()
        return time.perf_counter() - started

    def _forward(self, batch: Texts) -> Representations:
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._half):
            return represent(self._model, self._tokenization, batch, MODES)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def measure_speed(
    passes: Passes,
    corpora: Sequence[Corpus],
    ids: dict[str, Ids],
    asked: argparse.Namespace,
) -> dict[str, Any]:
    """Real tokens a second with random batches and with m3search's, on the same passages."""
    all_passages = [p for corpus in corpora for p in corpus.passages]
    rates: dict[str, list[float]] = {"random": [], "buckets and parts": []}
    for number in range(asked.rounds + 1):
        chosen = random.Random(number).sample(
            all_passages, min(asked.steps_passages, len(all_passages))
        )
        corpus = corpora[0]._replace(passages=tuple(chosen))
        texts = [ids[p.text] for p in chosen]
        limit = asked.steps_length
        bucketed = bucket_batches([corpus], ids, asked.batch, limit, same_source=True)
        plans = [
            ("random", passes.whole, list(random_batches([texts], asked.batch, number))),
            ("buckets and parts", passes.parts, list(bucketed)),
        ]
        for name, step, batches in plans if number % 2 else reversed(plans):
            spent = passes.seconds(step, batches if number else batches[:1])
            if number:  # the first round only warms up
                rates[name].append(sum(map(len, texts)) / spent)
        if number:
            told = ", ".join(f"{name} {r[-1]:.0f}" for name, r in rates.items())
            print(f"round {number}, tokens/s: {told}", file=sys.stderr, flush=True)
    ratios = [b / a for a, b in zip(*rates.values(), strict=True)]
    return {
        "tokens_per_second": {n: round(statistics.median(r), 1) for n, r in rates.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def main() -> None:
    """Measures as the command line asks, and prints."""
    asked = _parse()
    _, tokenizer, *_ = start_model(Start(asked.tokenizer))
    corpora = read_pairs(asked.data, asked.per_file)
    count = sum(len(corpus.passages) for corpus in corpora)
    print(f"{count} passages of {len(corpora)} files", file=sys.stderr, flush=True)
    ids = read_ids(corpora, Tokenization(tokenizer), max(*asked.lengths, asked.steps_length))
    parts = Parts.on(Devices().device, asked.parts)
    result: dict[str, Any] = {
        "files": len(corpora),
        "passages": count,
        "lengths": {},
    }
    lines = [["tokens at most", "batches", "padding", "wasted tokens a real one"]]
    for length in asked.lengths:
        rows = measure_padding(corpora, cut(ids, length), length, asked.batch, parts)
        result["lengths"][length] = {name: row.to_json() for name, row in rows.items()}
        for name, row in result["lengths"][length].items():
            lines.append([str(length), name, f"{row['padding']:.1%}", f"{row['wasted']:.3f}"])
    shown = markdown_table(lines)
    if asked.rounds:
        passes = Passes(asked.tokenizer, asked.steps_length, asked.parts, asked.precision)
        speed = measure_speed(passes, corpora, cut(ids, asked.steps_length), asked)
        result["speed"] = speed
        told = ", ".join(f"{name} {rate:.0f}" for name, rate in speed["tokens_per_second"].items())
        shown += f"\n\nTokens a second: {told}; ratio {speed['ratio']:.2f}"
    publish(asked, result, shown)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="a folder of training files")
    parser.add_argument("--tokenizer", required=True, help="a checkpoint, also the timed encoder")
    parser.add_argument("--per-file", type=int, default=300, help="passages of a file at most")
    parser.add_argument("--batch", type=int, default=32, help="passages")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 8192], help="tokens")
    parser.add_argument("--parts", type=int, default=8192, help="padded tokens of a pass")
    parser.add_argument("--rounds", type=int, default=5, help="of the timing; 0 for none")
    parser.add_argument("--steps-passages", type=int, default=256, help="passages of a round")
    parser.add_argument("--steps-length", type=int, default=512, help="tokens, in the timing")
    half = "bf16" if torch.cuda.is_available() else "fp32"
    parser.add_argument("--precision", choices=["fp32", "bf16"], default=half)
    parser.add_argument("--out", type=Path, help="the JSON goes here instead of stdout")
    return parser.parse_args()


if __name__ == "__main__":
    run_script(main)
