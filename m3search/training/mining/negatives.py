"""Hard negatives: for every training pair, passages that rank high and are no answer.

A source finds candidates, the rules take out what answers the query or may do so, and of the rest
some are drawn. The command line mines files; a training mines its own records again every so many
steps with the encoder that it has by then (ANCE, Xiong et al. 2021, arXiv 2007.00808).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import numpy as np

from m3search.corpus import document_text
from m3search.errors import ConfigError
from m3search.records import FloatArray
from m3search.training.keys import text_key
from m3search.training.mining.candidates import (
    Candidate,
    CandidateSource,
    Example,
    Found,
    KeyedText,
)
from m3search.training.mining.records import (
    KnownPositives,
    Record,
    negatives_of,
    positive_names,
    positives_of,
)
from m3search.training.mining.rules import (
    MiningSettings,
    Rules,
    digest,
    drawing_order,
    rank_window,
    score_limits,
)

BLOCK = 128
"""queries searched together: the texts of their candidates are held at a time"""
DRAWS = 8
"""rounds of random draws after which a query stays short, as where the corpus is small"""


class PairScorer(Protocol):
    """A reranker, as far as mining knows one."""

    def logits(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """(n,) how relevant the second text of each pair is to the first; their sigmoid is the
        probability of it."""


@dataclass
class Tally:
    """What mining has done so far."""

    queries: int = 0
    negatives: int = 0
    """mined, random ones included"""
    filled: int = 0
    """of them, random ones"""
    short: int = 0
    """queries with fewer negatives than asked"""
    unscored: int = 0
    """queries with a positive whose score is unknown, which no margin was kept to"""
    dropped: Counter[str] = field(default_factory=Counter)
    """candidates by the rule that took them out: the first one that did"""


def mine(
    records: Iterable[Record],
    source: CandidateSource,
    settings: MiningSettings,
    *,
    known: KnownPositives | None = None,
    reranker: PairScorer | None = None,
    tally: Tally | None = None,
) -> Iterator[Record]:
    """The records in their order, each with its mined negatives, the nearest to the query first.

    What a query gets depends on the settings, the query, its positives and what the source finds:
    on no other record, but for the positives in `known`. Without `known` a record's own positives
    are all that is known. A title stays apart from its text, in neg_titles, as those of positives
    do: the training decides what it reads. Fields that belong to the negatives of before (neg_id,
    unless these are kept, and the scores of a teacher) go with them. `tally` is kept up to date.
    """
    check_reranker(settings, reranker is not None)
    miner = _Miner(source, settings, known or KnownPositives(), reranker, tally or Tally())
    return miner.mine(records)


def check_reranker(settings: MiningSettings, given: bool) -> None:
    """ConfigError unless a reranker is given where the settings ask one, and only there."""
    if settings.asks_reranker != given:
        raise ConfigError(
            "reranker",
            expected="one where reranker_threshold or teacher_scores asks it, and only there",
            found="one that neither asks" if given else "none",
            remedy="Give a reranker together with what it is to do.",
        )


@dataclass
class _Draft:
    """A record at work."""

    record: Record
    rules: Rules
    retrieved: frozenset[bytes]
    """keys of all candidates, those outside the window too"""
    order: Iterator[Candidate]
    """candidates that break no rule, as they are drawn"""
    chosen: list[Candidate] = field(default_factory=list)
    filled: list[KeyedText] = field(default_factory=list)


@dataclass(frozen=True)
class _Miner:
    source: CandidateSource
    settings: MiningSettings
    known: KnownPositives
    reranker: PairScorer | None
    tally: Tally
    logits: dict[tuple[str, str], float] = field(default_factory=dict)
    """of the block at work, by query and text"""

    def mine(self, records: Iterable[Record]) -> Iterator[Record]:
        remaining = iter(records)
        while block := list(islice(remaining, BLOCK)):
            yield from self._mine_block(block)
            self.logits.clear()

    def _mine_block(self, records: Sequence[Record]) -> Iterator[Record]:
        found = self.source.find(list(map(self._example, records)), self.settings.ranks[1])
        drafts = [self._draft(*pair) for pair in zip(records, found, strict=True)]
        self._choose(drafts)
        if self.settings.fill_random:
            for draft in drafts:
                self._fill(draft)
        mined = [self._finish(draft) for draft in drafts]
        if self.settings.teacher_scores:
            self._add_scores(mined)
        yield from mined

    def _example(self, record: Record) -> Example:
        positives = positives_of(record) if self.settings.asks_positives else ()
        return Example(record["query"], positives, record.get("prompt") or "")

    def _draft(self, record: Record, found: Found) -> _Draft:
        scores = found.positive_scores
        if self.settings.asks_positives and (not scores or any(map(math.isnan, scores))):
            self.tally.unscored += 1
        query = text_key(record["query"])
        limits = score_limits(scores, self.settings)
        rules = Rules(query, positive_names(record), self.known, limits)
        if self.settings.keep:
            rules.taken.update(*(KeyedText.of(each).names for each in negatives_of(record)))
        left = []
        for candidate in rank_window(found.candidates, self.settings.ranks):
            rule = rules.broken_by(candidate.passage, candidate.score)
            if rule is None:
                left.append(candidate)
            else:
                self.tally.dropped[rule] += 1
        retrieved = frozenset(candidate.passage.key for candidate in found.candidates)
        return _Draft(
            record, rules, retrieved, iter(drawing_order(left, self.settings.seed, query))
        )

    def _choose(self, drafts: Sequence[_Draft]) -> None:
        """Draws for every query until it has enough, or none is left.

        The reranker sees what is drawn and nothing else, which gives the same negatives as if it
        had seen all.
        """
        threshold = self.settings.reranker_threshold
        while drawn := [
            (draft, candidate)
            for draft in drafts
            for candidate in islice(draft.order, self.settings.negatives - len(draft.chosen))
        ]:
            if threshold is not None:
                pairs = [(draft.record["query"], each.passage.text) for draft, each in drawn]
                highest = _logit(threshold)
                judged = [logit > highest for logit in self._score(pairs)]
            else:
                judged = [False] * len(drawn)
            for (draft, candidate), relevant in zip(drawn, judged, strict=True):
                if relevant:
                    self.tally.dropped["reranker"] += 1
                else:
                    draft.chosen.append(candidate)

    def _fill(self, draft: _Draft) -> None:
        """Takes random passages that were not retrieved, so that none of them is known as near."""
        rng = np.random.default_rng(list(digest(self.settings.seed, draft.rules.query)))
        for _ in range(DRAWS):
            lacking = self.settings.negatives - len(draft.chosen) - len(draft.filled)
            if lacking <= 0:
                return
            drawn = (p for p in self.source.draw(2 * lacking, rng) if p.key not in draft.retrieved)
            good = [passage for passage in drawn if draft.rules.broken_by(passage) is None]
            draft.filled.extend(good[:lacking])

    def _finish(self, draft: _Draft) -> Record:
        """The record with its new negatives, and without what belonged to the old ones."""
        nearest_first = sorted(draft.chosen, key=lambda candidate: candidate.rank)
        mined = [*(each.passage for each in nearest_first), *draft.filled]
        self.tally.queries += 1
        self.tally.negatives += len(mined)
        self.tally.filled += len(draft.filled)
        self.tally.short += len(mined) < self.settings.negatives
        old = negatives_of(draft.record) if self.settings.keep else ()
        pairs = [(each.text, each.title) for each in old]
        pairs += [(each.body, each.title) for each in mined]
        record = {**draft.record, "neg": [text for text, _ in pairs]}
        stale = self._stale_fields(bool(mined))
        if record.get("pos"):
            stale.add("pos_id")  # its texts were put in, and a line has one or the other
        titles = [title for _, title in pairs]
        if any(titles):
            record["neg_titles"] = titles
        else:
            stale.add("neg_titles")
        return {name: value for name, value in record.items() if name not in stale}

    def _stale_fields(self, mined: bool) -> set[str]:
        """Fields of a record that would contradict its new negatives."""
        stale = set() if self.settings.keep else {"neg_id"}
        if not self.settings.teacher_scores and (mined or not self.settings.keep):
            stale |= {"pos_scores", "neg_scores"}
        return stale

    def _add_scores(self, records: Sequence[Record]) -> None:
        """pos_scores and neg_scores by the teacher: logits, as FlagEmbedding's trainer reads."""
        texts: dict[str, Callable[[Record], list[str]]] = {
            "pos_scores": _positive_texts,
            "neg_scores": _negative_texts,
        }
        named = [
            (record, name, [(record["query"], text) for text in texts_of(record)])
            for record in records
            for name, texts_of in texts.items()
        ]
        self._score([pair for _, _, pairs in named for pair in pairs])  # all in full batches
        for record, name, pairs in named:
            record[name] = [round(logit, 5) for logit in self._score(pairs)]

    def _score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The reranker's logits; a pair of this block is never scored twice."""
        assert self.reranker is not None
        new = list(dict.fromkeys(pair for pair in pairs if pair not in self.logits))
        if new:
            self.logits.update(zip(new, self.reranker.logits(new).tolist(), strict=True))
        return [self.logits[pair] for pair in pairs]


def _positive_texts(record: Record) -> list[str]:
    return [document_text(document) for document in positives_of(record)]


def _negative_texts(record: Record) -> list[str]:
    return [document_text(document) for document in negatives_of(record)]


def _logit(probability: float) -> float:
    """The inverse of the sigmoid, infinite at 0 and 1."""
    if probability in (0, 1):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1 - probability))
