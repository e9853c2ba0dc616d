"""The benchmarks of search: what they hold the answers against."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3search.errors import ConfigError
from m3search.scoring import maxsim

sys.path.insert(0, str(Path(__file__).parent.parent / "eval" / "benchmarks"))
multi_search: Any = import_module("multi_search")


class Texts:
    """Documents of random token vectors, one of them empty."""

    def __init__(self, count: int) -> None:
        random = np.random.default_rng(0)
        lengths = [0, *random.integers(1, 9, size=count - 1).tolist()]
        self.held = [random.normal(size=(length, 4)).astype(np.float32) for length in lengths]

    def multi(self, rows: Iterable[int]) -> list[np.ndarray]:
        return [self.held[row] for row in rows]


def test_the_best_by_maxsim_are_those_of_all_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_search, "AT_ONCE", 7)
    texts = Texts(40)
    queries = [np.random.default_rng(1).normal(size=(3, 4)), np.ones((1, 4))]
    found = multi_search.best_by_maxsim(texts, 40, queries, 5)
    for query, rows in zip(queries, found, strict=True):
        scores = [maxsim(query, text) for text in texts.held]
        assert rows.tolist() == sorted(range(40), key=lambda row: -scores[row])[:5]


def test_recall_is_the_share_of_the_best() -> None:
    exact = [np.arange(20), np.arange(100, 120)]
    answers = {0: np.arange(0, 40, 2), 1: np.arange(100, 120)}
    shares = multi_search.recalls(
        lambda query: answers[int(query[0, 0])],
        exact,
        [
            np.zeros((1, 1)),
            np.ones((1, 1)),
        ],
    )
    assert shares == {"recall@10": 0.75, "recall@20": 0.75}


def test_without_fast_plaid_there_is_nothing_to_compare_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fast_plaid", None)
    with pytest.raises(ConfigError, match="--fast-plaid: expected the package fast-plaid"):
        multi_search.answer_with_plaid(tmp_path, Texts(3), 3, 2)
