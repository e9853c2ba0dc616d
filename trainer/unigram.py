"""A unigram language model of pieces, learned from words with weights.

The method is that of SentencePiece (Kudo 2018, arXiv 1804.10959): begin with every frequent part
of a word, estimate the pieces' probabilities, drop those without which the words lose least, and
so on until enough are left. Three things differ: a part's frequency counts the weights of its
words; the estimate is that of the best segmentation alone (Viterbi training); and pieces can be
required, which are never dropped. All is done in arrays, in a fixed order: equal words give equal
pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LONGEST_PIECE = 16
LONGEST_WORD = 48
"""characters; what is longer is cut for the learning"""
SHRINKING = 0.75
"""the share of the pieces that a round leaves at least"""
ESTIMATES = 2
"""rounds of estimation before pieces are dropped"""
MARGIN = 1e-3
"""by how much the logarithm of a required word's probability is above any other way's"""
PREFERRED = 5
"""rounds of doing so"""
UNSEEN = 0.5
"""the count of a piece that no best segmentation has"""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer[Any]]
"""of any width, since the arrays are long"""


class Words(NamedTuple):
    """Words one after the other as numbers of characters, each with an end behind it."""

    characters: Ints
    """(n,) the number of each character, -1 at the end of a word"""
    places: Ints
    """(n,) the place in its word, from 0; that of an end is the word's length"""
    weights: Floats
    """(n,) the weight of its word"""
    ends: Ints
    """(words,)"""


class Parts(NamedTuple):
    """The parts of one length that words have often enough."""

    starts: Ints
    """(m,) where they stand, ascending"""
    ids: Ints
    """(m,) which of the parts stands there"""
    counts: Floats
    """(parts,) the weight of all places of each"""
    texts: list[str]
    """(parts,)"""


def lay_out(words: Mapping[str, float], alphabet: Sequence[str]) -> Words:
    """The words as arrays; what is not in the alphabet, or beyond the longest word, ends one."""
    numbers = {character: number for number, character in enumerate(alphabet)}
    pieces: dict[str, float] = {}
    for word, weight in words.items():
        for part in _cut(word, numbers):
            pieces[part] = pieces.get(part, 0.0) + weight
    ordered = sorted(pieces)
    lengths = np.array([len(word) + 1 for word in ordered])
    ends = np.cumsum(lengths) - 1
    flat = [number for word in ordered for number in (*(numbers[c] for c in word), -1)]
    places = np.arange(len(flat)) - np.repeat(ends + 1 - lengths, lengths)
    weights = np.repeat([pieces[word] for word in ordered], lengths)
    return Words(np.array(flat, np.int32), places.astype(np.uint8), weights, ends)


def _cut(word: str, numbers: Collection[str]) -> Iterator[str]:
    part = ""
    for character in word:
        if character in numbers and len(part) < LONGEST_WORD:
            part += character
            continue
        if part:
            yield part
        part = character if character in numbers else ""
    if part:
        yield part


def frequent_parts(words: Words, alphabet: Sequence[str], least: float) -> Iterator[Parts]:
    """The parts of 1, 2, ... characters whose places weigh at least `least`; all of one."""
    starts = np.flatnonzero(words.characters >= 0)
    ids = words.characters[starts]
    counts = np.bincount(ids, words.weights[starts], len(alphabet)).astype(np.float64)
    texts = list(alphabet)
    for length in range(1, LONGEST_PIECE + 1):
        yield Parts(starts.astype(np.int32), ids.astype(np.int32), counts, texts)
        there = np.full(len(words.characters), -1, np.int32)
        there[starts] = ids
        # a part is frequent only where the one without its last character is, and without its first
        longer = (there[starts + 1] >= 0) & (words.characters[starts + length] >= 0)
        starts = starts[longer]
        if not len(starts):
            return
        last = words.characters[starts + length]
        keys = there[starts].astype(np.int64) * len(alphabet) + last
        found, inverse = np.unique(keys, return_inverse=True)
        counts = np.bincount(inverse, words.weights[starts]).astype(np.float64)
        frequent = counts >= least
        numbers = np.where(frequent, np.cumsum(frequent) - 1, -1)
        before, character = np.divmod(found[frequent], len(alphabet))
        texts = [texts[b] + alphabet[c] for b, c in zip(before, character, strict=True)]
        ids, counts = numbers[inverse], counts[frequent]
        starts, ids = starts[ids >= 0], ids[ids >= 0]


