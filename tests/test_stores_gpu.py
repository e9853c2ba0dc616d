"""Dense search on a GPU, which a fake one stands for: numpy under the names and limits of FAISS."""

import gc
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest
from dense_stores import assert_exact, unit, write

from m3search.stores import gpu
from m3search.stores.clusters import Clusters, write_clusters
from m3search.stores.dense import SLACK, FlatStore
from m3search.stores.floats import FP16, FP32

ROWS, DIM = 3000, 24


class FakeGpu:
    """The memory of a GPU, and what was asked of it."""

    def __init__(self):
        self.room = 10**9
        self.searches = 0
        self.inside = threading.Lock()
        self.held = weakref.WeakSet()


@pytest.fixture
def machine(monkeypatch):
    """A machine whose FAISS has a GPU, which takes segments of any size."""
    machine = FakeGpu()

    class Index:
        def __init__(self, resources, dim):
            assert resources == "resources"
            self.vectors = np.zeros((0, dim), np.float32)
            machine.held.add(self)

        def add(self, vectors):
            assert vectors.dtype == np.float32
            machine.room -= vectors.nbytes
            if machine.room < 0:
                raise RuntimeError("Error: 'err == cudaSuccess' failed: out of memory\nat line 1")
            self.vectors = np.concatenate([self.vectors, vectors])

        def search(self, queries, k):
            """Sums from the last dimension on, and equal ones from the last row on."""
            assert k <= 2048
            assert machine.inside.acquire(blocking=False), "two threads at a time"
            machine.searches += 1
            if machine.room < queries.nbytes:
                machine.inside.release()
                raise RuntimeError("out of memory")
            scores = np.zeros((len(queries), len(self.vectors)), np.float32)
            for d in reversed(range(queries.shape[1])):
                scores += queries[:, [d]] * self.vectors[:, d]
            order = np.argsort(scores[:, ::-1] * -1, axis=1, kind="stable")[:, :k]
            rows = len(self.vectors) - 1 - order
            machine.inside.release()
            return np.take_along_axis(scores, rows, 1), rows

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "GpuIndexFlatIP", Index, raising=False)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr("m3search.stores.gpu.LEAST_ROWS", 1)
    monkeypatch.setattr("m3search.stores.gpu.ROWS_AT_ONCE", 1000)
    monkeypatch.setattr("m3search.stores.dense.FEW_ROWS", 0)
    gpu._resources.cache_clear()
    yield machine
    gpu._resources.cache_clear()


@pytest.fixture
def vectors():
    vectors = unit(np.random.default_rng(0), ROWS, DIM)
    vectors[::7] = vectors[0]  # more ties than are fetched
    return vectors


def queries():
    return unit(np.random.default_rng(1), 6, DIM)


@pytest.mark.parametrize("floats", [FP32, FP16])
@pytest.mark.parametrize("k", [1, 10, 500, 2048 - SLACK])
def test_answers_are_those_of_the_processor(machine, tmp_path, vectors, floats, k):
    store = write(tmp_path, vectors, floats=floats)
    asked = np.concatenate([queries(), vectors[:1]])
    assert_exact(store, store.vectors(np.arange(ROWS)), asked, k)
    assert machine.searches == 1


def test_a_query_alone_is_answered_by_the_gpu(machine, tmp_path, vectors):
    store = write(tmp_path, vectors)
    for number, query in enumerate(queries(), start=1):
        assert_exact(store, vectors, query[np.newaxis], 10)
        assert machine.searches == number


def test_scores_too_near_for_float32_sums(machine, tmp_path):
    random = np.random.default_rng(2)
    near = (unit(random, 1, 96) + 3e-8 * random.normal(size=(2000, 96))).astype(np.float32)
    assert_exact(write(tmp_path, near), near, near[:2], 5)
    assert machine.searches == 1


def test_more_hits_than_a_gpu_finds_come_from_the_processor(machine, tmp_path, vectors):
    assert_exact(write(tmp_path, vectors), vectors, queries(), 2049 - SLACK)
    assert machine.searches == 0


def test_filters_are_answered_by_the_processor(machine, tmp_path, vectors):
    allowed = np.random.default_rng(3).random(ROWS) < 0.5
    assert_exact(write(tmp_path, vectors), vectors, queries(), 10, allowed)
    assert machine.searches == 0


def test_small_segments_stay_where_they_are(machine, tmp_path, vectors, monkeypatch):
    monkeypatch.setattr("m3search.stores.gpu.LEAST_ROWS", ROWS + 1)
    assert_exact(write(tmp_path, vectors), vectors, queries(), 10)
    assert machine.searches == 0


def test_without_a_gpu_nothing_is_asked_of_one(machine, tmp_path, vectors, monkeypatch):
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert_exact(write(tmp_path / "none", vectors), vectors, queries(), 10)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.delattr(faiss, "GpuIndexFlatIP")
    assert_exact(write(tmp_path / "other", vectors), vectors, queries(), 10)
    assert machine.searches == 0


def test_no_room_for_the_vectors_is_said_once(machine, tmp_path, vectors):
    machine.room = vectors.nbytes // 2
    store = write(tmp_path, vectors)
    with pytest.warns(RuntimeWarning, match=r"3,000 dense .* on the CPU: .* out of memory$"):
        assert_exact(store, vectors, queries(), 10)
    gc.collect()
    assert not machine.held
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_exact(store, vectors, queries(), 10)
    assert machine.searches == 0


def test_no_room_for_a_search_frees_the_vectors(machine, tmp_path, vectors):
    machine.room = vectors.nbytes
    store = write(tmp_path, vectors)
    with pytest.warns(RuntimeWarning, match="out of memory"):
        assert_exact(store, vectors, queries(), 10)
    gc.collect()
    assert not machine.held
    assert_exact(store, vectors, queries(), 10)
    assert machine.searches == 1


def test_vectors_are_there_from_the_first_search_until_the_store_is_gone(
    machine, tmp_path, vectors
):
    store = write(tmp_path, vectors)
    assert not machine.held
    for _ in range(3):
        store.retrieve(queries(), 10)
    assert len(machine.held) == 1
    assert machine.room == 10**9 - vectors.nbytes
    del store
    gc.collect()
    assert not machine.held


def test_a_gpu_goes_before_clusters_until_it_fails(machine, tmp_path, vectors, monkeypatch):
    flat = write(tmp_path, vectors)
    _, details = write_clusters(tmp_path, flat.matrix)
    clusters = Clusters(tmp_path, ROWS, DIM, {**details, "probes": 1})
    looked = []
    find = Clusters.find
    monkeypatch.setattr(Clusters, "find", lambda *given: looked.append(1) or find(*given))
    store = FlatStore(tmp_path, ROWS, DIM, clusters)
    assert_exact(store, vectors, queries(), 10)
    assert (machine.searches, looked) == (1, [])
    store.retrieve(queries(), 10, np.arange(ROWS) > 5)
    assert (machine.searches, len(looked)) == (1, len(queries()))
    machine.room = 0
    with pytest.warns(RuntimeWarning, match="out of memory"):
        assert_exact(store, vectors, queries(), 10)
    store.retrieve(queries(), 10)
    assert len(looked) == 2 * len(queries())


def test_threads_take_turns(machine, tmp_path, vectors):
    store = write(tmp_path, vectors)
    expected = store.retrieve(queries(), 10)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: store.retrieve(queries(), 10), range(64)):
            assert np.array_equal(found.rows, expected.rows)
            assert np.array_equal(found.scores, expected.scores)
    assert machine.searches == 65
