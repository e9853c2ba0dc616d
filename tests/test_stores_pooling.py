import numpy as np
import pytest

from m3search.errors import ConfigError
from m3search.stores import pooling
from m3search.stores.pooling import check_pooling, pool_vectors


def unit(random, *shape):
    vectors = random.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_vectors_that_are_alike_become_their_mean():
    a, b, c = np.eye(3, 8, dtype=np.float32)
    near = (a + 0.1 * b) / np.linalg.norm(a + 0.1 * b)
    pooled = pool_vectors(np.array([c, a, near, c]), 2)
    mean = (a + near) / np.linalg.norm(a + near)
    assert pooled == pytest.approx(np.array([c, mean]), abs=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 60])
def test_as_many_are_left_as_asked(factor, count):
    vectors = unit(np.random.default_rng(0), count, 16)
    pooled = pool_vectors(vectors, factor)
    assert pooled.shape == (-(-count // factor), 16)
    assert pooled.dtype == np.float32
    assert np.linalg.norm(pooled, axis=1) == pytest.approx(np.ones(len(pooled)), abs=1e-6)
    if factor == 1:
        assert pooled is vectors


def test_long_texts_are_pooled_in_parts(monkeypatch):
    monkeypatch.setattr(pooling, "TOGETHER", 6)
    vectors = unit(np.random.default_rng(1), 20, 16)
    parts = [pool_vectors(vectors[start : start + 6], 2) for start in range(0, 20, 6)]
    assert np.array_equal(pool_vectors(vectors, 2), np.concatenate(parts))


def test_equal_vectors():
    vectors = np.tile(np.eye(1, 4, dtype=np.float32), (9, 1))
    assert np.array_equal(pool_vectors(vectors, 3)[0], vectors[0])


def test_a_factor_that_cannot_be():
    with pytest.raises(ConfigError, match="pooling: expected a whole number from 1 up"):
        check_pooling(0)
