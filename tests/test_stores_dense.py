import faiss
import numpy as np
import pytest
from dense_stores import assert_exact, unit, write
from hypothesis import given, settings
from hypothesis import strategies as st

from m3search.errors import ArtifactError
from m3search.scoring import exact_scores
from m3search.stores.dense import FILE, SLACK, FlatStore, FlatWriter
from m3search.stores.floats import FP16


@pytest.mark.parametrize("shape", [(3, 8), (2, 2), (4,), (1, 4, 1)])
def test_a_wrong_dimension_is_not_reshaped(tmp_path, shape):
    writer = FlatWriter(tmp_path, 4)
    with pytest.raises(ValueError, match=r"not \(n, 4\)"):
        writer.append(np.zeros(shape, np.float32))
    writer.close()


def test_exact_scores_by_hand():
    scores = exact_scores(np.array([0.5, 0.5], np.float32), [[1, 0], [1, 1], [-1, 0]])
    assert scores.tolist() == [0.5, 1.0, -0.5]
    assert scores.dtype == np.float32


def test_a_score_has_the_same_bits_whatever_is_beside_it():
    random = np.random.default_rng(0)
    for dim in (1, 3, 8, 384, 1024):
        vectors, query = unit(random, 257, dim), unit(random, dim)
        together = exact_scores(query, vectors)
        alone = [exact_scores(query, vectors[row : row + 1])[0] for row in range(257)]
        assert together.tobytes() == np.array(alone).tobytes()


def test_faiss_reads_what_is_written(tmp_path):
    vectors = unit(np.random.default_rng(1), 100, 16)
    write(tmp_path, vectors, pieces=7)
    index = faiss.read_index(str(tmp_path / FILE))
    assert isinstance(index, faiss.IndexFlatIP)
    assert np.array_equal(index.reconstruct_n(0, 100), vectors)


@pytest.mark.parametrize("k", [1, 10, 400, 468, 500, 501])
def test_against_brute_force(tmp_path, k):
    random = np.random.default_rng(2)
    vectors = unit(random, 500, 24)
    store = write(tmp_path, vectors, pieces=3)
    queries = unit(random, 4, 24)
    assert_exact(store, vectors, queries, k)
    for share in (0.0, 0.01, 0.5, 1.0):
        assert_exact(store, vectors, queries, k, random.random(500) < share)


def test_identical_documents_come_in_row_order(tmp_path):
    vectors = np.repeat(unit(np.random.default_rng(3), 1, 48), 3000, axis=0)
    store = write(tmp_path, vectors)
    hits = store.retrieve(vectors[:2], 7)
    assert hits.rows.tolist() == [list(range(7))] * 2
    allowed = np.arange(3000) % 5 == 3
    assert store.retrieve(vectors[:1], 4, allowed).rows.tolist() == [[3, 8, 13, 18]]


def test_scores_too_near_for_float32_sums(tmp_path):
    """More near-ties than FAISS fetches, whose order in float32 is mostly noise."""
    random = np.random.default_rng(4)
    vectors = (unit(random, 1, 96) + 3e-8 * random.normal(size=(2000, 96))).astype(np.float32)
    store = write(tmp_path, vectors)
    queries = np.concatenate([vectors[:2], unit(random, 2, 96)])
    assert len(np.unique(exact_scores(queries[0], vectors))) > 1
    for k in (1, 5, 100):
        assert_exact(store, vectors, queries, k)


