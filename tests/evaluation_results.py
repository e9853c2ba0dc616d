"""Results of sets made up for reports."""

from __future__ import annotations

from typing import Any

import numpy as np

from m3search.evaluation import SetResult, evaluate

ROWS = ("dense", "all", "bm25")
WEIGHTS = {"dense": {"dense": 1.0}, "all": {"dense": 1.0, "sparse": 0.3, "multi": 1.0}}
STAGES = {
    name: {"queries": 2, "p50": p50, "p95": 2 * p50, "p99": 3 * p50}
    for name, p50 in {
        "encode queries": 8.0, "retrieve dense": 0.5, "retrieve sparse": 0.25, "score dense": 0.125,
        "score sparse": 0.0625, "score multi": 4.0, "bm25": 0.0313,
    }.items()
}  # fmt: skip


def details(**changes: Any) -> dict[str, Any]:
    found = {
        "counts": {"documents": 100, "queries": 3, "judgements": 3},
        "seconds": {},
        "settings": {
            "split": "test", "k": 100, "depth": 200, "missing": "exact", "candidates": "union",
            "max_length": 8, "title_template": "{title} & <{text}>", "weights": WEIGHTS,
        },
        "stages_ms": STAGES,
        "bytes": {"dense": 12_800, "multi": 51_250},
    }  # fmt: skip
    return {name: value for name, value in {**found, **changes}.items() if value is not None}


def result(name: str, rows: tuple[str, ...] = ROWS, group: str = "", **changes: Any) -> SetResult:
    """Three queries with one relevant document each, at places that the name decides."""
    random = np.random.default_rng(sum(map(ord, name)))
    qrels = {f"q{number}": {"right": 1} for number in range(3)}
    runs = {
        row: {
            query: {("right" if at == place else f"d{at}"): -float(at) for at in range(12)}
            for query, place in zip(qrels, random.integers(0, 12, 3), strict=True)
        }
        for row in rows
    }
    report = evaluate(runs, qrels, ("nDCG@10", "R@100"))
    return SetResult(name, report, details(**changes), group)
