from itertools import pairwise

import numpy as np
import pytest

from m3search.errors import ArtifactError
from m3search.stores import centroids, multi, token_lists
from m3search.stores.centroids import Tokens
from m3search.stores.codecs import FP16, find_codec
from m3search.stores.multi import VectorStore
from m3search.stores.multi_writer import VectorWriter
from m3search.stores.token_lists import (
    CENTROIDS,
    FILES,
    INDPTR,
    TokenLists,
    estimate_rows,
    write_token_lists,
)

ROWS, DIM = 1500, 16


def unit(random, *shape):
    vectors = random.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def texts():
    """Texts whose tokens stand around a few words each, as those of one subject do."""
    random = np.random.default_rng(0)
    words = unit(random, 400, DIM)
    found = []
    for _ in range(ROWS):
        chosen = words[random.integers(400, size=int(random.integers(0, 12)))]
        noisy = chosen + 0.15 * unit(random, len(chosen), DIM)
        found.append((noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32))
    return found


@pytest.fixture(scope="module", params=["fp16", "int4"])
def store(request, tmp_path_factory):
    folder, codec = tmp_path_factory.mktemp("lists"), find_codec(request.param)
    writer = VectorWriter(folder, codec)
    writer.append(texts())
    writer.finish()
    whole = VectorStore(folder, ROWS, DIM, codec)
    assert whole.count() == sum(map(len, texts()))
    paths = write_token_lists(folder, whole.tokens, whole.count(), ROWS)
    assert paths == [folder / name for name in FILES]
    lists = TokenLists(folder, ROWS, codec.width(DIM))
    return VectorStore(folder, ROWS, DIM, codec, lists)


def queries():
    random = np.random.default_rng(1)
    held = [text for text in texts()[::40] if len(text) > 3]
    found = [text[:4] + 0.15 * unit(random, 4, DIM) for text in held]
    return [text / np.linalg.norm(text, axis=1, keepdims=True) for text in found]


def test_most_of_the_best_are_found_with_their_exact_scores(store, monkeypatch):
    monkeypatch.setattr(multi, "SCORED", 60)
    exact, found = store.retrieve(queries(), 10, exact=True), store.retrieve(queries(), 10)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.rows, found.rows, strict=True)]
    assert np.mean(shared) >= 0.9 * 10
    for query, rows, scores in zip(queries(), found.rows, found.scores, strict=True):
        assert scores.tobytes() == store.scores(query, rows).tobytes()


def test_only_allowed_rows_are_found(store, monkeypatch):
    monkeypatch.setattr(multi, "SCORED", 60)
    allowed = np.random.default_rng(2).random(ROWS) < 0.5
    exact = store.retrieve(queries(), 10, allowed, exact=True)
    found = store.retrieve(queries(), 10, allowed)
    assert allowed[found.rows[found.rows >= 0]].all()
    shared = [len(set(a) & set(b)) for a, b in zip(exact.rows, found.rows, strict=True)]
    assert np.mean(shared) >= 0.9 * 10


def test_few_allowed_rows_are_all_scored(store):
    allowed = np.zeros(ROWS, bool)
    allowed[::50] = True
    exact = store.retrieve(queries(), 10, allowed, exact=True)
    assert np.array_equal(store.retrieve(queries(), 10, allowed).rows, exact.rows)


@pytest.mark.parametrize(("rows", "asked"), [(240, 0), (241, 1)])
def test_a_filter_of_few_rows_asks_no_list(store, monkeypatch, rows, asked):
    """Up to four times as many as the lists would have scored of what they find."""
    monkeypatch.setattr(multi, "SCORED", 60)
    allowed = np.zeros(ROWS, bool)
    allowed[np.random.default_rng(5).permutation(ROWS)[:rows]] = True
    find, met = TokenLists.find, []
    monkeypatch.setattr(TokenLists, "find", lambda *given: met.append(1) or find(*given))
    hits = store.retrieve(queries()[:1], 10, allowed)
    assert len(met) == asked
    if not asked:
        exact = store.retrieve(queries()[:1], 10, allowed, exact=True)
        assert hits.scores.tobytes() == exact.scores.tobytes()
        assert np.array_equal(hits.rows, exact.rows)


def test_a_query_without_vectors(store, monkeypatch):
    monkeypatch.setattr(multi, "SCORED", 60)
    hits = store.retrieve([np.zeros((0, DIM), np.float32)], 3)
    assert hits.rows.shape == (1, 3)


def slow_estimate(groups, gains, lists):
    """Row -> the sum of the gains of the first group, for each query vector, that holds it."""
    total = {}
    for numbers, values in zip(groups, gains, strict=True):
        seen = set()
        for number, value in zip(numbers, values, strict=True):
            for row in lists[number]:
                if row not in seen:
                    seen.add(row)
                    total[row] = total.get(row, 0.0) + value
    return total


@pytest.mark.parametrize("count", [1, 7, 500])
def test_estimates_against_dictionaries(count):
    random = np.random.default_rng(3)
    lists = [np.flatnonzero(random.random(900) < share) for share in random.random(12) / 3]
    indptr = np.concatenate([[0], np.cumsum([len(rows) for rows in lists])])
    groups = np.array([random.permutation(12)[:5] for _ in range(4)])
    gains = -np.sort(-random.random((4, 5)), axis=1)
    gains[:, -1] = 0
    allowed = random.random(900) < 0.7
    rows = np.concatenate(lists).astype(np.int32)
    total = slow_estimate(groups.tolist(), gains.tolist(), lists)
    for mask in (np.zeros(0, bool), allowed):
        kept = {
            row: value for row, value in total.items() if value > 0 and (not len(mask) or mask[row])
        }
        found = estimate_rows(count, 900, mask, groups, gains, indptr, rows)
        best = sorted(kept.values(), reverse=True)[:count]
        assert sorted((kept[row] for row in found.tolist()), reverse=True)[: len(best)] == (
            pytest.approx(best)
        )
        assert len(found) >= len(best) and (np.diff(found) > 0).all()