def test_zero_and_long_vectors(tmp_path):
    random = np.random.default_rng(5)
    vectors = (100 * random.normal(size=(300, 8))).astype(np.float32)
    vectors[::2] = 0
    store = write(tmp_path, vectors)
    queries = np.stack([np.zeros(8, np.float32), vectors[1]])
    assert_exact(store, vectors, queries, 5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_grids_of_ties(tmp_path_factory, data):
    """Coordinates of a few values make many equal scores at every cut."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    vectors = random.integers(-1, 2, size=(data.draw(st.integers(0, 150)), 3)).astype(np.float32)
    store = write(tmp_path_factory.mktemp("dense"), vectors)
    queries = random.integers(-1, 2, size=(data.draw(st.integers(0, 3)), 3)).astype(np.float32)
    allowed = data.draw(st.sampled_from([None, random.random(len(vectors)) < 0.7]))
    assert_exact(store, vectors, queries, data.draw(st.integers(0, 170)), allowed)


def test_many_queries_are_fetched_in_blocks(tmp_path, monkeypatch):
    random = np.random.default_rng(6)
    vectors, queries = unit(random, 200, 8), unit(random, 9, 8)
    store = write(tmp_path, vectors)
    monkeypatch.setattr("m3search.stores.dense.FETCHED_AT_ONCE", 2 * (SLACK + 5))
    monkeypatch.setattr("m3search.stores.dense.BLOCK_ROWS", 3)
    assert_exact(store, vectors, queries, 5)


def test_nothing_stored_and_nothing_asked(tmp_path):
    store = write(tmp_path, np.zeros((0, 8), np.float32))
    assert store.retrieve(np.ones((2, 8), np.float32), 3).rows.tolist() == [[-1] * 3] * 2
    assert store.retrieve(np.zeros((0, 8), np.float32), 3).rows.shape == (0, 3)


def test_a_query_that_is_no_number_finds_without_a_crash(tmp_path):
    store = write(tmp_path, unit(np.random.default_rng(7), 200, 8))
    assert store.retrieve(np.full((1, 8), np.nan, np.float32), 3).rows.shape == (1, 3)


@pytest.mark.parametrize("damage", ["cut", "foreign", "other size"])
def test_damage(tmp_path, damage):
    write(tmp_path, unit(np.random.default_rng(8), 20, 8))
    file, rows = tmp_path / FILE, 20
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "foreign":
        file.write_bytes(b"x" * 1000)
    else:
        rows = 21
    with pytest.raises(ArtifactError, match=FILE):
        FlatStore(tmp_path, rows, 8)


def test_the_longest_vector_is_that_of_all(tmp_path):
    writer = FlatWriter(tmp_path, 3)
    for block in ([[1, 0, 0]], [[0, 3, 4], [1, 1, 1]], [[0.5, 0, 0]]):
        writer.append(np.array(block, np.float32))
    writer.finish()
    assert writer.longest == 5.0


@pytest.mark.parametrize(("rows", "dim"), [(0, 8), (1, 1), (3000, 24)])
def test_halves_are_ranked_as_the_numbers_that_are_stored(tmp_path, rows, dim):
    random = np.random.default_rng(9)
    vectors = unit(random, rows, dim) if rows else np.zeros((0, dim), np.float32)
    vectors[::7] = vectors[:1]  # ties
    store = write(tmp_path, vectors, pieces=3, floats=FP16)
    stored = vectors.astype(np.float16).astype(np.float32)
    assert (tmp_path / FILE).stat().st_size == 81 + 2 * rows * dim
    assert np.array_equal(store.vectors(np.arange(rows)), stored)
    queries = unit(random, 5, dim)
    for allowed in (None, random.random(rows) < 0.6):
        for k in (1, 10, 1500):
            assert_exact(store, stored, queries, k, allowed)
    read = faiss.read_index(str(tmp_path / FILE))
    assert (read.ntotal, read.d) == (rows, dim)
    if rows:
        np.testing.assert_array_equal(read.reconstruct_n(0, rows), stored)


def test_the_longest_of_halves_is_that_of_what_is_stored(tmp_path):
    writer = FlatWriter(tmp_path, 1, FP16)
    writer.append(np.array([[1.00048828125 + 0.0002]], np.float32))  # rounds up
    writer.finish()
    assert writer.longest == np.float16(1.0007)


def test_files_of_one_kind_are_not_read_as_the_other(tmp_path):
    vectors = unit(np.random.default_rng(10), 20, 8)
    write(tmp_path / "a", vectors, floats=FP16)
    with pytest.raises(ArtifactError, match=r"dense\.faiss: expected .* in IndexFlatIP"):
        FlatStore(tmp_path / "a", 20, 8)
    write(tmp_path / "b", vectors)
    with pytest.raises(ArtifactError, match="in IndexScalarQuantizer"):
        FlatStore(tmp_path / "b", 20, 8, floats=FP16)
    other = faiss.IndexScalarQuantizer(
        8, faiss.ScalarQuantizer.QT_8bit_direct, faiss.METRIC_INNER_PRODUCT
    )
    other.add(vectors)
    faiss.write_index(other, str(tmp_path / "b" / FILE))
    with pytest.raises(ArtifactError, match="in IndexScalarQuantizer"):
        FlatStore(tmp_path / "b", 20, 8, floats=FP16)
