"""The benchmarks of a growing index and of sparse search, on collections of a few documents."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_fakes import FakeEncoder

sys.path.insert(0, str(Path(__file__).parent.parent / "eval" / "benchmarks"))
growing: Any = import_module("growing")
sparse_search: Any = import_module("sparse_search")
synthetic: Any = import_module("synthetic")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_grown_indexes_answer_as_compacted_ones(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    texts, questions = [f"text {n}" for n in range(50)], [f"question {n}" for n in range(8)]
    real = synthetic.Real(
        encoder.identity, texts, encoder.encode(texts), questions,
        encoder.encode(questions, "query"), texts, questions,
    )  # fmt: skip
    asked = argparse.Namespace(documents=30, adds=13, at_once=5, changed=0.2, seed=0)
    commits = growing.make_indexes(tmp_path, synthetic.Clocked(real), asked)
    found = {name: each["commits"] for name, each in commits.items()}
    assert found == {"add 1": 13, "add 5": 3, "delete 5": 1, "update 5": 1}
    assert commits["add 1"]["merges"] > 0 and 0 < commits["add 1"]["merge_share"] < 1
    assert commits["add 5"]["merges"] == 0
    rows = growing.search(tmp_path, real, range(8), depth=20)["queries"]
    assert {name: row["same"] for name, row in rows.items()} == dict.fromkeys(rows, 1.0)
    alone = [name for name in rows if name.endswith(", multi alone")]
    assert len(alone) == len(rows) / 2
    counts = {name: len(growing.Index.open(tmp_path / name)) for name in rows if name not in alone}
    assert counts == {
        "added, compacted": 43, "added one by one": 43, "added in batches": 43,
        "changed, compacted": 39, "changed": 39, "deleted, compacted": 34, "deleted": 34,
    }  # fmt: skip
    segments = {name: row["segments"] for name, row in rows.items() if "compacted" in name}
    assert segments == dict.fromkeys(segments, 1)


def test_recall_is_counted_as_by_hand() -> None:
    hits = {"exact": [7, 3, 5, -1], "near": [3, 9, -1, -1]}
    finders = {name: lambda _, rows=rows: np.array(rows) for name, rows in hits.items()}
    found = sparse_search.measure_recall(finders, [None, None])
    assert found["exact"] == {"recall": 1.0, "recall_10": 1.0}
    assert found["near"] == {"recall": 0.3333, "recall_10": 0.3333}
