import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_fakes import slow_rank
from scipy import sparse as sp

from m3search.scoring import sparse_scores
from m3search.stores import sparse
from m3search.stores.impacts import FP32, IMPACTS
from m3search.stores.sparse import FILES, CscStore, CscWriter, merge_postings


def draw(random, rows, vocabulary, density=0.3) -> sp.csr_array:
    weights = random.random((rows, vocabulary)) * (random.random((rows, vocabulary)) < density)
    return sp.csr_array(weights.astype(np.float32))


def write(folder, vectors, pieces=1, impacts=FP32) -> CscStore:
    folder.mkdir(exist_ok=True)
    writer = CscWriter(folder, vectors.shape[1], impacts)
    step = max(1, -(-vectors.shape[0] // pieces))
    for start in range(0, vectors.shape[0], step):
        writer.append(vectors[start : start + step])
    writer.finish()
    return CscStore(folder, *vectors.shape, impacts)


def write_older(folder, vectors, peaks=True) -> CscStore:
    """The same as older versions wrote it: a list for every term, and at first no peaks."""
    write(folder, vectors)
    (folder / "sparse.terms.npy").unlink()
    columns = vectors.tocsc()
    np.save(folder / "sparse.indptr.npy", columns.indptr.astype("<i8"))
    if peaks:
        highest = vectors.max(axis=0).toarray().astype("<f4")
        np.save(folder / "sparse.peaks.npy", highest)
    return CscStore(folder, *vectors.shape, older=True)


def as_stored(vectors, impacts) -> sp.csr_array:
    """The vectors, their weights rounded as they are stored."""
    weights = impacts.decode(impacts.encode(vectors.data))
    return sp.csr_array((weights, vectors.indices, vectors.indptr), shape=vectors.shape)


def slow(query: sp.csr_array, vectors: sp.csr_array) -> list[float]:
    """The scores of all rows for one query, by a loop over dictionaries."""
    weights = dict(zip(query.indices.tolist(), query.data.tolist(), strict=True))
    scores = []
    for row in range(vectors.shape[0]):
        line = vectors[[row]]
        held = dict(zip(line.indices.tolist(), line.data.tolist(), strict=True))
        total = 0.0
        for term in sorted(weights):
            total += weights[term] * held.get(term, 0.0)
        scores.append(float(np.float32(total)))
    return scores


def test_by_hand(tmp_path):
    vectors = sp.csr_array(np.array([[0, 2, 0], [1, 0, 0], [0, 1, 4], [0, 2, 0]], np.float32))
    store = write(tmp_path, vectors)
    assert store.table.indptr.tolist() == [0, 1, 4, 5]
    assert store.rows.tolist() == [1, 0, 2, 3, 2]
    assert store.codes.tolist() == [1, 2, 1, 2, 4]
    assert store.lengths.tolist() == [1, 1, 2, 1]
    query = sp.csr_array(np.array([[0, 3, 0.5]], np.float32))
    hits = store.retrieve(query, 4)
    assert hits.rows.tolist() == [[0, 3, 2, -1]]
    assert hits.scores.tolist() == [[6, 6, 5, -np.inf]]


@pytest.mark.parametrize("name", IMPACTS)
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(0, 50), st.booleans(), st.booleans()
)
def test_against_dictionaries(tmp_path_factory, name, seed, rows, k, masked, coarse):
    random = np.random.default_rng(seed)
    vectors, queries = draw(random, rows, 12), draw(random, 3, 12)
    if coarse:  # few different weights: many ties
        vectors.data, queries.data = np.ceil(2 * vectors.data), np.ceil(2 * queries.data)
    store = write(tmp_path_factory.mktemp("sparse"), vectors, 3, IMPACTS[name])
    vectors = as_stored(vectors, IMPACTS[name])
    assert store.verify() == []
    allowed = random.random(rows) < 0.6 if masked else None
    hits = store.retrieve(queries, k, allowed)
    for line in range(3):
        query = queries[[line]]
        expected = slow(query, vectors)
        best = slow_rank(expected, k, allowed, positive=True)
        found = hits.rows[line] >= 0
        assert hits.rows[line][found].tolist() == best
        assert hits.scores[line][found].tolist() == [expected[row] for row in best]
        every = np.arange(rows)[::-1]
        assert store.scores(query, every).tolist() == expected[::-1]
        assert np.array_equal(store.scores(query, every), sparse_scores(query, vectors)[0][every])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.booleans(), st.booleans())
