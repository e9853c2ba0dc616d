"""The scores of the three modes and their fusion, against loops and numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse as sp

from m3search.fusion import reciprocal_rank_fusion, top_k, weighted_sum
from m3search.records import Encoded, Hits
from m3search.scoring import dense_scores, maxsim, maxsim_many, pair_scores, sparse_scores


def unit(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    vectors = rng.normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_dense_scores_are_inner_products() -> None:
    rng = np.random.default_rng(0)
    queries, documents = unit(rng, 3, 8), unit(rng, 5, 8)
    expected = [[sum(map(float, q * d)) for d in documents] for q in queries]
    np.testing.assert_allclose(dense_scores(queries, documents), expected, atol=1e-6)


def test_sparse_scores_sum_over_shared_terms() -> None:
    query = sp.csr_array(np.array([[0.5, 0.0, 0.25, 0.0]], np.float32))
    documents = sp.csr_array(np.array([[0.5, 1, 1, 0], [0, 3, 0, 3], [0, 0, 2, 0]], np.float32))
    assert sparse_scores(query, documents).tolist() == [[0.5, 0.0, 0.5]]


def test_maxsim_by_three_loops() -> None:
    rng = np.random.default_rng(1)
    query, documents = unit(rng, 4, 8), [unit(rng, n, 8) for n in (1, 7, 3)]
    expected = []
    for document in documents:
        total = 0.0
        for q in query:
            best = -np.inf
            for d in document:
                best = max(best, float(np.dot(q.astype(float), d.astype(float))))
            total += best
        expected.append(total / len(query))
    offsets = np.cumsum([0, 1, 7, 3])
    found = maxsim_many(query, np.concatenate(documents), offsets)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert maxsim(query, documents[1]) == found[1]


def test_maxsim_may_be_negative_and_is_zero_for_nothing() -> None:
    assert maxsim([[1.0, 0.0]], [[-1.0, 0.0]]) == -1.0
    vectors = np.array([[1.0, 0.0]], np.float32)
    assert maxsim_many(vectors, vectors, np.array([0, 0, 1, 1])).tolist() == [0.0, 1.0, 0.0]
    assert maxsim_many(np.zeros((0, 2)), vectors, np.array([0, 1])).tolist() == [0.0]


def test_a_score_does_not_depend_on_its_neighbours() -> None:
    """Bit for bit, so that ties stay ties wherever a document lies."""
    rng = np.random.default_rng(2)
    query, same = unit(rng, 9, 64), unit(rng, 13, 64)
    others = [unit(rng, n, 64) for n in (5, 17, 1, 40)]
    parts = [same, others[0], same, others[1], others[2], same, others[3], same]
    offsets = np.cumsum([0, *map(len, parts)])
    scores = maxsim_many(query, np.concatenate(parts), offsets)
    assert len({scores[i] for i in (0, 2, 5, 7)}) == 1
    assert scores[0] == np.float32(maxsim(query, same))


@given(
    st.lists(st.sampled_from([0.5, 1.0, 1.5, -2.0, float("nan")]), max_size=30),
    st.integers(1, 12),
)
def test_top_k_is_the_head_of_the_full_order(scores: list[float], k: int) -> None:
    rows = list(range(len(scores)))[::-1]
    keyed = [(-s if s == s else np.inf, row) for s, row in zip(scores, rows, strict=True)]
    found_rows, found = top_k(rows, scores, k)
    assert found_rows.tolist() == [row for _, row in sorted(keyed)[:k]]
    assert found.tolist() == [-score for score, _ in sorted(keyed)[:k]]


def test_weighted_sum_is_raw() -> None:
    scores = {"dense": [0.5, 0.25], "sparse": [10.0, 0.0], "multi": [0.5, 1.0]}
    weights = {"dense": 1.0, "sparse": 0.25, "multi": 2.0}
    assert weighted_sum(scores, weights).tolist() == [4.0, 2.25]  # type: ignore[arg-type]
    assert weighted_sum({"sparse": [4.0]}, weights).tolist() == [1.0]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no scores"):
        weighted_sum({}, weights)  # type: ignore[arg-type]


def test_the_published_bge_m3_example_adds_up() -> None:
    """README of the reference: weights 0.4, 0.2, 0.4 on its own component scores."""
    parts = {
        "dense": [0.6265, 0.3477, 0.3499, 0.678],
        "sparse": [0.195556640625, 0.00879669189453125, 0.0, 0.1802978515625],
        "multi": [0.7796499729, 0.4621465802, 0.4523794651, 0.7898575068],
    }
    found = weighted_sum(parts, {"dense": 0.4, "sparse": 0.2, "multi": 0.4})  # type: ignore[arg-type]
    published = [0.6013619303, 0.3255828023, 0.3208931983, 0.6232916117]
    np.testing.assert_allclose(found, published, atol=3e-4)


def test_reciprocal_rank_fusion_by_hand() -> None:
    one = Hits(np.array([[7, 3, -1]]), np.array([[2.0, 1.0, -np.inf]], np.float32))
    two = Hits(np.array([[3, 5, 7]]), np.array([[9.0, 8.0, 7.0]], np.float32))
    fused = reciprocal_rank_fusion([one, two], 4)
    assert fused.rows.tolist() == [[3, 7, 5, -1]]
    expected = [1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62]
    np.testing.assert_allclose(fused.scores[0, :3], expected, rtol=1e-6)
    assert reciprocal_rank_fusion([one, two], 1, constant=2, weights=[0, 1]).rows.tolist() == [[3]]


def test_scores_of_pairs_by_hand() -> None:
    def encoded(*lines: list[float]) -> Encoded:
        rows = np.array(lines, np.float32)
        return Encoded(rows, sp.csr_array(rows), [row[None] for row in rows])

    queries, documents = encoded([1, 0], [0.6, 0.8]), encoded([0.8, 0.6], [0, 1])
    scores = pair_scores(queries, documents, (1, 3, 0))
    for name in ("dense", "sparse", "colbert", "sparse+dense", "colbert+sparse+dense"):
        assert scores[name] == pytest.approx([0.8, 0.8]), name
    queries = Encoded(queries.dense, sp.csr_array((2, 2), dtype=np.float32), queries.multi)
    scores = pair_scores(queries, documents, (1, 3, 4))
    assert scores["sparse+dense"] == pytest.approx([0.2, 0.2])
    assert scores["colbert+sparse+dense"] == pytest.approx([0.5, 0.5])
    assert pair_scores(queries, documents, (0, 0, 4))["sparse+dense"] == [0, 0]
