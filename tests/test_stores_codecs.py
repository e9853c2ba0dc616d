"""Token vectors as bytes and back: every codec by hand, what it loses, and what it was told."""

import numpy as np
import pytest

from m3search.errors import ConfigError
from m3search.stores.codec_check import check_codec
from m3search.stores.codecs import (
    CODECS,
    decode_vectors,
    encode_vectors,
    find_codec,
)
from m3search.stores.rotation import rotate, rotate_back


def unit(random, *shape):
    vectors = random.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def encode(vectors, codec="fp16") -> bytes:
    return encode_vectors(vectors, find_codec(codec))


def test_blobs_by_hand():
    vectors = np.array([[1.0, -0.5], [0.0, 0.0]], np.float32)
    half = encode(vectors, "fp16")
    assert half == b"\x01\x00\x02\x00\x02\x00\x00\x00" + b"\x00\x3c\x00\xb8" + bytes(4)
    scale = np.float32(1 / 127)
    levels = bytes([127, 256 - 64, 0, 0])  # -63.5 rounds to the even -64
    assert encode(vectors, "int8") == (
        b"\x02\x00\x02\x00\x02\x00\x00\x00" + scale.tobytes() + bytes(4) + levels
    )
    assert decode_vectors(half).tolist() == vectors.tolist()


def test_int8_rounds_to_the_nearest():
    blob = encode(np.array([[0.5, -0.15, 0.15, -0.5]], np.float32), "int8")
    assert np.frombuffer(blob[12:], np.int8).tolist() == [127, -38, 38, -127]  # 38.1


def test_four_bits_by_hand():
    """A vector along one of the rotated axes, of four dimensions that fill two bytes."""
    turned = np.array([[0.75, -0.25, 0.25, -0.05]], np.float32)
    blob = encode(rotate_back(turned), "int4")
    (scale,) = np.frombuffer(blob[8:12], "<f4")
    low, high = blob[12:]
    levels = np.array([low & 15, high & 15, low >> 4, high >> 4])
    assert levels.tolist() == [low & 15, high & 15, low >> 4, high >> 4]
    stored = scale * (np.array([low & 15, high & 15, low >> 4, high >> 4]) - 7.5)
    assert np.abs(stored - turned[0]).max() <= scale / 2 * 1.001
    assert np.abs(decode_vectors(blob) - rotate_back(stored[np.newaxis])).max() < 1e-6


def test_one_bit_by_hand():
    turned = np.array([[0.5, -0.5, 0.1, -0.7, 0.0, 0.3, -0.2, 0.1, 0.4, -0.3]], np.float32)
    blob = encode(rotate_back(turned), "binary")
    (scale,) = np.frombuffer(blob[8:12], "<f4")
    assert scale == pytest.approx((turned**2).sum() / np.abs(turned).sum(), rel=1e-5)
    bits = [(blob[12 + x % 2] >> (x // 2)) & 1 for x in range(10)]
    assert bits[:4] + bits[5:] == [1, 0, 1, 0, 1, 0, 1, 1, 0]  # the fifth is 0 up to rounding
    product = (decode_vectors(blob) * rotate_back(turned)).sum()
    assert product == pytest.approx((turned**2).sum(), rel=1e-5)


@pytest.mark.parametrize("dim", [1, 2, 7, 8, 96, 128, 1000])
def test_a_rotation_keeps_products_and_can_be_undone(dim):
    vectors = unit(np.random.default_rng(14), 20, dim)
    turned = rotate(vectors)
    assert np.abs(turned @ turned.T - vectors @ vectors.T).max() < 1e-5
    assert np.abs(rotate_back(turned) - vectors).max() < 1e-5
    assert vectors.tobytes() == unit(np.random.default_rng(14), 20, dim).tobytes()
    if dim >= 96:  # a vector along one axis becomes one with something in every dimension
        spread = np.abs(rotate(np.eye(dim, dtype=np.float32)[:5]))
        assert spread.max() < 8 / np.sqrt(dim)


@pytest.mark.parametrize(
    ("codec", "least"), [("fp16", 0.999999), ("int8", 0.9998), ("int4", 0.98), ("binary", 0.7)]
)
def test_what_a_codec_keeps(codec, least):
    vectors = unit(np.random.default_rng(0), 500, 64)
    stored = decode_vectors(encode(vectors, codec))
    assert stored.dtype == np.float32
    check = check_codec([vectors[i : i + 10] for i in range(0, 500, 10)], find_codec(codec))
    cosine = (vectors * stored).sum(axis=1) / np.linalg.norm(stored, axis=1)
    assert cosine.min() >= least
    assert (check.texts, check.vectors) == (50, 500)
    assert check.min_cosine == pytest.approx(cosine.min(), abs=1e-6)
    assert check.mean_cosine == pytest.approx(cosine.mean(), abs=1e-6)
    assert (0.97 if codec in ("fp16", "int8") else 0.65) < check.rank_agreement <= 1


def test_rank_agreement_sees_a_bad_codec(monkeypatch):
    random = np.random.default_rng(1)
    texts = [unit(random, int(random.integers(0, 6)), 8) for _ in range(30)]
    assert check_codec(texts, find_codec("fp16")).rank_agreement > 0.99
    monkeypatch.setattr(
        "m3search.stores.codec_check.decode_vectors", lambda blob: -decode_vectors(blob)
    )
    assert check_codec(texts, find_codec("fp16")).rank_agreement < 0.8
    assert check_codec(texts, find_codec("fp16")).mean_cosine < -0.99


@pytest.mark.parametrize("codec", CODECS)
def test_no_vectors(codec):
    assert decode_vectors(encode(np.zeros((0, 8)), codec)).shape == (0, 8)
    assert check_codec([], find_codec(codec)).rank_agreement == 1
    assert check_codec([np.zeros((0, 8), np.float32)], find_codec(codec)).texts == 1


def test_an_unknown_codec():
    with pytest.raises(ConfigError, match="int8"):
        find_codec("int9")
    with pytest.raises(ValueError, match="codec 9"):
        decode_vectors(b"\x09" + bytes(7))
