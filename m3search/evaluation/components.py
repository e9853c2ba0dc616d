"""What each mode says of the candidates of a set's queries: every row of a report comes from it."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from m3search.candidates import QueryScores, Reach
from m3search.errors import ConfigError
from m3search.evaluation.collection import Collection
from m3search.evaluation.suite import EvaluationSet
from m3search.plan import Plan
from m3search.records import MODES, Mode, Run
from m3search.stores.files import checksum, replace_file

if TYPE_CHECKING:
    from m3search.encoder import Encoder
    from m3search.index import Index
    from m3search.search import EncodedQueries, Searcher

FORMAT = 2
_DIGITS = ".9g"  # as many as tell float32 numbers apart


@dataclass(frozen=True)
class Origin:
    """What component scores are of."""

    corpus: str
    """SHA-256 of its file"""
    title_template: str
    model: Mapping[str, Any]
    """the identity of the encoder; JSON-ready"""
    precision: str
    """in which it computed"""
    queries: Mapping[str, str]
    """query id -> fingerprint of its words"""
    index: str
    """SHA-256 of what it holds"""
    exact: bool = False
    """whether its shortcuts were left aside"""
    multi_codec: str = "int4"
    """how its token vectors are stored"""

    @classmethod
    def of(
        cls, wanted: EvaluationSet, collection: Collection, encoder: Encoder, index: Index
    ) -> Origin:
        """That of a search of a set."""
        identity = encoder.identity
        return cls(
            checksum(collection.corpus),
            wanted.title_template,
            asdict(identity) | {"fusion_weights": list(identity.fusion_weights)},
            encoder.precision,
            {query.id: fingerprint_of(query.text) for query in collection.queries},
            index.manifest.fingerprint,
            wanted.exact,
            wanted.multi_codec,
        )


@dataclass(frozen=True)
class ComponentScores:
    """The candidates of all queries of a set, and their exact scores by mode."""

    queries: Mapping[str, QueryScores]
    stages: tuple[Mode, ...]
    """first stages that gave the candidates"""
    modes: tuple[Mode, ...]
    """modes that have scored them"""
    depth: int
    """candidates of a stage at most"""
    origin: Origin
    reach: Mapping[Mode, Reach] = field(default_factory=dict)
    """of a mode that has scored some of the candidates alone, which"""

    @property
    def fusion_weights(self) -> Sequence[float]:
        """Those of the model."""
        weights: Sequence[float] = self.origin.model["fusion_weights"]
        return weights

    def run(self, plan: Plan) -> Run:
        """The run of a plan, as a search by it gives it but for equal scores at its end."""
        return {query: _ranked(found, plan) for query, found in self.queries.items()}

    def without_same_ids(self) -> ComponentScores:
        """The same without a candidate that has the id of its query."""
        kept = {query: each.without(query) for query, each in self.queries.items()}
        return replace(self, queries=kept)

    def check(self, row: str, plan: Plan, where: str) -> None:
        """ConfigError where a row's plan needs what is not here."""
        unscored = [f"the scores of {mode}" for mode in plan.modes if mode not in self.modes]
        stages = [mode for mode in plan.first_stages if mode not in self.stages]
        lacking = [*unscored, *(f"what {mode} retrieves" for mode in stages)]
        if plan.depth > self.depth:
            lacking.append(f"the {plan.depth} best of a stage")
        for mode, (reached, depth) in self.reach.items():
            inside = plan.depth <= depth and {*plan.first_stages} <= {*reached}
            if mode in plan.modes and not inside:
                most = f"the {depth} best of {' and '.join(reached)}"
                lacking.append(f"the scores of {mode} for more than {most}")
        if lacking:
            raise ConfigError(
                where,
                expected=f"for the row {row}: {lacking[0]}",
                found=f"scores of {', '.join(self.modes)}, of the {self.depth} best of "
                f"{', '.join(self.stages)}",
                remedy="Ask for other rows, a smaller depth or cut-off, or evaluate without "
                "component scores.",
            )

    @cached_property
    def packed(self) -> bytes:
        """The content of a file of them, gzip; `score_files` says what is in it."""
        header = {
            "format": FORMAT, "depth": self.depth, "stages": self.stages, "modes": self.modes,
            **vars(self.origin),
        }  # fmt: skip
        if self.reach:
            header["reach"] = {mode: reach._asdict() for mode, reach in self.reach.items()}
        content = io.BytesIO()
        with gzip.GzipFile("", "wb", 6, fileobj=content, mtime=0) as file:
            for fields in (header, *self._lines()):
                file.write(json.dumps(fields, ensure_ascii=False).encode() + b"\n")
        return content.getvalue()

    def write(self, path: Path) -> None:
        """A file of them: there whole, or not at all."""
        replace_file(path, self.packed)

    def _lines(self) -> Iterator[dict[str, Any]]:
        for query, documents, scored in self.queries.values():
            scores = {mode: _numbers(values) for mode, values in scored.scores.items()}
            ranks = {stage: places.tolist() for stage, places in scored.ranks.items()}
            yield {"query": query, "documents": documents, "scores": scores, "ranks": ranks}


