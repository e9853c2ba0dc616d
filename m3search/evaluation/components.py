"""What each mode says of the candidates of a set's queries: every row of a report comes from it.

A file of them is JSON lines. The first has the `format`, `depth`, `stages` and `modes`, the SHA-256
of the `corpus`, the `title_template` and the `model`; each other one a `query`, its `documents` in
the order that decides ties, the `scores` of each mode and the `ranks` of each first stage, 0 where
that did not return a document. Where `multi` scores some of the candidates alone, the first line
has a `reach`: by mode the `stages` and the `depth` within which they are; others have null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from m3search.candidates import QueryScores, Reach, Scored
from m3search.errors import ArtifactError, ConfigError, DataError
from m3search.evaluation.collection import Collection
from m3search.evaluation.lexical import lexical_weights_of
from m3search.evaluation.suite import EvaluationSet
from m3search.lines import display_name, parse_object, read_records
from m3search.plan import Plan
from m3search.records import MODES, Mode, Run
from m3search.stores.files import checksum, write_whole

if TYPE_CHECKING:
    from m3search.search import EncodedQueries, Searcher

FORMAT = 1
_DIGITS = ".9g"  # as many as tell float32 numbers apart


def scores_file(folder: Path, name: str) -> Path:
    """Where a folder of component scores has those of a set."""
    return folder / f"{name}.jsonl.gz"


@dataclass(frozen=True)
class Origin:
    """What component scores are of."""

    corpus: str
    """SHA-256 of its file"""
    title_template: str
    model: Mapping[str, Any]
    """the identity of the encoder; JSON-ready"""

    @classmethod
    def of(cls, wanted: EvaluationSet, collection: Collection, model: Mapping[str, Any]) -> Origin:
        """That of a search of a set."""
        return cls(checksum(collection.corpus), wanted.title_template, model)


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
        """The run of a plan, as a search by it gives it."""
        return {query: _ranked(found, plan) for query, found in self.queries.items()}

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

    def write(self, path: Path) -> None:
        """A file of them: there whole, or not at all."""
        header = {
            "format": FORMAT, "depth": self.depth, "stages": self.stages, "modes": self.modes,
            **vars(self.origin),
        }  # fmt: skip
        if self.reach:
            header["reach"] = {mode: reach._asdict() for mode, reach in self.reach.items()}
        with write_whole(path) as file:
            for fields in (header, *self._lines()):
                file.write(json.dumps(fields, ensure_ascii=False).encode() + b"\n")

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
    stages = _modes(mode for plan in asked for mode in plan.first_stages)
    modes = _modes(mode for plan in asked for mode in plan.modes)
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
    stages = _modes(mode for plan in with_multi for mode in plan.first_stages)
    return {"multi": Reach(stages, deepest)}


def read_scores(path: Path, wanted: EvaluationSet, collection: Collection) -> ComponentScores:
    """Those of a set in a file.

    DataError with the line of what is wrong, ArtifactError where they are of another corpus, of
    other settings or lack a query.
    """
    lines = read_records(path, _parser(display_name(path)), inside="scores.jsonl.gz")
    header = next(lines)
    found = {each.query: each for each in lines}
    if header["corpus"] != checksum(collection.corpus):
        raise _foreign(path, "scores of this set's corpus", "those of another, or of an older one")
    for name, asked, had in (
        ("title_template", wanted.title_template, header["title_template"]),
        ("max_length", wanted.max_length, header["model"]["max_length"]),
        ("lexical_weights", wanted.lexical_weights, lexical_weights_of(header["model"])),
    ):
        if asked is not None and asked != had:
            raise _foreign(path, f"scores with {name} = {asked!r}", f"with {had!r}")
    lacking = next((query.id for query in collection.queries if query.id not in found), None)
    if lacking is not None:
        raise _foreign(path, "scores of all queries of the set", f"none of {lacking!r}")
    origin = Origin(*(header[name] for name in ("corpus", "title_template", "model")))
    stages, modes, depth = (header[name] for name in ("stages", "modes", "depth"))
    return ComponentScores(found, stages, modes, depth, origin, header["reach"])


def _foreign(path: Path, expected: str, found: str) -> ArtifactError:
    remedy = "Take the scores of an evaluation like this one, or evaluate without them."
    return ArtifactError(str(path), expected=expected, found=found, remedy=remedy)


def _parser(name: str) -> Callable[[int, bytes], Any]:
    """Reads the lines of a file: the first as the header, every other as a `QueryScores`."""
    header: dict[str, Any] = {}
    seen: set[str] = set()

    def parse(number: int, line: bytes) -> Any:
        fields = parse_object(name, number, line)
        try:
            if not header:
                header.update(_header(fields))
                return header
            scores = _query_scores(fields, header)
            if scores.query in seen:
                raise ValueError(f"the query {scores.query!r} a second time")
            seen.add(scores.query)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                name,
                number,
                expected="component scores, as m3search eval leaves them",
                found=f"something else ({type(error).__name__}: {error})",
                remedy="Evaluate anew.",
            ) from error
        return scores

    return parse


def _header(fields: Mapping[str, Any]) -> dict[str, Any]:
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']!r} instead of {FORMAT}")
    return {
        "depth": int(fields["depth"]),
        "stages": _modes(fields["stages"]),
        "modes": _modes(fields["modes"]),
        "reach": {
            mode: Reach(_modes(own["stages"]), int(own["depth"]))
            for mode, own in fields.get("reach", {}).items()
        },
        "corpus": str(fields["corpus"]),
        "title_template": str(fields["title_template"]),
        "model": {
            **fields["model"],
            "max_length": int(fields["model"]["max_length"]),
            "fusion_weights": [float(weight) for weight in fields["model"]["fusion_weights"]],
        },
    }


def _query_scores(fields: Mapping[str, Any], header: Mapping[str, Any]) -> QueryScores:
    documents = list(map(str, fields["documents"]))
    count = len(documents)
    scores = {mode: _column(fields["scores"][mode], np.float32, count) for mode in header["modes"]}
    ranks = {stage: _column(fields["ranks"][stage], np.int64, count) for stage in header["stages"]}
    for mode, values in scores.items():
        reach = header["reach"].get(mode)
        unscored = ~reach.within(ranks) if reach else np.zeros(count, dtype=bool)
        if (np.isnan(values) != unscored).any():
            raise ValueError(f"no score of {mode}, or one too many")
    return QueryScores(str(fields["query"]), documents, Scored(np.arange(count), scores, ranks))


def _column(values: list[float], kind: npt.DTypeLike, count: int) -> Any:
    column = np.array(values, kind)
    if column.shape != (count,):
        raise ValueError(f"{len(values)} numbers of {count} documents")
    return column


def _ranked(found: QueryScores, plan: Plan) -> dict[str, float]:
    names = dict(zip(found.scored.rows.tolist(), found.documents, strict=True))
    rows, scores = found.scored.ranked(plan)
    return {names[row]: score for row, score in zip(rows.tolist(), scores.tolist(), strict=True)}


def _modes(names: Iterable[str]) -> tuple[Mode, ...]:
    """The modes named, each once and in their order."""
    given = set(names)
    if not given <= {*MODES}:
        raise ValueError(f"{sorted(given - {*MODES})[0]!r}, which is no mode")
    return tuple(mode for mode in MODES if mode in given)


def _numbers(values: npt.NDArray[np.float32]) -> list[float | None]:
    """As JSON has them; None for NaN."""
    return [float(format(each, _DIGITS)) if each == each else None for each in values.tolist()]