def test_windows_and_passive_terms_change_nothing(tmp_path_factory, seed, k, masked, coarse):
    """Many rows for the windows, a few heavy terms and many light ones, which become passive."""
    random = np.random.default_rng(seed)
    vectors = draw(random, 700, 14, density=np.geomspace(0.02, 0.9, 14))
    query = draw(random, 1, 14, density=0.8)
    query = sp.csr_array(query * np.geomspace(1, 1e-3, 14, dtype=np.float32))
    if coarse:
        vectors.data = np.ceil(2 * vectors.data)
    store = write(tmp_path_factory.mktemp("sparse"), vectors)
    allowed = random.random(700) < 0.5 if masked else None
    expected = store.retrieve(query, 700, allowed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "WINDOWS", (2, 32))
        found = store.retrieve(query, k, allowed)
    assert found.rows.tolist() == expected.rows[:, :k].tolist()
    assert found.scores.tobytes() == expected.scores[:, :k].tobytes()
    scores = store.scores(query, np.arange(700))
    best = slow_rank(scores.tolist(), k, allowed, positive=True)
    assert found.rows[0][found.rows[0] >= 0].tolist() == best


@pytest.mark.parametrize("few", [0, 1, 7, 40])
def test_few_allowed_rows_are_searched_for_in_the_lists(tmp_path, monkeypatch, few):
    """With the same bits as where the lists are read."""
    random = np.random.default_rng(few)
    vectors, queries = draw(random, 9000, 10, density=0.6), draw(random, 3, 10)
    store = write(tmp_path, vectors)
    allowed = np.zeros(9000, dtype=bool)
    allowed[random.choice(9000, few, replace=False)] = True
    monkeypatch.setattr(sparse, "best_rows", None)  # it is not called
    found = store.retrieve(queries, 5, allowed)
    monkeypatch.undo()
    monkeypatch.setattr(CscStore, "_are_few", lambda *_: False)
    wanted = store.retrieve(queries, 5, allowed)
    assert found.rows.tolist() == wanted.rows.tolist()
    assert found.scores.tobytes() == wanted.scores.tobytes()
    assert (found.rows >= 0).any() == (few > 0)


@pytest.mark.parametrize("masked", [False, True])
def test_few_rows_are_looked_up_in_long_lists(tmp_path, masked):
    """One rare heavy term: light terms of most rows are looked up for the rows that have it."""
    random = np.random.default_rng(11)
    rows = 60_000
    weights = random.random((rows, 4)).astype(np.float32) + np.float32(0.1)
    weights *= random.random((rows, 4)) < np.array([0.002, 0.7, 0.6, 0.5])
    store = write(tmp_path, sp.csr_array(weights))
    query = np.array([[1, 0.01, 0.02, 0.005]], np.float32)
    exact = (weights.astype(np.float64) * query).sum(axis=1).astype(np.float32)
    allowed = random.random(rows) < 0.5 if masked else None
    for k in (1, 7, 60):
        hits = store.retrieve(sp.csr_array(query), k, allowed)
        best = slow_rank(exact.tolist(), k, allowed, positive=True)
        assert hits.rows[0].tolist() == best
        np.testing.assert_allclose(hits.scores[0], exact[best], rtol=1e-6)
        assert (
            hits.scores[0].tobytes() == store.scores(sp.csr_array(query), np.array(best)).tobytes()
        )


def test_scores_of_a_few_rows_copy_no_posting_list(tmp_path):
    rows = 1 << 19
    store = write(tmp_path, sp.csr_array(np.ones((rows, 1), np.float32)))
    query, wanted = sp.csr_array(np.ones((1, 1), np.float32)), np.array([5, rows - 1, 0])
    tracemalloc.start()
    try:
        assert store.scores(query, wanted).tolist() == [1, 1, 1]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < rows  # the list has 4 bytes a row


@pytest.mark.parametrize("peaks", [False, True])
def test_an_older_segment_answers_the_same(tmp_path, peaks):
    random = np.random.default_rng(8)
    vectors, queries = draw(random, 90, 6), draw(random, 4, 6)
    vectors = sp.csr_array(vectors * np.array([1, 1, 0, 1, 1, 1], np.float32))
    vectors.eliminate_zeros()
    store, older = write(tmp_path / "new", vectors), write_older(tmp_path / "old", vectors, peaks)
    assert store.table.terms.tolist() == [0, 1, 3, 4, 5]
    assert store.table.peaks.tolist() == vectors.max(axis=0).toarray()[[0, 1, 3, 4, 5]].tolist()
    for k in (1, 20):
        found, expected = older.retrieve(queries, k), store.retrieve(queries, k)
        assert found.rows.tolist() == expected.rows.tolist()
        assert found.scores.tobytes() == expected.scores.tobytes()
    assert older.verify() == []
    (tmp_path / "merged").mkdir()
    merge_postings([(older, np.ones(90, dtype=bool))], tmp_path / "merged")
    for name in FILES:
        content = (tmp_path / "new" / name).read_bytes()
        assert (tmp_path / "merged" / name).read_bytes() == content


