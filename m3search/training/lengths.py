"""How long every passage of a source is in tokens: read once, and kept beside the training."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from m3search.model.tokenization import Tokenization
from m3search.records import IntArray
from m3search.stores.files import naming
from m3search.training.recipe import Data
from m3search.training.sources import Corpus, Passage

FOLDER = "lengths"
_AT_ONCE = 1024


def passage_lengths(
    corpus: Corpus, tokenization: Tokenization, data: Data, folder: Path | None = None
) -> IntArray:
    """(passages,) tokens of the longest text of each passage, cut as `data` says.

    A passage's texts are itself, with its title where it may have one, and the negatives of its
    questions where any are drawn. With a folder, the numbers are kept there for the next time.
    """
    kept = None if folder is None else folder / FOLDER / f"{_name(corpus, tokenization, data)}.npy"
    if kept is not None:
        with suppress(OSError, ValueError, EOFError):
            lengths: IntArray = _read(kept)
            if lengths.shape == (len(corpus.passages),):
                return lengths
    lengths = _measure(corpus, tokenization, data)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}.partial")
        try:
            with naming(kept), partial.open("wb") as file:
                np.save(file, lengths)
            partial.replace(kept)
        finally:
            partial.unlink(missing_ok=True)
    return lengths


def _read(path: Path) -> IntArray:
    with path.open("rb") as file:  # np.load would take an archive for a set of arrays
        lengths: IntArray = np.lib.format.read_array(file, allow_pickle=False)
    return lengths


def _measure(corpus: Corpus, tokenization: Tokenization, data: Data) -> IntArray:
    lengths = np.zeros(len(corpus.passages), np.int64)
    texts: list[str] = []
    owners: list[int] = []
    for number, passage in enumerate(corpus.passages):
        found = _texts(passage, data)
        texts += found
        owners += [number] * len(found)
        if len(texts) >= _AT_ONCE or number == len(corpus.passages) - 1:
            ids = tokenization.encode(texts, data.passage_max_length).ids
            np.maximum.at(lengths, owners, [len(row) for row in ids])
            texts, owners = [], []
    return lengths


def _texts(passage: Passage, data: Data) -> list[str]:
    found = {passage.text: passage.title}
    for question in passage.questions if data.negatives else ():
        found = dict.fromkeys(question.negatives, "") | found | question.titles()
    titled = data.title_probability > 0
    return [f"{title}\n{text}" if title and titled else text for text, title in found.items()]


def _name(corpus: Corpus, tokenization: Tokenization, data: Data) -> str:
    """What the lengths depend on, in short."""
    titled = data.title_probability > 0 and corpus.source.titles
    settings = (data.passage_max_length, bool(data.negatives), titled)
    told = f"{corpus.fingerprint}:{tokenization.fingerprint}:{settings}".encode()
    return hashlib.sha256(told).hexdigest()[:24]