class Lattice:
    """All places of pieces in words, and the best ways through them."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._steps: dict[int, tuple[Ints, Ints, Ints]] = {}

    def add(self, length: int, starts: Ints, pieces: Ints) -> None:
        """Tells where the pieces of a length stand."""
        order = np.argsort(self._words.places[starts], kind="stable")  # a radix sort of bytes
        self._put(length, starts[order], pieces[order])

    def _put(self, length: int, starts: Ints, pieces: Ints) -> None:
        bounds = np.searchsorted(self._words.places[starts], np.arange(LONGEST_WORD + 2))
        self._steps[length] = (starts, pieces, bounds)

    def keep(self, numbers: Ints) -> None:
        """Leaves the pieces whose new number is not -1, and numbers them so."""
        for length, (starts, pieces, _) in list(self._steps.items()):
            renamed = numbers[pieces]
            self._put(length, starts[renamed >= 0], renamed[renamed >= 0])

    def best(self, scores: Floats) -> tuple[Floats, Ints, Ints]:
        """For each place the score of the best way there, its last piece and that one's length."""
        size = len(self._words.places)
        best = np.where(self._words.places == 0, 0.0, -np.inf)
        last, lengths = np.full(size, -1, np.int32), np.zeros(size, np.uint8)
        for end in range(1, LONGEST_WORD + 1):
            for length in range(1, min(end, LONGEST_PIECE) + 1):
                if length not in self._steps:
                    continue
                starts, pieces, bounds = self._steps[length]
                here = slice(bounds[end - length], bounds[end - length + 1])
                score = best[starts[here]] + scores[pieces[here]]
                ends = starts[here] + length
                better = score > best[ends]
                ends = ends[better]
                best[ends], last[ends] = score[better], pieces[here][better]
                lengths[ends] = length
        return best, last, lengths

    def word_scores(self, scores: Floats) -> Floats:
        """(words,) the score of the best way through each word."""
        found: Floats = self.best(scores)[0][self._words.ends]
        return found

    def counts(self, scores: Floats) -> Floats:
        """How often each piece stands in the best ways, by the weights of the words."""
        _, last, lengths = self.best(scores)
        counts = np.zeros(len(scores))
        ends = self._words.ends
        while len(ends):
            counts += np.bincount(last[ends], self._words.weights[ends], minlength=len(scores))
            ends = ends - lengths[ends]
            ends = ends[self._words.places[ends] > 0]
        return counts


class Pieces(NamedTuple):
    """Pieces with the logarithms of their probabilities."""

    texts: list[str]
    scores: Floats


