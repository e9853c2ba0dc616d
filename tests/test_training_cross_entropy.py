"""Cross-entropy in blocks of rows beside the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from m3search.training.cross_entropy import linear_cross_entropy


def make(rows: int = 11) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    states, weight, bias = torch.randn(rows, 8), torch.randn(30, 8), torch.randn(30)
    for each in (states, weight, bias):
        each.requires_grad_()
    return states, weight, bias, torch.randint(0, 30, (rows,))


@pytest.mark.parametrize("block", [1, 4, 11, 50])
def test_loss_and_gradients_equal_the_plain_ones(block: int) -> None:
    *inputs, labels = make()
    shares = torch.rand(len(labels))
    each = functional.cross_entropy(functional.linear(*inputs), labels, reduction="none")
    plain = (shares * each).sum()
    found, losses = linear_cross_entropy(*inputs, labels, shares, block)
    torch.testing.assert_close((found, losses), (plain, each.detach()))
    assert not losses.requires_grad
    torch.testing.assert_close(
        torch.autograd.grad(3 * found, inputs), torch.autograd.grad(3 * plain, inputs)
    )


def mean(states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """In blocks of four rows."""
    shares = torch.ones(len(labels)) / max(1, len(labels))
    return linear_cross_entropy(states, weight, bias, labels, shares, 4)[0]


def test_only_what_is_trained_gets_a_gradient() -> None:
    states, weight, bias, labels = make()
    frozen = weight.detach()
    mean(states, frozen, bias, labels).backward()
    assert frozen.grad is None and states.grad is not None and bias.grad is not None
    plain = functional.cross_entropy(functional.linear(states, frozen, bias), labels)
    torch.testing.assert_close((states.grad, bias.grad), torch.autograd.grad(plain, (states, bias)))
    with torch.no_grad():
        found = mean(states, weight, bias, labels)
    torch.testing.assert_close(found, plain.detach())
    assert not found.requires_grad


def test_large_logits_neither_overflow_nor_vanish() -> None:
    states, weight, bias, labels = make()
    with torch.no_grad():
        states *= 1e3
    found = mean(states, weight, bias, labels)
    plain = functional.cross_entropy(functional.linear(states, weight, bias), labels)
    torch.testing.assert_close(found, plain)


def test_the_loss_is_float32_under_autocast() -> None:
    *inputs, labels = make()
    plain = functional.cross_entropy(functional.linear(*inputs), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mean(*inputs, labels)
    assert found.dtype == torch.float32
    assert float(found.detach()) == pytest.approx(float(plain.detach()), rel=0.02)
    gradients = torch.autograd.grad(found, inputs)
    for gradient, exact in zip(gradients, torch.autograd.grad(plain, inputs), strict=True):
        assert gradient.dtype == torch.float32
        assert float((gradient - exact).norm()) < 0.02 * float(exact.norm())


def test_the_loss_of_nothing_is_zero() -> None:
    *inputs, labels = make(0)
    loss = mean(*inputs, labels)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not any(each.grad.any() for each in inputs)
