"""Texts cut into forward passes: the cheapest way there is."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m3search.training.encoding import PRICES, Parts


def of(*lengths: int) -> list[np.ndarray]:
    return [np.zeros(length, np.int64) for length in lengths]


def cost_of(lengths: list[int], runs: list[tuple[int, int]], price: int) -> int:
    return sum((end - start) * lengths[start] + price for start, end in runs)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.integers(1, 90),
    st.integers(0, 40),
)
def test_the_cut_is_the_cheapest_of_all(lengths: list[int], tokens: int, price: int) -> None:
    lengths = sorted(lengths, reverse=True)
    n = len(lengths)
    allowed = []
    for count in range(n):
        for inner in combinations(range(1, n), count):
            runs = list(pairwise((0, *inner, n)))
            if all(b - a == 1 or (b - a) * lengths[a] <= tokens for a, b in runs):
                allowed.append(cost_of(lengths, runs, price))
    found = Parts(tokens, price).cut(of(*lengths))
    assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == n
    assert all(b - a == 1 or (b - a) * lengths[a] <= tokens for a, b in found)
    assert cost_of(lengths, found, price) == min(allowed)


def test_padding_is_paid_for_only_where_a_pass_costs_more() -> None:
    assert Parts(100, price=0).cut(of(9, 9, 5, 5)) == [(0, 2), (2, 4)]
    assert Parts(100, price=7).cut(of(9, 9, 5, 5)) == [(0, 2), (2, 4)]
    assert Parts(100, price=8).cut(of(9, 9, 5, 5)) == [(0, 4)]  # 8 more tokens, 8 fewer to pay
    assert Parts(18, price=99).cut(of(9, 9, 5, 5)) == [(0, 2), (2, 4)]


def test_no_text_makes_no_part() -> None:
    assert Parts(10).cut([]) == []


@pytest.mark.parametrize(
    ("name", "price"),
    [("cpu", PRICES["cpu"]), ("cuda", PRICES["cuda"]), ("meta", PRICES["cuda"])],
)
def test_a_pass_has_the_price_of_its_device(name: str, price: int) -> None:
    assert Parts.on(torch.device(name), 64) == Parts(64, price)