def collect(
    searcher: Searcher,
    queries: EncodedQueries,
    plans: Iterable[Plan],
    origin: Origin,
    progress: Callable[[int], None] = lambda _: None,
) -> ComponentScores:
    """What all of the plans need, searched once; `progress` gets the number of queries done.

    Token vectors, which cost the most, are compared within the depth that a plan with them has.
    """
    asked = list(plans)
    stages = ordered_modes(mode for plan in asked for mode in plan.first_stages)
    modes = ordered_modes(mode for plan in asked for mode in plan.modes)
    depth = max(plan.depth for plan in asked)
    reach = reach_of_multi(asked, depth)
    found: dict[str, QueryScores] = {}
    for each in searcher.candidates(queries, stages=stages, modes=modes, depth=depth, reach=reach):
        found[each.query] = each
        progress(1)
    return ComponentScores(found, stages, modes, depth, origin, reach)


def reach_of_multi(plans: Iterable[Plan], depth: int) -> dict[Mode, Reach]:
    """Which candidates plans with multi have; none where they go as deep as all others."""
    with_multi = [plan for plan in plans if "multi" in plan.modes]
    deepest = max((plan.depth for plan in with_multi), default=depth)
    if deepest == depth:
        return {}
    stages = ordered_modes(mode for plan in with_multi for mode in plan.first_stages)
    return {"multi": Reach(stages, deepest)}


def _ranked(found: QueryScores, plan: Plan) -> dict[str, float]:
    rows, scores = found.scored.ranked(replace(plan, k=plan.k + 1))
    if len(rows) > plan.k and scores[-1] == scores[-2]:  # others may be as good as these
        rows, scores = found.scored.ranked(replace(plan, k=len(found.documents)))
    names = dict(zip(found.scored.rows.tolist(), found.documents, strict=True))
    best = zip(rows.tolist(), scores.tolist(), strict=True)
    return cut([(names[row], score) for row, score in best], plan.k)


def cut(found: Sequence[tuple[str, float]], k: int) -> dict[str, float]:
    """The k best of documents with their scores, given best first, in their order.

    Of equal scores at the end the highest ids are in, as trec_eval would have them first.
    """
    if len(found) > k > 0 and found[k][1] == found[k - 1][1]:
        inside = {*sorted(found, key=lambda pair: (pair[1], pair[0]))[-k:]}
        found = [pair for pair in found if pair in inside]
    return dict(found[:k])


def without_same_ids(run: Run) -> Run:
    """A run without the documents that have the id of their query, as BEIR measures it."""
    return {
        query: {name: score for name, score in found.items() if name != query}
        for query, found in run.items()
    }


def fingerprint_of(text: str) -> str:
    """16 digits that change where a text does."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def ordered_modes(names: Iterable[str]) -> tuple[Mode, ...]:
    """The modes named, each once and in their order."""
    given = set(names)
    if not given <= {*MODES}:
        raise ValueError(f"{sorted(given - {*MODES})[0]!r}, which is no mode")
    return tuple(mode for mode in MODES if mode in given)


def _numbers(values: npt.NDArray[np.float32]) -> list[float | None]:
    """As JSON has them; None for NaN."""
    return [float(format(each, _DIGITS)) if each == each else None for each in values.tolist()]
