"""An encoder that is imitated: its sentence vectors for texts and translations, its word states.

A student that gets the teacher's vector of a sentence both from the sentence and from its
translation has both languages in one space (Reimers and Gurevych 2020, arXiv 2004.09813). Where the
two read the same text they can be held together word by word, too, whatever their vocabularies: the
mean state of the student's pieces of a word is to be the mean state of the teacher's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from m3search.model.checkpoint import load_backbone, load_tokenizer, read_info
from m3search.model.layout import count_positions
from m3search.model.modeling import Pooling, pool
from m3search.model.resolve import resolve
from m3search.model.tokenization import Ids, Tokenization
from m3search.records import IntArray
from m3search.training.encoding import Parts
from m3search.training.passes import read_states
from m3search.training.recipe import Distillation

WORD = re.compile(r"\w+|[^\w\s]")
TEACHER_TOKENS = 16384
"""padded tokens of a pass of the teacher, which keeps no activations"""


class Reading(NamedTuple):
    """A text as an encoder reads it."""

    ids: Ids
    """(tokens,) special ones included"""
    words: IntArray
    """(tokens,) the number of the word that each token belongs to; `size` where to none"""
    size: int
    """words of the whole text, those behind the encoder's limit included"""


class Understood(NamedTuple):
    """What an encoder makes of N texts with W words in all."""

    sentences: Tensor
    """(N, hidden) unit rows"""
    words: Tensor
    """(W, hidden) mean state of the tokens of each word; 0 of a word that was not read"""
    read: Tensor
    """(W,) bool, whether a word was read"""


def read(tokenization: Tokenization, texts: Sequence[str], max_length: int) -> list[Reading]:
    """Each text at most `max_length` tokens long, its words counted by its own characters."""
    readings = []
    for text, ids, spans in zip(texts, *tokenization.encode_spans(texts, max_length), strict=True):
        found = [match.span() for match in WORD.finditer(text)]
        owner = np.full(len(text) + 1, len(found), np.int64)
        for number, (start, end) in enumerate(found):
            owner[start:end] = number
        # its last character tells a piece's word: it may begin with the space before
        words = np.where(spans[:, 1] > spans[:, 0], owner[spans[:, 1] - 1], len(found))
        readings.append(Reading(ids, words, len(found)))
    return readings


def understand(
    backbone: PreTrainedModel, pooling: Pooling, texts: Sequence[Reading], pad_id: int
) -> Understood:
    """One forward pass over the texts, padded to the longest."""
    _, _, mask, states = read_states(backbone, [text.ids for text in texts], pad_id)
    total = sum(text.size for text in texts)
    firsts = accumulate((text.size for text in texts), initial=0)
    rows = [
        np.where(text.words < text.size, first + text.words, total)
        for first, text in zip(firsts, texts, strict=False)
    ]
    row = torch.from_numpy(np.concatenate(rows)).to(mask.device)
    # one row more than there are words takes the tokens that belong to none
    sums = states.new_zeros(total + 1, states.shape[-1]).index_add(0, row, states[mask])[:-1]
    counts = torch.bincount(row, minlength=total + 1)[:-1]
    return Understood(
        functional.normalize(pool(states, mask, pooling), dim=-1),
        sums / counts.clamp(min=1)[:, None],
        counts > 0,
    )


class Teacher:
    """The encoder that is imitated; nothing of it is trained or saved."""

    def __init__(self, settings: Distillation, device: torch.device, *, half: bool) -> None:
        folder = resolve(settings.teacher, "distillation.teacher")[1]
        self._pooling: Pooling = settings.pooling or read_info(folder).pooling
        self._tokenization = Tokenization(load_tokenizer(folder))
        self._backbone = load_backbone(folder).requires_grad_(False)
        nn.Module.to(self._backbone, device)
        self._backbone.train(False)
        self._positions = count_positions(self._backbone.config.to_dict())
        self._device, self._half = device, half

    @property
    def dim(self) -> int:
        """Length of its vectors."""
        return int(self._backbone.config.hidden_size)

    def read(self, texts: Sequence[str], max_length: int) -> list[Reading]:
        """The texts as it reads them, at most `max_length` tokens of each."""
        return read(self._tokenization, texts, min(max_length, self._positions))

    @torch.no_grad()
    def understand(self, texts: Sequence[Reading]) -> list[Understood]:
        """What it makes of each text."""
        order = sorted(range(len(texts)), key=lambda n: -len(texts[n].ids))
        found: dict[int, Understood] = {}
        cut = Parts.on(self._device, TEACHER_TOKENS).cut([texts[n].ids for n in order])
        for start, end in cut:
            some = [texts[n] for n in order[start:end]]
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._half):
                part = understand(self._backbone, self._pooling, some, self._tokenization.pad_id)
            sizes = [text.size for text in some]
            columns = zip(part, ([1] * len(some), sizes, sizes), strict=True)
            split = [torch.split(column, lengths) for column, lengths in columns]
            each = (Understood(*columns) for columns in zip(*split, strict=True))
            found |= zip(order[start:end], each, strict=True)
        return [found[number] for number in range(len(texts))]


class Distances(NamedTuple):
    """How far a student is from its teacher on N texts."""

    sentences: Tensor
    """(N,) 1 - cosine, 0 to 2"""
    words: Tensor
    """(N,) mean over the words that both have read of |student - teacher|^2 / |teacher|^2"""


def distances(student: Understood, teacher: Understood, sizes: Sequence[int]) -> Distances:
    """Of N texts with `sizes` words each, both sides in the same order."""
    device = student.words.device
    both = student.read & teacher.read
    owner = torch.arange(len(sizes), device=device).repeat_interleave(
        torch.tensor(sizes, device=device)
    )[both]
    wanted = teacher.words[both]
    error = (student.words[both] - wanted).square().sum(dim=-1) / wanted.square().sum(dim=-1)
    none = error.new_zeros(len(sizes))
    counts = torch.bincount(owner, minlength=len(sizes)).clamp(min=1)
    return Distances(
        1 - (student.sentences * teacher.sentences).sum(dim=-1),
        none.index_add(0, owner, error) / counts,
    )


def sentence_alone(vector: Tensor, size: int) -> Understood:
    """What a translation of `size` words is to get: the sentence vector (hidden,), and no word."""
    nothing = vector.new_zeros(size, len(vector))
    return Understood(vector[None], nothing, torch.zeros(size, dtype=torch.bool).to(vector.device))


def join(parts: Sequence[Understood]) -> Understood:
    """The texts of all parts, in order."""
    return Understood(*(torch.cat(column) for column in zip(*parts, strict=True)))
