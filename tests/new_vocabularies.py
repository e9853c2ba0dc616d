"""Training files of the sample collection, and a tokenizer that the script learns from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tiny_models import write_bert
from trainer_scripts import Record, script, write

SAMPLE = Path(__file__).parent.parent / "eval" / "sample" / "corpus.jsonl"
PIECES = 3500


def write_training_files(folder: Path) -> Path:
    """A file for each of the eight languages, and pairs of a text in two."""
    lines = _sample()[::2]
    for language in sorted({line["lang"] for line in lines}):
        texts = [
            {"text": line["text"], "title": line["title"]}
            for line in lines
            if line["lang"] == language
        ]
        write(folder / f"text.{language}.jsonl.gz", texts)
    pair = {"query": "un faro", "pos": ["a lighthouse"], "neg": [], "lang": "es-en"}
    write(folder / "pairs.multi.jsonl", [pair, {**pair, "query": "маяк", "lang": "ru-en"}])
    return folder


def write_old(folder: Path) -> Path:
    """A BERT encoder whose pieces are of the collection's English texts."""
    return write_bert(folder, [line["text"] for line in _sample() if line["lang"] == "en"])


def _sample() -> list[Record]:
    return [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]


def train(data: Path, out: Path, *more: object, pieces: int = PIECES) -> Path:
    """The folder of a tokenizer of `pieces` pieces."""
    arguments: Sequence[object] = (data, "--out", out, "--pieces", pieces, *more)
    script("train_tokenizer").main([str(each) for each in arguments])
    return out
