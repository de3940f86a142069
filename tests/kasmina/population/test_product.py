from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esper.kasmina.population.product import ALIGNMENT_BYTES, map_columns, map_rows, multiply, set_apart, settle
from tests.kasmina.population.members import randn

SIZES = st.integers(1, 40)


@settings(max_examples=50, deadline=None)
@given(SIZES, SIZES, SIZES, st.booleans(), st.booleans())
def test_members_have_the_same_bits_in_every_company(rows: int, columns: int, inner: int, is_turned: bool, has_plus: bool) -> None:
    a, b = randn(5, rows, inner, dtype=torch.float32), randn(5, inner, columns, dtype=torch.float32)
    a, b = (a.mT.contiguous().mT, b) if is_turned else (a, b.mT.contiguous().mT)
    plus = randn(5, rows, 1, dtype=torch.float32) if has_plus else None
    together = multiply(a, b, plus)
    torch.testing.assert_close(together, a @ b + (0.0 if plus is None else plus), rtol=1e-4, atol=1e-4)
    for first, last in ((0, 1), (3, 4), (2, 5)):
        part = slice(first, last)
        assert torch.equal(multiply(a[part], b[part], None if plus is None else plus[part]), together[part])
        assert torch.equal(multiply(a[part].clone(), b[part].clone(), None if plus is None else plus[part]), together[part])


@pytest.mark.parametrize("turned", [False, True])
def test_settled_members_begin_at_cache_lines(turned: bool) -> None:
    x = randn(4, 3, 5, dtype=torch.float32)[1:]
    settled = settle(x.mT.contiguous().mT if turned else x)
    assert torch.equal(settled, x)
    assert [member.data_ptr() % ALIGNMENT_BYTES for member in settled] == [0, 0, 0]
    assert settle(settled) is settled


@pytest.mark.parametrize("function", [torch.sigmoid, torch.nn.functional.silu, torch.nn.functional.gelu, torch.tanh, torch.exp])
@pytest.mark.parametrize("size", [1, 3, 16, 31, 32, 45, 96, 100])
def test_element_wise_functions_treat_members_apart_alike(function: torch.nn.Module, size: int) -> None:
    x = randn(5, size, dtype=torch.float32)
    together = set_apart(x).requires_grad_()
    upstream = randn(5, size, key="upstream", dtype=torch.float32)
    (gradient,) = torch.autograd.grad(function(together), together, upstream)
    for member in range(5):
        alone = set_apart(x[member : member + 1].clone()).requires_grad_()
        if size > 1:
            assert torch.equal(function(alone)[0], function(together)[member])
            (own,) = torch.autograd.grad(function(alone), alone, upstream[member : member + 1])
            assert torch.equal(own[0], gradient[member])
        torch.testing.assert_close(function(alone)[0], function(x[member]))


@pytest.mark.parametrize(("inputs", "outputs", "length"), [(3, 4, 5), (1, 4, 6), (4, 1, 3), (2, 3, 1)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_gradients_of_linear_maps(inputs: int, outputs: int, length: int, has_bias: bool) -> None:
    x, weight = randn(2, inputs, length).requires_grad_(), randn(2, outputs, inputs).requires_grad_()
    bias = randn(2, outputs).requires_grad_() if has_bias else None
    tensors = [x, weight] if bias is None else [x, weight, bias]

    def by_columns(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return map_columns(x, weight, bias)

    def by_rows(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return map_rows(x.mT, weight, bias).mT

    assert torch.autograd.gradcheck(by_columns, tensors)
    assert torch.autograd.gradcheck(by_rows, tensors)
    torch.testing.assert_close(by_columns(*tensors), by_rows(*tensors))


def test_nothing_is_computed_for_inputs_that_need_no_gradient() -> None:
    x, weight, bias = randn(2, 3, 4), randn(2, 5, 3).requires_grad_(), randn(2, 5)
    y = map_columns(x, weight, bias)
    torch.autograd.backward(y.sum())
    assert x.grad is None
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, x.sum(2)[:, None].expand(2, 5, 3))