def test_one_document_takes_little_room_in_a_large_vocabulary(tmp_path):
    vectors = sp.csr_array((np.ones(3, np.float32), ([0, 0, 0], [7, 900, 249_999])), (1, 250_000))
    store = write(tmp_path, vectors)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1000
    query = sp.csr_array((np.ones(2, np.float32), ([0, 0], [8, 249_999])), (1, 250_000))
    assert store.retrieve(query, 1).scores.tolist() == [[1]]
    (tmp_path / "merged").mkdir()
    merge_postings([(store, np.ones(1, bool)), (store, np.zeros(1, bool))], tmp_path / "merged")
    for name in FILES:
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_terms_that_the_index_lacks(tmp_path):
    store = write(tmp_path, draw(np.random.default_rng(0), 5, 4, density=1))
    wide = sp.csr_array((np.ones(2, np.float32), ([0, 0], [2, 90])), shape=(1, 100))
    narrow = sp.csr_array((np.ones(1, np.float32), ([0], [2])), shape=(1, 4))
    assert np.array_equal(store.retrieve(wide, 5).scores, store.retrieve(narrow, 5).scores)
    none = sp.csr_array((2, 4), dtype=np.float32)
    assert store.retrieve(none, 3).rows.tolist() == [[-1, -1, -1]] * 2
    assert store.scores(none[[0]], np.arange(5)).tolist() == [0.0] * 5
    assert store.retrieve(none[:0], 3).rows.shape == (0, 3)


def test_what_the_codecs_keep_of_a_weight():
    weights = np.geomspace(1e-3, 30, 5000).astype(np.float32)
    for name, most in (("fp32", 0), ("fp16", 2.0**-11), ("log8", 2 ** (1 / 32) - 1)):
        impacts = IMPACTS[name]
        stored = impacts.decode(impacts.encode(weights))
        assert np.abs(stored / weights - 1).max() <= most * 1.001
        assert stored.dtype == np.float32
        assert (np.diff(stored) >= 0).all()
    beyond = np.array([1e-30, 1e30], np.float32)
    for name in ("fp16", "log8"):
        least, highest = IMPACTS[name].decode(IMPACTS[name].encode(beyond)).tolist()
        assert 0 < least < 1e-3 and 31 < highest < 70_000


@pytest.mark.parametrize("name", IMPACTS)
@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
def test_merge_equals_a_store_of_the_live_rows(tmp_path, monkeypatch, at_once, name):
    impacts = IMPACTS[name]
    monkeypatch.setattr(sparse, "POSTINGS_AT_ONCE", at_once)
    random = np.random.default_rng(1)
    pieces = [draw(random, rows, 15) for rows in (9, 1, 20, 4)]
    lives = [random.random(piece.shape[0]) < 0.6 for piece in pieces]
    lives[3][:] = False
    stores = [write(tmp_path / str(i), piece, 1, impacts) for i, piece in enumerate(pieces)]
    (tmp_path / "merged").mkdir()
    merge_postings(list(zip(stores, lives, strict=True)), tmp_path / "merged", impacts)
    kept = [piece[np.flatnonzero(live)] for piece, live in zip(pieces, lives, strict=True)]
    write(tmp_path / "whole", sp.csr_array(sp.vstack(kept)), 1, impacts)
    for name in FILES:
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "merged" / name).read_bytes() == whole


def test_arrays_are_mapped_and_plain_npy(tmp_path):
    store = write(tmp_path, draw(np.random.default_rng(2), 6, 5))
    assert np.array_equal(np.load(tmp_path / "sparse.rows.npy"), store.rows)
    assert isinstance(store.rows.base, np.memmap)


def test_rows_that_are_equal_in_float32_rank_by_row(tmp_path):
    """Though in float64, in which they are pruned, they differ, and later ones are higher."""
    weights = np.linspace(1, 2, 5000)[:, None]
    vectors = sp.csr_array(np.hstack([weights, np.ones_like(weights)]).astype(np.float32))
    store = write(tmp_path, vectors)
    query = sp.csr_array(np.array([[1e-8, 1.0]], np.float32))
    exact = store.scores(query, np.arange(5000))
    for k in (1, 3, 600):
        order = np.lexsort((np.arange(5000), -exact))[:k]
        assert store.retrieve(query, k).rows[0].tolist() == order.tolist()


def test_weights_below_0_in_a_query(tmp_path):
    random = np.random.default_rng(11)
    vectors = draw(random, 5000, 6)
    store = write(tmp_path, vectors)
    query = sp.csr_array(np.array([[1, -0.5, 0.7, -2, 0.1, 0.3]], np.float32))
    scores = store.scores(query, np.arange(5000))
    for k in (1, 30, 5000):
        hits = store.retrieve(query, k)
        found = hits.rows[0][hits.rows[0] >= 0].tolist()
        assert found == slow_rank(scores.tolist(), k, positive=True)
