"""Lexical scores of training: beside the whole vocabulary, in blocks of terms, memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from largest_tensor import LargestTensor
from torch import Tensor

from m3search.training import representations
from m3search.training.representations import Layout, active_terms, lexical_scores


def layout_of(texts: list[list[int]]) -> Layout:
    """Terms alone; the special ids are 0 and 1."""
    ids = [np.array([0, *text, 1], np.int64) for text in texts]
    return Layout.of(ids, np.array([0, 1], np.int64), torch.device("cpu"))


def test_lexical_scores_equal_those_over_the_whole_vocabulary() -> None:
    torch.manual_seed(0)
    texts = [
        [torch.randint(2, 14, (n,)).tolist() for n in lengths]
        for lengths in ((5, 0, 3), (7, 2, 9, 4))
    ]
    layouts = [layout_of(part) for part in texts]
    weights = [
        (torch.rand(len(part.terms)) * (torch.rand(len(part.terms)) > 0.3)).requires_grad_()
        for part in layouts
    ]

    def whole(part: list[list[int]], flat: torch.Tensor) -> torch.Tensor:
        table = torch.zeros(len(part), 14)
        for row, (terms, own) in enumerate(
            zip(part, flat.split(list(map(len, part))), strict=True)
        ):
            for term in set(terms):
                same = [w for t, w in zip(terms, own, strict=True) if t == term]
                table[row, term] = torch.stack(same).amax()
        return table

    expected = whole(texts[0], weights[0]) @ whole(texts[1], weights[1]).T
    wanted = torch.autograd.grad(expected.square().sum(), weights)
    found = lexical_scores(layouts[0], weights[0], layouts[1], weights[1])
    assert found.shape == (3, 4) and float(found.detach().sum()) > 0
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.square().sum(), weights)
    for gradient, other, weight in zip(gradients, wanted, weights, strict=True):
        counted = weight > 0  # what is 0 came through a relu or a mask, which pass no gradient
        torch.testing.assert_close(gradient[counted], other[counted])


def test_texts_without_a_term_match_nothing() -> None:
    nothing, some = layout_of([[]]), layout_of([[5, 6]])
    for left, right in ((nothing, some), (some, nothing), (nothing, nothing)):
        sizes = (len(left.terms), len(right.terms))
        scores = lexical_scores(left, torch.ones(sizes[0]), right, torch.ones(sizes[1]))
        assert scores.tolist() == [[0.0]]


def test_active_terms_are_those_with_a_weight() -> None:
    weights = torch.tensor([0.2, 0.0, 0.1, 0.0, 0.0])
    assert active_terms(layout_of([[5, 6, 7], [], [8, 9]]), weights).tolist() == [2, 0, 0]


def drawn_texts(count: int, length: int, seed: int) -> tuple[Layout, Tensor]:
    """Texts that share some of 200 terms, with weights of which some are 0 and some the same."""
    generator = torch.Generator().manual_seed(seed)
    terms = torch.randint(2, 202, (count, length), generator=generator)
    weights = torch.randint(0, 9, (count * length,), generator=generator) / 4
    return layout_of(terms.tolist()), weights.requires_grad_()


@pytest.mark.parametrize("cells", [1, 11, 200, 2000])
def test_blocks_of_terms_give_the_scores_and_gradients_of_all(
    monkeypatch: pytest.MonkeyPatch, cells: int
) -> None:
    (queries, of_queries), (passages, of_passages) = drawn_texts(4, 9, 0), drawn_texts(7, 30, 1)
    found = []
    for limit in (1 << 22, cells):
        monkeypatch.setitem(representations.BLOCK, "cpu", limit)
        scores = lexical_scores(queries, of_queries, passages, of_passages)
        share = torch.arange(scores.numel()).view_as(scores) / 8
        gradients = torch.autograd.grad((scores * share).sum(), (of_queries, of_passages))
        found.append((scores.detach(), *gradients))
    torch.testing.assert_close(found[1], found[0])
    assert all(float(each.abs().sum()) > 0 for each in found[0])


def test_no_table_of_texts_by_terms_is_whole_or_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    (queries, of_queries), (passages, of_passages) = drawn_texts(40, 60, 0), drawn_texts(60, 20, 1)
    columns = len(torch.unique(queries.terms))
    monkeypatch.setitem(representations.BLOCK, "cpu", 100 * 10)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        lexical_scores(queries, of_queries, passages, of_passages).sum().backward()
    assert columns > 190
    assert largest.elements == 40 * 60  # the weights or scores, where a table would be 60 x 200
    assert sum(kept) < 60 * columns
