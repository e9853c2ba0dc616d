import gc
import os
import threading

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_fakes import slow_rank
from test_stores_codecs import encode, unit

from m3search.errors import ArtifactError
from m3search.scoring import maxsim
from m3search.stores import multi, multi_writer
from m3search.stores.codecs import (
    CODECS,
    FP16,
    decode_together,
    decode_vectors,
    find_codec,
)
from m3search.stores.multi import FILE, KEY, VectorStore
from m3search.stores.multi_writer import VectorWriter


def draw(random, texts, most=6, dim=8):
    return [unit(random, int(random.integers(0, most)), dim) for _ in range(texts)]


def write(folder, texts, codec="fp16", pieces=1, dim=8) -> VectorStore:
    folder.mkdir(exist_ok=True)
    writer = VectorWriter(folder, find_codec(codec))
    step = max(1, -(-len(texts) // pieces))
    for start in range(0, len(texts), step):
        writer.append(texts[start : start + step])
    writer.finish()
    return VectorStore(folder, len(texts), dim, find_codec(codec))


def assert_exact(store, texts, codec, queries, k, allowed=None):
    stored = [decode_vectors(encode(text, codec)) for text in texts]
    hits = store.retrieve(queries, k, allowed)
    for line, query in enumerate(queries):
        exact = np.array([maxsim(query, text) for text in stored])
        alone = [store.scores(query, np.array([i]))[0] for i in range(len(texts))]
        scores = np.array(alone, np.float32)
        # where vectors are stored in levels, queries are rounded to 16 bits
        assert np.abs(scores - exact).max(initial=0) <= (1e-6 if codec == "fp16" else 2e-5)
        rows = slow_rank(scores.tolist(), k, allowed)
        found = hits.rows[line] >= 0
        assert hits.rows[line][found].tolist() == rows
        assert hits.scores[line][found].tobytes() == scores[rows].tobytes()
        every = np.arange(len(texts))[::-1]
        assert store.scores(query, every).tobytes() == scores[every].tobytes()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dim", [1, 3, 20, 140])
def test_dimensions_that_fill_no_bytes(tmp_path, codec, dim):
    random = np.random.default_rng(15)
    texts = draw(random, 20, dim=dim)
    store = write(tmp_path, texts, codec, dim=dim)
    assert_exact(store, texts, codec, draw(random, 3, dim=dim), 7)
    assert store.vectors(0).shape == texts[0].shape
    assert store.verify() == []


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("at_once", [1, 16, 1 << 14])
def test_against_maxsim(tmp_path, monkeypatch, codec, at_once):
    monkeypatch.setattr(multi, "VECTORS_AT_ONCE", at_once)
    random = np.random.default_rng(2)
    texts, queries = draw(random, 60), [*draw(random, 5), np.zeros((0, 8), np.float32)]
    store = write(tmp_path, texts, codec, pieces=4)
    for k in (1, 7, 60, 80):
        assert_exact(store, texts, codec, queries, k)
        assert_exact(store, texts, codec, queries, k, random.random(60) < 0.3)
    assert_exact(store, texts, codec, queries, 5, np.zeros(60, bool))


def test_queries_are_scanned_for_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(multi, "SCORES_AT_ONCE", 2 * 30)
    random = np.random.default_rng(3)
    texts, queries = draw(random, 30), draw(random, 7)
    queries[3] = unit(random, 600, 8)
    store = write(tmp_path, texts)
    assert len(list(store._groups(queries))) == 5
    assert_exact(store, texts, "fp16", queries, 4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(0, 35))
def test_ties(tmp_path_factory, seed, count, k):
    random = np.random.default_rng(seed)
    few = [np.eye(8, dtype=np.float32)[random.integers(0, 8, size=n)] for n in (0, 1, 2, 3)]
    texts = [few[i] for i in random.integers(0, 4, size=count)]
    store = write(tmp_path_factory.mktemp("multi"), texts)
    assert_exact(store, texts, "fp16", [few[2], few[3]], k)


def test_near_ties_are_told_apart(tmp_path):
    random = np.random.default_rng(4)
    base = unit(random, 3, 8)
    texts = [base + np.float32(1e-3) * unit(random, 3, 8) for _ in range(200)]
    store = write(tmp_path, texts)
    assert_exact(store, texts, "fp16", [base, unit(random, 30, 8)], 9)


@pytest.mark.parametrize("codec", CODECS)
def test_blocks_tiles_and_groups_of_all_sizes(tmp_path, codec):
    """Texts around a block and a tile of vectors, queries around a group of lanes."""
    random = np.random.default_rng(12)
    sizes = [0, 1, 7, 8, 9, 63, 64, 65, 128, 130, 200]
    texts = [unit(random, size, 24) for size in sizes]
    store = write(tmp_path, texts, codec, dim=24)
    queries = [unit(random, size, 24) for size in (1, 15, 16, 17, 31, 32, 33, 48, 70)]
    assert_exact(store, texts, codec, queries, 11)


def test_the_last_vector_counts_as_much_as_any(tmp_path):
    random = np.random.default_rng(16)
    query = unit(random, 3, 8)
    for size in range(1, 70):
        others = -np.repeat(query[:1], size - 1, axis=0)
        texts = [np.concatenate([np.roll(others, 1, axis=0), query[:1]])]
        store = write(tmp_path / str(size), texts)
        (score,) = store.scores(query[:1], np.array([0]))
        assert score == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_no_bit(tmp_path, monkeypatch, threads):
    random = np.random.default_rng(14)
    texts, queries = draw(random, 90), draw(random, 4)
    store = write(tmp_path, texts, "int4")
    expected = store.retrieve(queries, 90)
    monkeypatch.setattr(multi, "BYTES_OF_A_THREAD", 100)
    monkeypatch.setattr(multi, "BYTES_AT_ONCE", 2000)
    monkeypatch.setattr(multi, "thread_count", lambda: threads)
    found = store.retrieve(queries, 90)
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.scores.tobytes() == expected.scores.tobytes()


def test_a_child_process_has_threads_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(multi, "BYTES_OF_A_THREAD", 100)
    monkeypatch.setattr(multi, "thread_count", lambda: 2)
    random = np.random.default_rng(17)
    texts, queries = draw(random, 90), draw(random, 2)
    store = write(tmp_path, texts)
    expected = store.scores(queries[0], np.arange(90)).tobytes()
    child = os.fork()
    if not child:
        os._exit(store.scores(queries[0], np.arange(90)).tobytes() != expected)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_map_grows_and_the_file_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(multi_writer, "FIRST_MAP", 1 << 16)
    random = np.random.default_rng(5)
    texts = [unit(random, 40, 32) for _ in range(300)]
    store = write(tmp_path, texts, pieces=5, dim=32)
    assert (tmp_path / FILE).stat().st_size < 2 * 300 * 40 * 32 * 2
    assert store.verify() == []
    for row in (0, 150, 299):
        assert np.array_equal(store.vectors(row), texts[row].astype(np.float16))


def test_keys_are_rows_in_order(tmp_path):
    write(tmp_path, draw(np.random.default_rng(6), 300))
    gc.collect()
    with (
        lmdb.open(str(tmp_path / FILE), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        keys = [key for key, _ in transaction.cursor()]
    assert keys == [row.to_bytes(8, "big") for row in range(300)]
    assert KEY.size == 8


def test_one_file_open_several_times(tmp_path):
    texts = draw(np.random.default_rng(7), 5)
    store = write(tmp_path, texts)
    again = VectorStore(tmp_path, 5, 8, FP16)
    del store
    gc.collect()
    assert_exact(again, texts, "fp16", texts[:2], 3)


def test_threads(tmp_path):
    random = np.random.default_rng(8)
    texts, queries = draw(random, 50), draw(random, 3)
    store = write(tmp_path, texts)
    expected = store.retrieve(queries, 5).rows.tolist()
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(store.retrieve(queries, 5).rows.tolist()))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 6


def test_damage(tmp_path):
    write(tmp_path, draw(np.random.default_rng(9), 5))
    with pytest.raises(ArtifactError, match="6 entries"):
        VectorStore(tmp_path, 6, 8, FP16)
    (tmp_path / FILE).write_bytes(b"x" * 8192)
    with pytest.raises(ArtifactError, match="LMDB"):
        VectorStore(tmp_path, 5, 8, FP16)


def test_other_dimensions_are_damage(tmp_path):
    random = np.random.default_rng(10)
    write(tmp_path, draw(random, 5))
    store = VectorStore(tmp_path, 5, 9, FP16)
    assert len(store.verify()) == 5
    with pytest.raises(
        ArtifactError, match="row 0, found fp16 vectors of 8 dimensions instead of fp16 of 9"
    ):
        store.retrieve([unit(random, 2, 9)], 1)


def write_blobs(folder, blobs, codec) -> VectorStore:
    writer = VectorWriter(folder, FP16)
    writer.append_blobs(blobs)
    writer.finish()
    return VectorStore(folder, len(blobs), 8, find_codec(codec))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("place", "value"), [(0, 9), (2, 17), (4, 2), (4, 4), (7, 1), (None, None)]
)
def test_a_blob_that_contradicts_itself_is_damage(tmp_path, codec, place, value):
    """Beside another that makes up for it: together they have the length that they ask for."""
    random = np.random.default_rng(13)
    blobs = [encode(unit(random, 3, 8), codec) for _ in range(4)]
    wrong = bytearray(blobs[1] if place is not None else blobs[1][:5])
    if place is not None:
        wrong[place] = value
    other = bytearray(blobs[2])
    if place == 4:
        other[4] = 6 - value
    store = write_blobs(tmp_path, [blobs[0], bytes(wrong), bytes(other), blobs[3]], codec)
    query = unit(random, 2, 8)
    for read in (
        lambda: store.retrieve([query], 2),
        lambda: store.scores(query, np.arange(4)),
        lambda: store.vectors(1),
        lambda: list(store.blobs([1])),
    ):
        with pytest.raises(ArtifactError, match=r"multi\.lmdb: expected vectors of row 1, found"):
            read()
    assert store.verify()[0].startswith("row 1: ")
    with pytest.raises(ValueError, match=r"blob|vectors"):
        decode_together([bytes(wrong), bytes(other)])


def test_pages_that_lmdb_cannot_read_are_damage(tmp_path):
    """Of the right size, so that opening finds nothing."""
    random = np.random.default_rng(5)
    write(tmp_path, draw(random, 400))
    gc.collect()  # lets go of the file that was opened
    path = tmp_path / FILE
    content = path.read_bytes()
    inverted = bytes(255 - byte for byte in content[8192:])
    path.write_bytes(content[:8192] + inverted)
    store = VectorStore(tmp_path, 400, 8, FP16)
    with pytest.raises(ArtifactError, match=r"multi\.lmdb: expected vectors of row"):
        store.retrieve([unit(random, 3, 8)], 5)
    assert store.verify()