def test_damage(store, tmp_path):
    folder = store._path.parent
    for name in FILES:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ArtifactError, match=r"centroids\.npy: expected vectors of 11 dimensions"):
        TokenLists(tmp_path, ROWS, 11)
    ends = np.load(tmp_path / INDPTR)
    ends[1:-1] = ends[1:-1][::-1]
    np.save(tmp_path / INDPTR, ends)
    with pytest.raises(ArtifactError, match=r"indptr\.npy: expected values that only rise"):
        TokenLists(tmp_path, ROWS, store._codec.width(DIM))
    (tmp_path / CENTROIDS).write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"centroids\.npy"):
        TokenLists(tmp_path, ROWS, store._codec.width(DIM))


def test_tokens_come_in_the_order_of_rows(tmp_path):
    writer = VectorWriter(tmp_path, FP16)
    some = texts()[:30]
    writer.append(some)
    writer.finish()
    whole = VectorStore(tmp_path, 30, DIM, FP16)
    blocks = list(whole.tokens())
    rows = np.concatenate([block.rows for block in blocks])
    assert rows.tolist() == [row for row, text in enumerate(some) for _ in text]
    vectors = np.concatenate([block.vectors for block in blocks])
    assert np.array_equal(vectors, np.concatenate(some).astype(np.float16).astype(np.float32))


def test_lists_written_in_many_passes_are_the_same(store, tmp_path, monkeypatch):
    whole = {name: (store._path.parent / name).read_bytes() for name in FILES}
    monkeypatch.setattr(token_lists, "KEYS_AT_ONCE", 50)
    write_token_lists(tmp_path, store.tokens, store.count(), ROWS)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == whole
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    rows = np.load(tmp_path / "multi.rows.npy")
    ends = np.load(tmp_path / "multi.indptr.npy")
    assert len(ends) - 1 > 16 and ends[-1] == len(rows) > 1000
    for start, end in pairwise(ends):
        assert (np.diff(rows[start:end]) > 0).all()


def test_centroids_of_a_bounded_sample(store, tmp_path, monkeypatch):
    monkeypatch.setattr(centroids, "SAMPLE_BYTES", 4 * DIM * 400)
    write_token_lists(tmp_path, store.tokens, store.count(), ROWS)
    assert 30 < len(np.load(tmp_path / CENTROIDS)) // DIM <= 60
    lists = TokenLists(tmp_path, ROWS, store._codec.width(DIM))
    held = {row for row, text in enumerate(texts()) if len(text)}
    assert {*lists._rows.tolist()} == held


def test_a_filter_on_what_no_near_group_holds(store, monkeypatch):
    """The groups near a query hold no allowed row; others are looked into."""
    monkeypatch.setattr(multi, "SCORED", 30)
    monkeypatch.setattr(multi, "SCANNED", 1)
    monkeypatch.setattr(token_lists, "PROBES", 4)
    held = texts()
    for query in queries()[:8]:
        best = np.array([(text @ query.T).max(initial=-1) for text in held])
        allowed = best < 0.5
        assert allowed.sum() > 200
        hits = store.retrieve([query], 20, allowed)
        exact = store.retrieve([query], 20, allowed, exact=True)
        assert (hits.rows >= 0).all() and allowed[hits.rows].all()
        assert len({*hits.rows[0].tolist()} & {*exact.rows[0].tolist()}) >= 10


def test_a_segment_with_hardly_any_vectors(tmp_path):
    for number, held in enumerate(([], [5], [1, 0, 2, 1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        writer = VectorWriter(folder, FP16)
        given = [text[: held[row]] if row < len(held) else text[:0] for row, text in
                 enumerate(unit(np.random.default_rng(2), 30, 5, DIM))]  # fmt: skip
        writer.append(given)
        writer.finish()
        whole = VectorStore(folder, 30, DIM, FP16)
        files = write_token_lists(folder, whole.tokens, whole.count(), 30)
        if not held:
            assert files == []
            continue
        listed = VectorStore(folder, 30, DIM, FP16, TokenLists(folder, 30, FP16.width(DIM)))
        assert len(listed.retrieve([given[0]], 30).rows[0]) == 30


def test_lists_that_begin_before_the_first_row_are_damage(store, tmp_path):
    folder = store._path.parent
    for name in FILES:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    ends = np.load(tmp_path / INDPTR)
    ends[0] = -(2**56)
    np.save(tmp_path / INDPTR, ends)
    with pytest.raises(ArtifactError, match=r"indptr\.npy: expected values from 0"):
        TokenLists(tmp_path, ROWS, store._codec.width(DIM))


def test_nearly_every_vector_is_in_the_group_of_the_centroid_nearest_to_it(monkeypatch):
    vectors = np.concatenate(texts())
    blocks = [Tokens(np.arange(len(part)), part) for part in np.array_split(vectors, 7)]
    groups = centroids.Groups.train(iter(blocks), len(vectors))
    assert len(groups.ends) > 5
    nearest = (vectors @ groups.centroids.T).argmax(axis=1)
    assert (groups.nearest(vectors) == nearest).mean() > 0.97
    monkeypatch.setattr(centroids, "CELLS", len(groups.ends))
    assert (groups.nearest(vectors) == nearest).all()
    monkeypatch.setattr(centroids, "CELLS", 1)
    assert 0.5 < (groups.nearest(vectors) == nearest).mean() < 1
    assert groups.nearest(vectors[:0]).shape == (0,)
