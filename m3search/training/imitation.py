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
from m3search.model.fingerprints import remembered_fingerprint
from m3search.model.layout import count_positions
from m3search.model.modeling import Pooling, pool
from m3search.model.resolve import resolve
from m3search.model.tokenization import Ids, Tokenization, pad
from m3search.records import BoolArray, IntArray
from m3search.training.encoding import Parts
from m3search.training.passes import read_states, width_of
from m3search.training.recipe import Distillation

WORD = re.compile(r"\w+|[^\w\s]")
TEACHER_TOKENS = {"cpu": 16384, "cuda": 65536}
"""padded tokens of a pass of the teacher, which keeps no activations"""
REMEMBERED = 1 << 25
"""tokens of texts that are kept as they were read, 16 bytes each"""


class Reading(NamedTuple):
    """A text as an encoder reads it."""

    ids: Ids
    """(tokens,) special ones included"""
    words: IntArray
    """(tokens,) the number of the word that each token belongs to; `size` where to none"""
    size: int
    """words of the whole text, those behind the encoder's limit included"""


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


def read_whole(tokenization: Tokenization, texts: Sequence[str], max_length: int) -> list[Reading]:
    """The same of texts whose words are of no interest: none of them has any."""
    ids = tokenization.encode(texts, max_length).ids
    return [Reading(row, np.zeros(len(row), np.int64), 0) for row in ids]


class Understood(NamedTuple):
    """What an encoder makes of N texts with W words in all."""

    sentences: Tensor
    """(N, hidden) unit rows"""
    words: Tensor
    """(W, hidden) mean state of the tokens of each word; 0 of a word that was not read"""
    read: Tensor
    """(W,) bool, whether a word was read"""


class Reader:
    """Texts as an encoder reads them, each read once as long as there is room to remember it."""

    def __init__(self, tokenization: Tokenization, max_length: int, *, words: bool = True) -> None:
        """max_length: tokens of a text that are read at most; words: whether its words matter."""
        self._tokenization = tokenization
        self._read = read if words else read_whole
        self._max_length = max_length
        self._known: dict[str, Reading] = {}
        self._room = REMEMBERED

    def __call__(self, texts: Sequence[str]) -> list[Reading]:
        """What is read of each text."""
        new = dict.fromkeys(text for text in texts if text not in self._known)
        found = dict(
            zip(new, self._read(self._tokenization, list(new), self._max_length), strict=True)
        )
        for text, reading in found.items():
            if self._room >= len(reading.ids):
                self._known[text] = reading
                self._room -= len(reading.ids)
        return [found.get(text) or self._known[text] for text in texts]


class Pass(NamedTuple):
    """Some texts as one forward pass reads them: B texts, padded to L tokens."""

    ids: Ids
    """(B, L)"""
    real: BoolArray
    """(B, L) whether a token is no padding"""
    words: IntArray
    """(tokens,) of every token that is no padding, the row of its word among those of all texts;
    `size` where it belongs to none"""
    size: int
    """words of all texts"""


class Passes(NamedTuple):
    """N texts in forward passes, the longest first."""

    parts: list[Pass]
    order: IntArray
    """(N,) which text each row of the passes is"""
    sizes: IntArray
    """(N,) words of each text, in the order in which they were given"""


def arrange(
    texts: Sequence[Reading], backbone: PreTrainedModel, parts: Parts, pad_id: int
) -> Passes:
    """The passes of texts through an encoder; nothing of it but its configuration is looked at."""
    order = np.argsort([-len(text.ids) for text in texts], kind="stable")
    ordered = [texts[number] for number in order]
    passes = []
    for start, end in parts.cut([text.ids for text in ordered]):
        some = ordered[start:end]
        ids, real = pad([t.ids for t in some], pad_id, width_of(backbone, [t.ids for t in some]))
        total = sum(text.size for text in some)
        firsts = accumulate((text.size for text in some), initial=0)
        rows = [
            np.where(text.words < text.size, first + text.words, total)
            for first, text in zip(firsts, some, strict=False)
        ]
        passes.append(Pass(ids, real, np.concatenate(rows), total))
    return Passes(passes, order, np.array([text.size for text in texts], np.int64))


def understand(backbone: PreTrainedModel, pooling: Pooling, texts: Pass) -> Understood:
    """One forward pass over the texts."""
    _, _, mask, states = read_states(backbone, texts.ids, texts.real)
    row, total = torch.from_numpy(texts.words).to(mask.device), texts.size
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
        self.fingerprint = remembered_fingerprint(folder)
        """SHA-256 of the files that it was read from"""
        self._pooling: Pooling = settings.pooling or read_info(folder).pooling
        self._tokenization = Tokenization(load_tokenizer(folder))
        self._backbone = load_backbone(folder).requires_grad_(False)
        nn.Module.to(self._backbone, device)
        self._backbone.train(False)
        self.positions = count_positions(self._backbone.config.to_dict())
        """tokens of a text that it can read"""
        self._device, self._half = device, half

    @property
    def dim(self) -> int:
        """Length of its vectors."""
        return int(self._backbone.config.hidden_size)

    def reader(self, max_length: int) -> Reader:
        """Reads texts as it does, `max_length` tokens of each at most: no more than `positions`."""
        return Reader(self._tokenization, max_length)

    def arrange(self, texts: Sequence[Reading]) -> Passes:
        """The passes in which it reads texts."""
        limit = TEACHER_TOKENS.get(self._device.type, TEACHER_TOKENS["cuda"])
        parts = Parts.on(self._device, limit)
        return arrange(texts, self._backbone, parts, self._tokenization.pad_id)

    def vectors(self, texts: Sequence[str], max_length: int) -> Tensor:
        """(N, hidden) its sentence vectors of texts, read as `reader` reads them."""
        readings = read_whole(self._tokenization, texts, max_length)
        return self.understand(self.arrange(readings)).sentences

    @torch.no_grad()
    def understand(self, texts: Passes) -> Understood:
        """What it makes of the texts, in the order in which they were given."""
        parts = []
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._half):
            for part in texts.parts:
                parts.append(understand(self._backbone, self._pooling, part))
        if not parts:
            nothing = torch.zeros((0, self.dim), device=self._device)
            return Understood(nothing, nothing, torch.zeros(0, dtype=torch.bool).to(self._device))
        sentences, words, was_read = (torch.cat(column) for column in zip(*parts, strict=True))
        places = np.argsort(texts.order)
        rows = torch.from_numpy(word_rows(texts.sizes[texts.order], places)).to(self._device)
        where = torch.from_numpy(places).to(self._device)
        return Understood(sentences[where], words[rows], was_read[rows])


def word_rows(sizes: IntArray, texts: IntArray) -> IntArray:
    """Where the words of some texts stand among those of all, which have `sizes` words each."""
    lengths, firsts = sizes[texts], (np.cumsum(sizes) - sizes)[texts]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows: IntArray = np.repeat(firsts, lengths) + within
    return rows


def word_errors(student: Understood, teacher: Understood, sizes: IntArray) -> Tensor:
    """(N,) for texts with `sizes` (N,) words, which both sides have in the same order: the mean
    over the words that both have read of |student - teacher|^2 / |teacher|^2."""
    device = student.words.device
    both = student.read & teacher.read
    owner = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)).to(device)[both]
    wanted = teacher.words[both]
    error = (student.words[both] - wanted).square().sum(dim=-1) / wanted.square().sum(dim=-1)
    counts = torch.bincount(owner, minlength=len(sizes)).clamp(min=1)
    return error.new_zeros(len(sizes)).index_add(0, owner, error) / counts
