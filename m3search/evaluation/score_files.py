"""Files of component scores.

A file is JSON lines. The first has the `format`, `depth`, `stages` and `modes`, the SHA-256 of the
`corpus`, the `title_template`, the `model`, its `precision`, a fingerprint of the words of each of
the `queries`, one of the `index`, whether its shortcuts were left aside (`exact`), and the
`multi_codec` of its token vectors; each other one a `query`, its `documents` in the order that
decides ties, the `scores` of each mode and the `ranks` of each first stage, 0 where that did not
return a document. Where `multi` scores some of the candidates alone, the first line has a `reach`:
by mode the `stages` and the `depth` within which they are; others have null.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from m3search.candidates import QueryScores, Reach, Scored
from m3search.errors import ArtifactError, DataError
from m3search.evaluation.collection import Collection
from m3search.evaluation.components import (
    FORMAT,
    ComponentScores,
    Origin,
    fingerprint_of,
    ordered_modes,
)
from m3search.evaluation.lexical import lexical_weights_of
from m3search.evaluation.suite import EvaluationSet
from m3search.lines import display_name, parse_object, read_records
from m3search.stores.files import checksum


def scores_file(folder: Path, name: str) -> Path:
    """Where a folder of component scores has those of a set."""
    return folder / f"{name}.jsonl.gz"


def read_scores(path: Path, wanted: EvaluationSet, collection: Collection) -> ComponentScores:
    """Those of a set in a file.

    DataError with the line of what is wrong, ArtifactError where they are of another corpus, of
    other settings or lack a query.
    """
    name = display_name(path)
    scores = _assemble(read_records(path, _parser(name), inside="scores.jsonl.gz"))
    origin = scores.origin
    if origin.corpus != checksum(collection.corpus):
        raise _foreign(path, "scores of this set's corpus", "those of another, or of an older one")
    for setting, wish, had in (
        ("title_template", wanted.title_template, origin.title_template),
        ("max_length", wanted.max_length, origin.model["max_length"]),
        ("lexical_weights", wanted.lexical_weights, lexical_weights_of(origin.model)),
        ("exact", wanted.exact, origin.exact),
        ("multi_codec", wanted.multi_codec, origin.multi_codec),
    ):
        if wish is not None and wish != had:
            raise _foreign(path, f"scores with {setting} = {wish!r}", f"with {had!r}")
    for query in collection.queries:
        if origin.queries.get(query.id, words := fingerprint_of(query.text)) != words:
            raise _foreign(path, f"scores of {query.id!r} as the set asks it", "of other words")
    lacking = next(
        (query.id for query in collection.queries if query.id not in scores.queries), None
    )
    if lacking is not None:
        raise _foreign(path, "scores of all queries of the set", f"none of {lacking!r}")
    return scores


def unpack_scores(content: bytes, name: str) -> ComponentScores:
    """Those that were `packed`; name: what an error calls them."""
    parse = _parser(name)
    lines = enumerate(gzip.decompress(content).splitlines(), start=1)
    scores = _assemble(parse(number, line) for number, line in lines)
    vars(scores)["packed"] = content  # packing takes longer than all else
    return scores


def _assemble(lines: Iterator[Any]) -> ComponentScores:
    """Scores of a header and what follows it."""
    header = next(lines)
    found = {each.query: each for each in lines}
    origin = Origin(**{each.name: header[each.name] for each in fields(Origin)})
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
        "stages": ordered_modes(fields["stages"]),
        "modes": ordered_modes(fields["modes"]),
        "reach": {
            mode: Reach(ordered_modes(own["stages"]), int(own["depth"]))
            for mode, own in fields.get("reach", {}).items()
        },
        "corpus": str(fields["corpus"]),
        "title_template": str(fields["title_template"]),
        "precision": str(fields["precision"]),
        "queries": dict(fields["queries"]),
        "index": str(fields["index"]),
        "exact": bool(fields.get("exact", False)),
        "multi_codec": str(fields.get("multi_codec", "int4")),
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
