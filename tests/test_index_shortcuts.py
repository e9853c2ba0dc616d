"""A large segment's shortcuts are written, opened again, used, and lose little or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from index_fakes import FakeEncoder
from small_indexes import assert_ranks, build, corpus

from m3search.errors import ArtifactError
from m3search.index import Index
from m3search.records import MODES
from m3search.stores.clusters import Clusters
from m3search.stores.snapshot import find_damages
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


def test_the_longest_vector_is_kept_with_every_segment(tmp_path: Path) -> None:
    """A bound of rounding errors depends on it, and with it which hits are exact."""
    index = build(tmp_path, corpus(40))
    for change in (lambda: None, lambda: index.add(corpus(3, 50), FakeEncoder()), index.compact):
        change()
        opened = Index.open(tmp_path)
        for segment in opened._snapshot.segments:
            norms = np.linalg.norm(segment.dense.matrix.astype(np.float64), axis=1)
            assert segment.dense._longest == pytest.approx(norms.max(), abs=1e-12)
            assert segment.entry.stores["dense"].details == {"longest": segment.dense._longest}


@pytest.mark.parametrize(
    "name",
    ["dense.ivf.faiss", "multi.centroids.npy", "multi.indptr.npy", "multi.rows.npy"],
)
def test_a_damaged_shortcut_is_named(tmp_path: Path, asked: list[str], name: str) -> None:
    build(tmp_path, corpus(400), segment_documents=1000)
    (file,) = tmp_path.rglob(name)
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x80
    file.write_bytes(content)
    _, damages = find_damages(tmp_path, read=True)
    assert damages == [f"{file}: the content differs from its checksum"]
    file.unlink()
    with pytest.raises(ArtifactError, match=f"{name}: expected a file of the index"):
        Index.open(tmp_path)


def test_shortcuts_leave_out_what_is_deleted_or_not_allowed(
    tmp_path: Path, asked: list[str]
) -> None:
    index = build(tmp_path, corpus(400), segment_documents=1000)
    index.delete([f"d{i}" for i in range(0, 400, 3)])
    allowed = index.select("n>=100")
    assert allowed is not None
    queries = FakeEncoder().encode(["a", "b c", "text 9"], "query")
    for mode in MODES:
        for k in (1, 20, 300):
            hits = index.retrieve(mode, queries, k, allowed)
            found = hits.rows[hits.rows >= 0]
            assert allowed[found].all()
            if mode != "sparse":
                assert (hits.rows >= 0).sum() == 3 * min(k, allowed.sum())
            for line in range(3):
                rows = hits.rows[line][hits.rows[line] >= 0]
                exact = index.scores(mode, queries[line : line + 1], rows)
                assert hits.scores[line][: len(rows)].tobytes() == exact.tobytes()
                assert len(np.unique(rows)) == len(rows)
    assert {*asked} == {"Clusters", "TokenLists"}


@pytest.mark.parametrize("deleted", [0, 15])
def test_a_filter_that_leaves_few_is_as_an_index_of_what_it_leaves(
    tmp_path: Path, asked: list[str], deleted: int
) -> None:
    index = build(tmp_path / "all", corpus(400), segment_documents=1000)
    index.delete([f"d{number}" for number in range(deleted)])
    fresh = build(tmp_path / "few", corpus(40 - deleted, first=deleted), segment_documents=1000)
    queries = FakeEncoder().encode(["a", "b c", "text 9"], "query")
    allowed = index.select("n<40")
    for mode in MODES:
        for k in (3, 12, 60):
            hits = index.retrieve(mode, queries, k, allowed)
            wanted = fresh.retrieve(mode, queries, k)
            assert hits.scores.tobytes() == wanted.scores.tobytes()
            for line, other in zip(hits.rows, wanted.rows, strict=True):
                assert index.ids(line[line >= 0]) == fresh.ids(other[other >= 0])
    assert asked == []


def test_an_index_looks_at_every_row_where_that_is_asked(tmp_path: Path, asked: list[str]) -> None:
    """So do what it is refreshed to, and what is pinned."""
    build(tmp_path, corpus(300), segment_documents=1000)
    exact = Index.open(tmp_path, exact=True)
    for index in (exact, exact.pinned()):
        assert_ranks(index)
    before = Index.open(tmp_path, exact=True)
    exact.add(corpus(200, first=300), FakeEncoder())
    refreshed = before.refresh()
    assert refreshed is not before
    assert_ranks(refreshed)
    assert asked == []
    exact.exact = False
    exact.retrieve("multi", FakeEncoder().encode(["text 3"]), 5)
    assert set(asked) == {"TokenLists"}
