"""Gradients that are handed on, and those that must not count."""

import math

import pytest
import torch

from afan_mm import gradients
from afan_mm.functional import all_finite
from afan_mm.gradients import Carry, zero_unless_

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)


def test_carried_gradient_is_added_and_not_weighted():
    """d (x^2) / dx = 6 at 3, three times as much for the objective, and 5 that were at hand."""
    x, y = torch.tensor(3.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    loss = Carry.apply(lambda: (torch.tensor(5.0), None), x * x * y, x, y)
    (3 * loss).backward()
    assert (loss.item(), x.grad.item(), y.grad.item()) == (9, 18 + 5, 27)


@pytest.mark.parametrize('value', (math.nan, math.inf, -math.inf))
def test_all_finite_sees_one_element_of_any_tensor(value):
    tensors = [torch.randn(3, 4).to(dtype) for dtype in DTYPES]
    assert all_finite(tensors)
    for tensor in tensors:
        kept = tensor[1, 2].item()
        tensor[1, 2] = value
        assert not all_finite(tensors)
        tensor[1, 2] = kept
    assert all_finite(tensors)
    assert all_finite([torch.full((3,), 3e38), torch.full((2,), -3e38)])  # their sum is not


@pytest.mark.parametrize('in_one_kernel', (True, False))
def test_gradients_count_only_where_finite(in_one_kernel, monkeypatch):
    if not in_one_kernel:
        monkeypatch.setattr(gradients, 'MULTIPLIES_BITS', False)
    elif not gradients.MULTIPLIES_BITS:
        pytest.skip('this torch has no such kernel')
    values = [torch.randn(3, 4, 5).to(dtype) for dtype in DTYPES]
    values += [torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last), torch.randn(6, 2).t()]
    values.append(torch.randn(3, dtype=torch.complex128))  # as wide as no integer
    for value in values[:-1]:
        value[0, 0] = math.nan
        value[-1, -1] = -math.inf
        value[1, 1] = -0.0
    kept = [value.clone() for value in values]
    zero_unless_(torch.tensor(True), kept)
    assert all(same_bits(a, b) for a, b in zip(kept, values))
    zero_unless_(torch.tensor(False), kept)
    assert all(same_bits(a, torch.zeros_like(a)) for a in kept)
    assert [a.stride() for a in kept] == [a.stride() for a in values]


def same_bits(a, b):
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
