"""Randomisation, bootstrap and Holm, against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from m3search.evaluation import significance
from m3search.evaluation.significance import (
    bootstrap,
    compare_rows,
    holm_correction,
    randomisation_test,
)


@pytest.mark.parametrize("seed", range(4))
def test_few_queries_are_tested_exactly(seed: int) -> None:
    random = np.random.default_rng(seed)
    differences = np.round(random.normal(0.3, 0.5, 11), 1)
    wanted = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    both = np.column_stack([differences, -differences])
    assert randomisation_test(both) == pytest.approx([wanted.pvalue] * 2)


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.08])
def test_many_queries_are_tested_by_rounds(shift: float) -> None:
    differences = np.random.default_rng(9).normal(shift, 0.4, 300)
    wanted = stats.ttest_1samp(differences, 0).pvalue  # nearly the same for so many
    both = np.column_stack([differences, np.full(300, 0.1)])
    found, clear = randomisation_test(both)
    assert found == pytest.approx(wanted, abs=0.02)
    assert clear == pytest.approx(1 / (1 + significance.ROUNDS))
    assert randomisation_test(both) == [found, clear]


def test_nothing_is_told_by_one_query_or_by_equal_ones() -> None:
    assert randomisation_test([[0.7]]) == [1.0]
    assert (
        randomisation_test(np.zeros((3, 2))) == randomisation_test(np.zeros((30, 2))) == [1.0] * 2
    )
    rounded = np.array([-4, 3, -2, 3]) / 15  # whose sum is 0, but not to the last bit
    assert rounded.sum() != 0 and randomisation_test(rounded[:, np.newaxis]) == [1.0]
    assert compare_rows({"a": {}, "b": {}}) == compare_rows({"a": {"q": 1.0}}) == []


def test_portions_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).normal(0.1, 1, (40, 3))
    whole = (randomisation_test(values), bootstrap(values))
    monkeypatch.setattr(significance, "_AT_ONCE", 40 * 999)
    assert sum(significance._portions(40)) == significance.ROUNDS
    assert (randomisation_test(values), bootstrap(values)) == whole


def test_the_bootstrap_is_that_of_scipy() -> None:
    values = np.random.default_rng(4).exponential(1, 200)
    wanted = stats.bootstrap((values,), np.mean, method="percentile", random_state=1)
    (found,) = bootstrap(values[:, np.newaxis])
    assert found.low == pytest.approx(wanted.confidence_interval.low, abs=0.01)
    assert found.high == pytest.approx(wanted.confidence_interval.high, abs=0.01)


def test_holm_by_hand() -> None:
    assert holm_correction([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_correction([0.9, 0.8]) == [1.0, 1.0]
    assert holm_correction([0.02]) == [0.02]
    assert holm_correction([]) == []


def test_rows_are_compared_query_by_query() -> None:
    random = np.random.default_rng(6)
    queries = [f"q{n}" for n in range(60)]
    base = random.random(60)
    columns = {"a": base + 0.2, "b": base, "c": base + random.normal(0, 0.3, 60)}
    values = {
        row: dict(zip(reversed(queries) if row == "b" else queries, ordered, strict=True))
        for row, column in columns.items()
        for ordered in [column[::-1] if row == "b" else column]
    }
    found = {(each.first, each.second): each for each in compare_rows(values)}
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    clear, unclear = found["a", "b"], found["b", "c"]
    assert clear.mean == pytest.approx(0.2)
    assert clear.interval.low == pytest.approx(0.2) == clear.interval.high
    assert clear.p == pytest.approx(1 / 10_001) and clear.holm == pytest.approx(3 / 10_001)
    assert unclear.p > 0.05 and unclear.interval.low < 0 < unclear.interval.high
    assert clear.to_json()["interval"]["low"] == clear.interval.low