class UnigramLearner:
    """Pieces that are learned from words."""

    def __init__(
        self,
        words: Mapping[str, float],
        alphabet: Collection[str],
        *,
        least: float,
        required: Collection[str] = (),
        avoided: Collection[str] = (),
        allowed: Callable[[str], bool] = lambda piece: True,
    ) -> None:
        """least: the weight of the places of a part that may be a piece; `allowed` has a say, too.

        All of the alphabet are pieces, and the words in `required`, which the alphabet must spell.
        Pieces in `avoided` have the probability of one never seen.
        """
        wanted, ordered = set(required), sorted(alphabet)
        raised = {word: max(words.get(word, 0.0), least) for word in wanted}
        laid = lay_out({**words, **raised}, ordered)
        self._lattice = Lattice(laid)
        self.texts: list[str] = []
        counts: list[float] = []
        for length, parts in enumerate(frequent_parts(laid, ordered, least), start=1):
            kept = np.array([length == 1 or t in wanted or allowed(t) for t in parts.texts])
            numbers = np.where(kept, np.cumsum(kept) - 1 + len(self.texts), -1).astype(np.int32)
            _add(self._lattice, length, parts.starts, numbers[parts.ids])
            self.texts += [text for text, keep in zip(parts.texts, kept, strict=True) if keep]
            counts += list(parts.counts[kept])
        self._avoided = frozenset(avoided)
        self._scores = self._logarithms(np.array(counts))
        self._fixed = np.array([len(text) == 1 or text in wanted for text in self.texts])
        self._inner = _inner_lattice(self.texts, ordered)
        self._ranks = np.argsort(np.argsort(np.array(self.texts, dtype=object), kind="stable"))

    def learn(self, size: int) -> Pieces:
        """The `size` best pieces, or all where there are fewer, the likeliest first."""
        counts = self._estimate()
        while len(self.texts) > size:
            self._shrink(counts, max(size, int(SHRINKING * len(self.texts))))
            counts = self._estimate()
        self._prefer_required()
        order = np.argsort(-self._scores, kind="stable")
        return Pieces([self.texts[place] for place in order], self._scores[order])

    def _estimate(self) -> Floats:
        for _ in range(ESTIMATES):
            counts = self._lattice.counts(self._scores)
            self._scores = self._logarithms(counts)
        return counts

    def _logarithms(self, counts: Floats) -> Floats:
        seen = np.maximum(counts, UNSEEN)
        seen[[text in self._avoided for text in self.texts]] = UNSEEN
        logarithms: Floats = np.log(seen / seen.sum())
        return logarithms

    def _prefer_required(self) -> None:
        """Makes each required word likelier than any other way to spell it."""
        for _ in range(PREFERRED):  # a raised word may be part of another
            instead = self._inner.word_scores(self._scores)[self._ranks]
            low = self._fixed & (self._scores <= instead)
            self._scores[low] = instead[low] + MARGIN

    def _shrink(self, counts: Floats, size: int) -> None:
        """Drops the pieces without which the words lose least."""
        instead = self._inner.word_scores(self._scores)[self._ranks]
        losses = np.full(len(counts), np.inf)
        free = ~self._fixed
        losses[free] = counts[free] * (self._scores - instead)[free]
        kept = np.zeros(len(losses), dtype=bool)
        kept[np.argsort(-losses, kind="stable")[: max(size, int(self._fixed.sum()))]] = True
        numbers = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
        self._lattice.keep(numbers)
        self._inner.keep(numbers)
        self.texts = [text for text, keep in zip(self.texts, kept, strict=True) if keep]
        self._scores, self._fixed = self._scores[kept], self._fixed[kept]
        self._ranks = self._ranks[kept]


def _inner_lattice(texts: Sequence[str], alphabet: Sequence[str]) -> Lattice:
    """The pieces as words, in the order of their texts, with all pieces in them but themselves."""
    laid = lay_out(dict.fromkeys(texts, 1.0), alphabet)
    lattice, numbers = Lattice(laid), {text: number for number, text in enumerate(texts)}
    for length, parts in enumerate(frequent_parts(laid, alphabet, 0), start=1):
        pieces = np.array([numbers.get(text, -1) for text in parts.texts], np.int32)[parts.ids]
        whole = laid.characters[parts.starts + length] < 0
        whole &= laid.places[parts.starts] == 0
        _add(lattice, length, parts.starts, np.where(whole, -1, pieces))
    return lattice


def _add(lattice: Lattice, length: int, starts: Ints, pieces: Ints) -> None:
    lattice.add(length, starts[pieces >= 0], pieces[pieces >= 0])
