"""The answers of an index: rows, scores, ties and masks, over one segment or many."""

from __future__ import annotations

import numpy as np
import pytest
from index_fakes import TOLERANCE, FakeEncoder, slow_rank
from small_indexes import assert_ranks, build, corpus

from m3search.records import MODES, Document
from m3search.scoring import exact_scores, maxsim, sparse_scores


def test_many_segments_answer_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("m3search.stores.tiers.MOST_SEGMENTS", 64)
    many = build(tmp_path / "many", corpus(40), segment_documents=3, multi_codec="int8")
    one = build(tmp_path / "one", corpus(40), segment_documents=100, multi_codec="int8")
    assert (len(many.manifest.segments), len(one.manifest.segments)) == (14, 1)
    queries = FakeEncoder().encode(["a", "b c", "", "text 9"])
    allowed = np.arange(40) % 3 > 0
    for mode in MODES:
        for k in (1, 10, 50):
            for mask in (None, allowed):
                a, b = (index.retrieve(mode, queries, k, mask) for index in (many, one))
                assert a.rows.tobytes() == b.rows.tobytes()
                assert a.scores.tobytes() == b.scores.tobytes()
        for line in range(4):
            rows = np.array([39, 0, 7, 7])
            a, b = (i.scores(mode, queries[line : line + 1], rows) for i in (many, one))
            assert a.tobytes() == b.tobytes()
    assert_ranks(one)


def test_identical_documents_rank_by_row_over_segments(tmp_path):
    index = build(tmp_path, [Document(f"d{i}", "same") for i in range(100)], segment_documents=40)
    query = FakeEncoder().encode(["text"])
    for mode in MODES:
        hits = index.retrieve(mode, query, 5)
        if mode != "sparse" or hits.scores[0][0] > 0:
            assert hits.rows.tolist() == [[0, 1, 2, 3, 4]]


def test_an_empty_index_answers(tmp_path):
    index = build(tmp_path, [])
    queries = FakeEncoder().encode(["a", "b"])
    for mode in MODES:
        assert index.retrieve(mode, queries, 3).rows.tolist() == [[-1] * 3] * 2
        assert index.retrieve(mode, queries[:0], 3).rows.shape == (0, 3)
        assert index.scores(mode, queries[:1], np.array([], int)).shape == (0,)
    assert index.rows_of(["a"]).tolist() == [-1]
    assert index.documents([]) == []
    assert index.select("a=b").tolist() == []
    assert (len(index), index.delete(["a"]), index.verify()) == (0, 0, [])
    index.compact()
    assert index.add(corpus(2)).documents == 2


def test_selected_rows_only(tmp_path):
    index = build(tmp_path, corpus(30))
    index.delete(["d20"])
    allowed = index.select("n>=15,n<25")
    assert np.flatnonzero(allowed).tolist() == [15, 16, 17, 18, 19, 21, 22, 23, 24]
    assert index.select(None) is None
    query = FakeEncoder().encode(["text 3"])
    for mode in MODES:
        exact = index.scores(mode, query, np.arange(30)).tolist()
        hits = index.retrieve(mode, query, 4, allowed)
        best = slow_rank(exact, 4, allowed, positive=mode == "sparse")
        assert hits.rows[0][hits.rows[0] >= 0].tolist() == best
        hits = index.retrieve(mode, query, 30, np.ones(30, bool))
        assert 20 not in hits.rows  # no mask brings back what is deleted
    with pytest.raises(ValueError, match="mask"):
        index.retrieve("dense", query, 4, allowed[:-1])


def test_scores_of_no_row(tmp_path):
    index = build(tmp_path, corpus(9))
    query = FakeEncoder().encode(["a"])
    assert index.scores("dense", query, np.array([-1, 8]))[0] == -np.inf
    with pytest.raises(IndexError):
        index.scores("dense", query, np.array([9]))
    with pytest.raises(IndexError):
        index.documents([-1])


def test_what_an_index_keeps_is_told(tmp_path):
    """Scores of texts as they are stored are those of the same texts in the index."""
    codecs = {"dense_codec": "fp16", "sparse_codec": "log8", "multi_codec": "binary"}
    index = build(tmp_path, corpus(20), multi_pooling=2, **codecs)
    encoder = FakeEncoder()
    encoded = encoder.encode([f"{d.title}\n{d.text}" if d.title else d.text for d in corpus(20)])
    stored = index.as_stored(encoded)
    query = encoder.encode(["text 3"], "query")
    rows = np.arange(20)
    dense = index.scores("dense", query, rows)
    assert np.array_equal(dense, exact_scores(query.dense[0], stored.dense))
    assert not np.array_equal(dense, exact_scores(query.dense[0], encoded.dense))
    index.compact()
    assert np.array_equal(dense, index.scores("dense", query, rows))
    sparse = sparse_scores(query.sparse, stored.sparse)[0]
    np.testing.assert_allclose(index.scores("sparse", query, rows), sparse, rtol=1e-6)
    assert not np.allclose(sparse, sparse_scores(query.sparse, encoded.sparse)[0], rtol=1e-6)
    multi = [maxsim(query.multi[0], vectors) for vectors in stored.multi]
    np.testing.assert_allclose(index.scores("multi", query, rows), multi, atol=TOLERANCE["multi"])
    assert [len(v) for v in stored.multi] == [-(-len(v) // 2) for v in encoded.multi]
