from pathlib import Path

import numpy as np
import pytest
from dense_stores import unit

from m3search.errors import ArtifactError
from m3search.stores import clusters
from m3search.stores.clusters import FILE, Clusters, write_clusters
from m3search.stores.dense import FlatStore, FlatWriter

ROWS, DIM = 3000, 24


@pytest.fixture(scope="module")
def vectors():
    random = np.random.default_rng(0)
    centres = unit(random, 60, DIM)
    return unit(random, ROWS, DIM) * 0.7 + centres[random.integers(60, size=ROWS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, vectors):
    folder = tmp_path_factory.mktemp("clusters")
    unit_rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    writer = FlatWriter(folder, DIM)
    writer.append(unit_rows)
    writer.finish()
    return folder


@pytest.fixture(scope="module")
def details(folder):
    store = FlatStore(folder, ROWS, DIM)
    path, details = write_clusters(folder, store.matrix)
    assert path == folder / FILE
    return details


@pytest.fixture
def store(folder, details, monkeypatch):
    monkeypatch.setattr("m3search.stores.dense.FEW_ROWS", 0)
    return FlatStore(folder, ROWS, DIM, Clusters(folder, ROWS, DIM, details))


def queries(count=40):
    return unit(np.random.default_rng(1), count, DIM)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_a_disk_that_is_full_at_the_last_byte(folder, tmp_path):
    """FAISS's own files say nothing of it."""
    (tmp_path / FILE).symlink_to("/dev/full")
    matrix = FlatStore(folder, ROWS, DIM).matrix
    with pytest.raises(OSError, match="No space left") as caught:
        write_clusters(tmp_path, matrix)
    assert caught.value.filename == str(tmp_path / FILE)


def test_what_was_measured_is_told(details):
    assert details["recall"] >= clusters.WANTED
    assert 1 <= details["probes"] < details["lists"]
    assert (details["recall_at"], details["queries"]) == (100, 200)


def test_most_of_the_best_are_found_with_their_exact_scores(store):
    exact = store.retrieve(queries(), 20, exact=True)
    found = store.retrieve(queries(), 20)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.rows, found.rows, strict=True)]
    assert np.mean(shared) >= 0.97 * 20
    for query, rows, scores in zip(queries(), found.rows, found.scores, strict=True):
        assert scores.tobytes() == store.scores(query, rows).tobytes()
        assert (np.diff(scores) <= 0).all()


def test_only_allowed_rows_are_found(store):
    allowed = np.random.default_rng(2).random(ROWS) < 0.7
    exact = store.retrieve(queries(), 20, allowed, exact=True)
    found = store.retrieve(queries(), 20, allowed)
    assert allowed[found.rows].all()
    shared = [len(set(a) & set(b)) for a, b in zip(exact.rows, found.rows, strict=True)]
    assert np.mean(shared) >= 0.95 * 20


@pytest.mark.parametrize("share", [0.001, 0.02])
def test_few_allowed_rows_are_all_looked_at(store, share):
    allowed = np.random.default_rng(3).random(ROWS) < share
    for k in (3, 200):
        exact = store.retrieve(queries(), k, allowed, exact=True)
        assert np.array_equal(store.retrieve(queries(), k, allowed).rows, exact.rows)


def test_more_than_the_clusters_find(store):
    exact = store.retrieve(queries(3), ROWS - 1, exact=True)
    assert np.array_equal(store.retrieve(queries(3), ROWS - 1).rows, exact.rows)


def test_a_file_of_another_segment(folder, details):
    with pytest.raises(ArtifactError, match=r"ivf\.faiss: expected 2999 vectors of 24, found 3000"):
        Clusters(folder, ROWS - 1, DIM, details)


def test_damage(folder, details, tmp_path):
    (tmp_path / FILE).write_bytes((folder / FILE).read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"dense\.ivf\.faiss: expected a FAISS index"):
        Clusters(tmp_path, ROWS, DIM, details)


@pytest.mark.parametrize("k", [100, 300, 700])
def test_as_many_of_a_longer_list_are_found(store, k):
    exact = store.retrieve(queries(), k, exact=True)
    found = store.retrieve(queries(), k)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.rows, found.rows, strict=True)]
    assert np.mean(shared) >= 0.97 * k


def test_a_filter_on_what_is_far_from_the_query(store, vectors):
    """The rows that are allowed are of other groups than those near the query."""
    for query in queries(10):
        far = vectors @ query < np.quantile(vectors @ query, 0.5)
        exact = store.retrieve(query[None], 50, far, exact=True).rows[0]
        found = store.retrieve(query[None], 50, far).rows[0]
        assert far[found].all()
        assert len(set(exact) & set(found)) >= 0.9 * 50


def test_rows_that_are_none_are_damage(store, monkeypatch):
    class Wrong:
        ntotal = ROWS

        def search(self, queries, k, params):
            return None, np.array([[3, 3, ROWS + 1, -1]])

    monkeypatch.setattr(store._clusters, "_index", Wrong())
    with pytest.raises(ArtifactError, match=r"ivf\.faiss: expected rows from 0 to 2999"):
        store.retrieve(queries(1), 2)


def test_a_row_that_stands_twice_is_found_once(store, monkeypatch):
    class Twice:
        ntotal = ROWS

        def search(self, queries, k, params):
            return None, np.array([[3, 3, 8, 5]])

    monkeypatch.setattr(store._clusters, "_index", Twice())
    assert sorted(store.retrieve(queries(1), 3).rows[0].tolist()) == [3, 5, 8]
