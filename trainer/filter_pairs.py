"""Drop near-duplicate pairs, and pairs whose positive hardly answers the query.

Near-duplicates (--near-duplicates 0.8): of pairs whose queries and positives both have that Jaccard
similarity of five-letter n-grams or more, the first of all files stays.

Relevance (--model): the model scores every query with its positives; of several, the lowest score
counts. A pair goes where the score is below --min-score, where it is among the lowest --drop-lowest
percent of its file, or where --top texts or more of a random --sample of all positives score above.
These drop what the model does not understand yet, too: with a weak model choose a low bar.

Files keep their names, lines that stay are not changed, and the documents that pairs name by
pos_id are copied beside them. A file of which no line stays is not written.

    python trainer/filter_pairs.py train/*.jsonl.gz --out clean/ --model m3-mini --drop-lowest 5
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from near_duplicates import Pairs
from relevance import Judge, Relevance
from tooling import (
    Line,
    count,
    give_report,
    open_lines,
    open_output,
    options,
    plan_outputs,
    positives_of,
    query_of,
    read_documents,
    read_lines,
    share,
    showing,
    without_lines,
)

from m3search.cli.ending import run_script
from m3search.records import FloatArray
from m3search.training.data import DOCUMENTS, documents_beside

BLOCK = 256
"""pairs that are hashed or encoded together"""
QUANTILES = (0, 5, 25, 50, 75, 95, 100)


class Pair(NamedTuple):
    """A line, and what of it is compared."""

    line: Line
    query: str
    positives: list[str]


class Bar(NamedTuple):
    """What a pair must reach by the model's scores."""

    least: float | None = None
    lowest_percent: float = 0.0
    top: int | None = None

    def rule_of(self, relevance: Relevance) -> list[str]:
        """The rule that each pair of a file breaks, or nothing."""
        scores = relevance.scores.astype(np.float64)
        rules = np.full(len(scores), "", object)
        if self.top is not None:
            rules[relevance.ranks > self.top] = "rank"
        if self.lowest_percent and len(scores):
            lowest = int(len(scores) * self.lowest_percent / 100)
            rules[np.argsort(scores, kind="stable")[:lowest]] = "lowest"
        if self.least is not None:
            rules[scores < self.least] = "score"
        return [str(rule) for rule in rules]


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of a file."""
    documents = read_documents(path)
    for line in read_lines(path):
        yield Pair(line, query_of(path, line), positives_of(path, line, documents))


def find_repeated(files: Sequence[Path], threshold: float) -> dict[Path, list[bool]]:
    """Of each file, which lines repeat an earlier one of it or of a file before it."""
    pairs = Pairs(threshold)
    lengths = {}
    for path in showing(files, "files", "near-duplicates"):
        lengths[path] = 0
        for block in _blocks(read_pairs(path)):
            lengths[path] += len(block)
            queries = [pair.query for pair in block]
            pairs.add(queries, ["\n".join(pair.positives) for pair in block])
    repeated = iter((pairs.repeated() >= 0).tolist())
    return {path: list(islice(repeated, length)) for path, length in lengths.items()}


def draw_sample(files: Iterable[Path], size: int, seed: int) -> list[str]:
    """So many positives of all files, each as likely (reservoir sampling)."""
    sample: list[str] = []
    rng, seen = random.Random(seed), 0
    for path in files if size else ():
        for pair in read_pairs(path):
            for text in pair.positives:
                seen += 1
                place = rng.randrange(seen)
                if len(sample) < size:
                    sample.append(text)
                elif place < size:
                    sample[place] = text
    return sample


def judge_file(path: Path, judge: Judge, skipped: Sequence[bool]) -> Relevance:
    """The relevance of the pairs of a file that are not to be skipped."""
    pairs = (pair for pair, out in zip(read_pairs(path), skipped, strict=True) if not out)
    found = [
        judge.judge([pair.query for pair in block], [pair.positives for pair in block])
        for block in _blocks(showing(pairs, "pairs", path.name))
    ]
    if not found:
        return Relevance(np.zeros(0, np.float32), np.zeros(0, np.int64))
    scores, ranks = zip(*found, strict=True)
    return Relevance(np.concatenate(scores), np.concatenate(ranks))


def filter_file(
    path: Path, target: Path, repeated: Sequence[bool], judge: Judge | None, bar: Bar
) -> dict[str, Any]:
    """Writes the lines that stay, and reports on the rest."""
    relevance = judge_file(path, judge, repeated) if judge else None
    rules = iter(bar.rule_of(relevance) if relevance else ())
    dropped: Counter[str] = Counter()
    lines = 0
    with open_lines(target) as file:
        for line, out in zip(read_lines(path), repeated, strict=True):
            lines += 1
            rule = "near duplicate" if out else next(rules, "")
            if rule:
                dropped[rule] += 1
            else:
                file.write(line.raw)
    beside = documents_beside(path)
    if beside is not None and target.exists():
        copy_lines(beside, next(iter(plan_outputs([beside], target.parent).values())))
    report: dict[str, Any] = {"lines": lines, "dropped": dict(dropped)}
    return report | ({"scores": _quantiles(relevance.scores)} if relevance else {})


def copy_lines(source: Path, target: Path) -> None:
    """The file at another place, its lines as they are."""
    with open_output(target) as file:
        for line in read_lines(source):
            file.write(line.raw)


def _quantiles(scores: FloatArray) -> dict[str, float]:
    if not len(scores):
        return {}
    values = np.percentile(scores.astype(np.float64), QUANTILES)
    return {f"p{q}": round(float(v), 4) for q, v in zip(QUANTILES, values, strict=True)}


def _blocks(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    remaining = iter(pairs)
    while block := list(islice(remaining, BLOCK)):
        yield block


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked against each other."""
    parser = options(__doc__)
    add = parser.add_argument
    # fmt: off
    add("files", nargs="+", type=Path, metavar="FILE", help="files of pairs")
    add("--out", type=Path, required=True, metavar="DIR", help="for the files")
    add("--near-duplicates", type=share, metavar="X",
        help="drop pairs that are this similar to an earlier one, up to 1")
    add("--model", metavar="NAME", help="m3-mini, a folder or a hub name")
    add("--mode", choices=("dense", "all"), default="dense",
        help="dense, or the weighted sum of all modes; default %(default)s")
    add("--max-length", type=count, metavar="N",
        help="tokens of a positive that are read; default: the model's")
    add("--min-score", type=float, metavar="X", help="drop pairs that score below")
    add("--drop-lowest", type=float, default=0.0, metavar="P", help="percent of each file to drop")
    add("--top", type=count, metavar="N",
        help="drop pairs whose positive is not in the best N of a sample")
    add("--sample", type=count, default=1000, metavar="N",
        help="positives in that sample; default %(default)s")
    add("--seed", type=int, default=42, help="of the sample; default %(default)s")
    # fmt: on
    args = parser.parse_args(arguments)
    if not 0 <= args.drop_lowest < 100:
        parser.error(f"--drop-lowest: {args.drop_lowest} is not from 0 to below 100")
    judged = args.min_score is not None or args.drop_lowest > 0 or args.top is not None
    if judged != (args.model is not None):
        parser.error("--model goes with --min-score, --drop-lowest or --top")
    if args.near_duplicates is None and args.model is None:
        parser.error("nothing to do: give --near-duplicates, --model or both")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options and filters the files."""
    args = read_options(arguments)
    started = time.perf_counter()
    files = [path for path in args.files if DOCUMENTS not in path.name]
    outputs = plan_outputs(files, args.out)
    bar = Bar(args.min_score, args.drop_lowest, args.top)
    judge = _load_judge(args, list(outputs)) if args.model else None
    if args.near_duplicates:
        repeated = find_repeated(list(outputs), args.near_duplicates)
    else:
        repeated = {path: [False] * sum(1 for _ in read_lines(path)) for path in outputs}
    reports = {
        str(target): filter_file(path, target, repeated[path], judge, bar)
        for path, target in showing(outputs.items(), "files")
    }
    dropped: Counter[str] = Counter()
    for each in reports.values():
        dropped.update(each["dropped"])
    report = {
        "lines": sum(each["lines"] for each in reports.values()),
        "dropped": dict(dropped),
        "seconds": round(time.perf_counter() - started, 1),
        "without_lines": without_lines(outputs.values()),
        "files": reports,
    }
    give_report(report, args.report)


def _load_judge(args: argparse.Namespace, files: Sequence[Path]) -> Judge:
    from m3search.encoder import Encoder

    encoder = Encoder.load(args.model, max_length=args.max_length)
    return Judge(encoder, args.mode, draw_sample(files, args.sample if args.top else 0, args.seed))


if __name__ == "__main__":
    run_script(main)
