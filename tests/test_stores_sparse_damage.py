"""Damaged posting lists: told, and never a crash or a wrong answer without a word."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from scipy import sparse as sp
from test_stores_sparse import draw, write, write_older

from m3search.errors import ArtifactError
from m3search.stores.sparse import FILES, CscStore


def change_terms(folder, field, change):
    """Changes one column of the table of terms."""
    entries = np.load(folder / "sparse.terms.npy")
    entries[field] = change(entries[field].copy())
    np.save(folder / "sparse.terms.npy", entries)


def test_verify_finds_a_peak_that_is_too_low(tmp_path):
    write(tmp_path, draw(np.random.default_rng(9), 8, 5, density=1))
    change_terms(tmp_path, "peak", lambda peaks: peaks * [1, 1, 0.5, 1, 1])
    assert CscStore(tmp_path, 8, 5).verify() == ["a weight above the highest of its posting list"]


def test_verify_finds_a_posting_in_the_wrong_row(tmp_path):
    vectors = draw(np.random.default_rng(3), 8, 5)
    assert write(tmp_path, vectors).verify() == []
    for wrong in (8, -1, 0):
        rows = np.load(tmp_path / "sparse.rows.npy")
        rows[-1] = wrong
        np.save(tmp_path / "sparse.rows.npy", rows)
        assert CscStore(tmp_path, 8, 5).verify()


@pytest.mark.parametrize("name", FILES)
def test_damage(tmp_path, name):
    write(tmp_path, draw(np.random.default_rng(4), 8, 5))
    (tmp_path / name).write_bytes(b"not an array")
    with pytest.raises(ArtifactError, match=name):
        CscStore(tmp_path, 8, 5)


def test_a_damaged_row_number_is_no_crash(tmp_path):
    """In a process of its own, as scipy would write where the number points to."""
    write(tmp_path, draw(np.random.default_rng(5), 200, 5))
    path = tmp_path / "sparse.rows.npy"
    content = bytearray(path.read_bytes())
    content[128 + 4 * 20 + 3] ^= 0x40  # one bit of one posting
    path.write_bytes(content)
    other = tmp_path / "merged"
    other.mkdir()
    script = f"""
        import pathlib
        import numpy as np
        from scipy import sparse as sp
        from m3search.errors import ArtifactError
        from m3search.stores.sparse import CscStore, merge_postings
        store, other = CscStore(pathlib.Path({str(tmp_path)!r}), 200, 5), {str(other)!r}
        query = sp.csr_array(np.ones((1, 5), np.float32))
        store.scores(query, np.arange(200))  # searches in the lists, and finds fewer
        for read in (
            lambda: store.retrieve(query, 3),
            lambda: merge_postings([(store, np.ones(200, bool))], pathlib.Path(other)),
        ):
            try:
                read()
            except ArtifactError as error:
                print(error)
        print(store.verify())
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    retrieved, merged, verified = result.stdout.splitlines()
    for error in (retrieved, merged):
        assert f"{path}: expected rows from 0 to 199, found" in error
    assert "a posting of a row outside" in verified


def test_a_negative_row_number_is_damage(tmp_path):
    store = write(tmp_path, draw(np.random.default_rng(6), 9, 5, density=1))
    rows = np.load(tmp_path / "sparse.rows.npy")
    rows[0] = -1
    np.save(tmp_path / "sparse.rows.npy", rows)
    store = CscStore(tmp_path, 9, 5)
    with pytest.raises(ArtifactError, match=r"rows\.npy: expected rows from 0 to 8, found -1 to 8"):
        store.retrieve(sp.csr_array(np.ones((1, 5), np.float32)), 3)


@pytest.mark.parametrize(
    ("field", "change", "told"),
    [
        ("end", lambda ends: [*ends[:-1][::-1], ends[-1]], "expected values that only rise"),
        ("end", lambda ends: ends + 1, "expected values from 0 to"),
        ("term", lambda terms: terms[::-1], "expected terms that only rise"),
        ("term", lambda terms: [0, *terms[:-1]], "expected terms that only rise"),
        ("term", lambda terms: terms + 1, "expected terms from 0 to 5, found 1 to 6"),
        ("term", lambda terms: terms - 1, "expected terms from 0 to 5, found -1 to 4"),
    ],
)
def test_terms_that_contradict_themselves_do_not_open(tmp_path, field, change, told):
    write(tmp_path, draw(np.random.default_rng(7), 30, 6))
    change_terms(tmp_path, field, change)
    with pytest.raises(ArtifactError, match=rf"terms\.npy: {told}"):
        CscStore(tmp_path, 30, 6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda ends: [0, *ends[1:-1][::-1], ends[-1]], "expected values that only rise"),
        (lambda ends: ends[:-1], "expected 7 values of <i8"),
        (lambda ends: ends + 1, "expected values from 0 to"),
    ],
)
def test_lists_of_an_older_segment_that_contradict_themselves(tmp_path, change, told):
    write_older(tmp_path, draw(np.random.default_rng(7), 30, 6))
    indptr = np.load(tmp_path / "sparse.indptr.npy")
    np.save(tmp_path / "sparse.indptr.npy", np.array(change(indptr)))
    with pytest.raises(ArtifactError, match=rf"indptr\.npy: {told}"):
        CscStore(tmp_path, 30, 6, older=True)


@pytest.mark.parametrize("flipped", [10, 40])
def test_a_posting_out_of_order_is_damage(tmp_path, flipped):
    """Its number is that of a row, so only the order tells."""
    write(tmp_path, sp.csr_array(np.ones((100_000, 1), np.float32)))
    rows = np.load(tmp_path / "sparse.rows.npy")
    rows[flipped] ^= 1 << 16
    np.save(tmp_path / "sparse.rows.npy", rows)
    store = CscStore(tmp_path, 100_000, 1)
    query = sp.csr_array(np.ones((1, 1), np.float32))
    with pytest.raises(ArtifactError, match=r"rows\.npy: expected rows that only rise"):
        store.retrieve(query, 100_000)


def test_a_weight_without_bounds_is_no_crash(tmp_path):
    write(tmp_path, draw(np.random.default_rng(7), 6000, 3, density=1))
    weights = np.load(tmp_path / "sparse.weights.npy")
    for wrong in (np.inf, np.nan, -np.inf):
        weights[17] = wrong
        np.save(tmp_path / "sparse.weights.npy", weights)
        store = CscStore(tmp_path, 6000, 3)
        assert len(store.retrieve(sp.csr_array(np.ones((1, 3), np.float32)), 5).rows[0]) == 5


def test_verify_reads_peaks_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("m3search.stores.sparse.POSTINGS_AT_ONCE", 3)
    store = write(tmp_path, draw(np.random.default_rng(8), 30, 9))
    assert store.verify() == []
    change_terms(tmp_path, "peak", lambda peaks: peaks / np.where(np.arange(9) == 7, 2, 1))
    wrong = CscStore(tmp_path, 30, 9)
    assert wrong.verify() == ["a weight above the highest of its posting list"]
