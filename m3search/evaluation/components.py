"""What each mode says of the candidates of a set's queries: every row of a report comes from it.

A file of them is JSON lines. The first has `depth`, `stages`, `modes` and the `model`; each other
one a `query`, its `documents` in the order that decides ties, the `scores` of each mode and the
`ranks` of each first stage, 0 where that did not return a document.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from m3search.candidates import Scored
from m3search.errors import ConfigError, DataError
from m3search.lines import display_name, parse_object, read_records
from m3search.plan import Plan
from m3search.records import MODES, Mode, Query, Run
from m3search.stores.files import write_whole

if TYPE_CHECKING:
    from m3search.search import EncodedQueries, Searcher

_DIGITS = ".9g"  # as many as tell float32 numbers apart


def scores_file(folder: Path, name: str) -> Path:
    """Where a folder of component scores has those of a set."""
    return folder / f"{name}.jsonl.gz"


class QueryScores(NamedTuple):
    """The candidates of one query."""

    documents: list[str]
    scored: Scored


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
    model: Mapping[str, Any]
    """the identity of the encoder; JSON-ready"""

    def run(self, plan: Plan) -> Run:
        """The run of a plan, as a search by it gives it; ConfigError where it asks for more."""
        self.check(plan)
        return {query: _ranked(found, plan) for query, found in self.queries.items()}

    def check(self, plan: Plan) -> None:
        """ConfigError where a plan needs what is not here."""
        lacking = [mode for mode in plan.modes if mode not in self.modes]
        lacking += [mode for mode in plan.first_stages if mode not in self.stages]
        if lacking or plan.depth > self.depth:
            have = f"{', '.join(self.modes)} of the {self.depth} best of {', '.join(self.stages)}"
            asked = f"{lacking[0]}" if lacking else f"a depth of {plan.depth}"
            raise ConfigError(
                "component scores",
                expected=f"rows of what they hold: {have}",
                found=asked,
                remedy="Ask for fewer rows or a smaller depth, or evaluate without them.",
            )

    def check_queries(self, queries: Iterable[Query], where: Path) -> None:
        """DataError unless all of the queries have scores here."""
        lacking = next((query.id for query in queries if query.id not in self.queries), None)
        if lacking is not None:
            raise DataError(
                where,
                expected="component scores of all queries of the set",
                found=f"none of {lacking!r}",
                remedy="Take the scores of this set, or evaluate without them.",
            )

    def write(self, path: Path) -> None:
        """A file of them: there whole, or not at all."""
        header = {
            "depth": self.depth, "stages": self.stages, "modes": self.modes,
            "model": dict(self.model),
        }  # fmt: skip
        with write_whole(path) as file:
            for fields in (header, *self._lines()):
                file.write(json.dumps(fields, ensure_ascii=False).encode() + b"\n")

    def _lines(self) -> Iterator[dict[str, Any]]:
        for query, (documents, scored) in self.queries.items():
            scores = {mode: _numbers(values) for mode, values in scored.scores.items()}
            ranks = {stage: places.tolist() for stage, places in scored.ranks.items()}
            yield {"query": query, "documents": documents, "scores": scores, "ranks": ranks}


def collect(
    searcher: Searcher, queries: EncodedQueries, plans: Iterable[Plan], model: Mapping[str, Any]
) -> ComponentScores:
    """What all of the plans need, searched once."""
    asked = list(plans)
    stages = _modes(mode for plan in asked for mode in plan.first_stages)
    modes = _modes(mode for plan in asked for mode in plan.modes)
    depth = max(plan.depth for plan in asked)
    found = searcher.candidates(queries, stages=stages, modes=modes, depth=depth)
    by_query = {query: QueryScores(ids, scored) for query, ids, scored in found}
    return ComponentScores(by_query, stages, modes, depth, model)


def read_scores(path: Path) -> ComponentScores:
    """Those of a file; DataError with the line of what is wrong."""
    name = display_name(path)
    header: dict[str, Any] = {}
    queries: dict[str, QueryScores] = {}

    def parse(number: int, line: bytes) -> None:
        fields = parse_object(name, number, line)
        try:
            if header:
                queries[fields["query"]] = _query_scores(fields, header)
            else:
                stages, modes = (_modes(fields[key]) for key in ("stages", "modes"))
                header.update(
                    stages=stages, modes=modes, depth=int(fields["depth"]), model=fields["model"]
                )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                name,
                number,
                expected="component scores, as m3search eval leaves them",
                found=f"something else ({type(error).__name__}: {error})",
                remedy="Evaluate anew.",
            ) from error

    for _ in read_records(path, parse, inside="scores.jsonl.gz"):
        pass
    return ComponentScores(queries, **header)


def _query_scores(fields: Mapping[str, Any], header: Mapping[str, Any]) -> QueryScores:
    documents = fields["documents"]
    count = len(documents)
    scores = {mode: _column(fields["scores"][mode], np.float32, count) for mode in header["modes"]}
    ranks = {stage: _column(fields["ranks"][stage], np.int64, count) for stage in header["stages"]}
    return QueryScores(documents, Scored(np.arange(count), scores, ranks))


def _column(values: list[float], kind: npt.DTypeLike, count: int) -> Any:
    column = np.array(values, kind)
    if column.shape != (count,):
        raise ValueError(f"{len(values)} numbers of {count} documents")
    return column


def _ranked(found: QueryScores, plan: Plan) -> dict[str, float]:
    documents, scored = found
    if not documents:
        return {}
    names: dict[int, str] = dict(zip(scored.rows.tolist(), documents, strict=True))
    rows, scores = scored.ranked(plan)
    return {names[row]: score for row, score in zip(rows.tolist(), scores.tolist(), strict=True)}


def _modes(names: Iterable[str]) -> tuple[Mode, ...]:
    """The modes named, each once and in their order."""
    given = set(names)
    if not given <= {*MODES}:
        raise ValueError(f"{sorted(given - {*MODES})[0]!r}, which is no mode")
    return tuple(mode for mode in MODES if mode in given)


def _numbers(values: npt.NDArray[np.float32]) -> list[float]:
    return [float(format(value, _DIGITS)) for value in values.tolist()]
