"""Products in whole numbers: exact, whichever instructions make them."""

import os
import platform
import subprocess
import sys

import numba
import numpy as np
import pytest
from numba.core import config

from m3search.stores.late_interaction import HIGHEST, MEANINGS, Arranged, Stored
from m3search.stores.level_tiles import Fours, Pairs, has_fours, level_tile
from m3search.stores.tiles import LANES, TILE

KINDS = [Pairs, Fours] if has_fours() else [Pairs]


def raised(kind, query, levels, scales, bits):
    """The highest product (LANES,) before it is multiplied by the scales of the query."""
    raise_tile = level_tile(kind)

    @numba.njit(nogil=True)
    def run(best, numbers, offsets, levels, scales, factor):
        for first in range(0, len(levels), TILE):
            raise_tile(best, numbers, offsets, levels, first, scales[first:], factor)

    width = levels.shape[1]
    factor = MEANINGS[bits].factor
    arranged = Arranged.of([query], Stored(0, bits, width, width, width, factor))
    best = np.full(LANES, -np.inf, np.float32)
    run(best, arranged.numbers[0], arranged.offsets[0], levels, scales, factor)
    return best, arranged.scales[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bits", "levels"), [(8, 256), (4, 16), (1, 2)])
@pytest.mark.parametrize("width", [4, 20, 1024])
def test_products_are_those_of_whole_numbers(kind, bits, levels, width):
    random = np.random.default_rng(width)
    query = random.normal(size=(LANES, width)).astype(np.float32)
    held = random.integers(0, levels, size=(3 * TILE, width)).astype(np.uint8)
    scales = random.random(3 * TILE).astype(np.float32)
    best, unit = raised(kind, query, held, scales, bits)
    whole = np.rint(query / (np.abs(query).max(axis=1) / np.float32(HIGHEST))[:, np.newaxis])
    meaning = MEANINGS[bits]
    stood = held.astype(np.int64) * meaning.factor - meaning.less
    products = whole.astype(np.int64) @ stood.T
    expected = (products * scales).max(axis=1)
    assert best == pytest.approx(expected, rel=1e-6, abs=1)
    step = np.abs(query).max() / HIGHEST
    most = step / 2 * np.abs(stood).sum(axis=1).max() * meaning.unit
    wanted = ((query @ stood.T) * scales).max(axis=1) * meaning.unit
    assert best * unit == pytest.approx(wanted, abs=1.01 * most)


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_numbers_do_not_overflow(kind):
    """The most dimensions that a blob can have, filled up, all of the highest levels."""
    width = 65_536
    query = np.repeat(np.array([[1.0], [-1.0]], np.float32), width, axis=1)
    levels = np.full((TILE, width), 255, np.uint8)
    best, unit = raised(kind, query, levels, np.ones(TILE, np.float32), 8)
    assert (best * unit)[:2] == pytest.approx([127 * width, -127 * width], rel=1e-5)


def test_all_kinds_find_the_same_bits():
    random = np.random.default_rng(5)
    query = random.normal(size=(LANES, 128)).astype(np.float32)
    held = random.integers(0, 16, size=(TILE, 128)).astype(np.uint8)
    scales = random.random(TILE).astype(np.float32)
    found = {raised(kind, query, held, scales, 4)[0].tobytes() for kind in KINDS}
    assert len(found) == 1


def test_a_query_of_next_to_nothing_is_rounded_without_overflow():
    tiny = np.full((3, 8), 6e-41, np.float32) * np.array([[1], [0], [-1]], np.float32)
    arranged = Arranged.of([tiny], Stored(0, 4, 8, 4, 8, 2))
    high, low = arranged.numbers[0].astype(np.int64)
    whole = 256 * high + low
    assert np.abs(whole).max() <= HIGHEST
    above, zero, below = whole.reshape(2, LANES, 4).transpose(1, 0, 2)[:3]
    assert (above > 0).all() and (zero == 0).all() and (below < 0).all()


def test_the_instruction_is_used_where_numba_may_use_it(monkeypatch):
    monkeypatch.setattr(config, "CPU_FEATURES", "")
    assert not has_fours()
    monkeypatch.setattr(config, "CPU_FEATURES", "+avx512f,+avx512vnni")
    assert has_fours()


@pytest.mark.parametrize("setting", [("NUMBA_ENABLE_AVX", "0"), ("NUMBA_CPU_NAME", "sandybridge")])
def test_vectors_are_scored_where_numba_is_told_to_do_without(tmp_path, setting):
    code = """
import numpy as np
from m3search.stores.codecs import find_codec
from m3search.stores.multi import VectorStore
from m3search.stores.multi_writer import VectorWriter
from pathlib import Path
folder, codec = Path("."), find_codec("int8")
writer = VectorWriter(folder, codec)
writer.append([np.eye(8, dtype=np.float32)])
writer.finish()
print(VectorStore(folder, 1, 8, codec).scores(np.eye(8, dtype=np.float32)[:2], np.array([0])))
"""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        setting = ("NUMBA_ENABLE_AVX", "0")  # the other is a processor of that kind
    environment = {**os.environ, setting[0]: setting[1], "XDG_CACHE_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "[1.]\n"), run.stderr
