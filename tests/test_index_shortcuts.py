"""A large segment's shortcuts are written, opened again, used, and lose little or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from index_fakes import FakeEncoder
from small_indexes import build, corpus

from m3search.index import Index
from m3search.stores.clusters import Clusters
from m3search.stores.token_lists import TokenLists


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which shortcuts were asked; every segment of an index is large enough to have them."""
    monkeypatch.setattr("m3search.stores.clusters.LEAST_ROWS", 100)
    monkeypatch.setattr("m3search.stores.token_lists.LEAST_ROWS", 100)
    monkeypatch.setattr("m3search.stores.dense.FEW_ROWS", 8)
    monkeypatch.setattr("m3search.stores.multi.SCORED", 8)
    monkeypatch.setattr("m3search.stores.clusters.WANTED", 0.3)
    asked = []
    for kind in (Clusters, TokenLists):
        find = kind.find

        def watched(store, *given, find=find, kind=kind):  # type: ignore[no-untyped-def]
            asked.append(kind.__name__)
            return find(store, *given)

        monkeypatch.setattr(kind, "find", watched)
    return asked


def test_an_opened_index_uses_its_shortcuts(tmp_path: Path, asked: list[str]) -> None:
    build(tmp_path / "one", corpus(400), segment_documents=1000)
    for change in (lambda index: None, lambda index: index.compact()):
        index = Index.open(tmp_path / "one")
        change(index)
        assert index.verify() == []
        query = FakeEncoder().encode(["a"])
        for mode in ("dense", "multi"):
            hits = index.retrieve(mode, query, 3)
            exact = index.scores(mode, query, hits.rows[0])
            np.testing.assert_array_equal(hits.scores[0], exact)
        index.add(corpus(2), FakeEncoder())
    assert sorted(asked) == ["Clusters"] * 2 + ["TokenLists"] * 2
