"""Dense stores of random vectors, and their answers beside those of a slow, obvious ranking."""

import numpy as np
from index_fakes import slow_rank

from m3search.scoring import exact_scores
from m3search.stores.dense import FlatStore, FlatWriter
from m3search.stores.floats import FP32


def write(folder, vectors, pieces=1, floats=FP32) -> FlatStore:
    folder.mkdir(exist_ok=True)
    writer = FlatWriter(folder, vectors.shape[1], floats)
    for piece in np.array_split(vectors, pieces):
        writer.append(piece)
    writer.finish()
    return FlatStore(folder, *vectors.shape, floats=floats)


def unit(random, *shape):
    vectors = random.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def assert_exact(store, vectors, queries, k, allowed=None):
    hits = store.retrieve(queries, k, allowed)
    for line, query in enumerate(queries):
        scores = exact_scores(query, vectors)
        rows = slow_rank(scores.tolist(), k, allowed)
        found = hits.rows[line]
        assert found[found >= 0].tolist() == rows
        assert hits.scores[line][found >= 0].tobytes() == scores[rows].tobytes()
        assert (hits.scores[line][found < 0] == -np.inf).all()
