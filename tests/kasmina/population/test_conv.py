"""Both kinds of convolution against torch's own, member by member."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.population.conv import CACHED_BYTES, convolve
from esper.kasmina.population.depthwise import convolve_depthwise
from tests.kasmina.population.members import randn

SHAPES = [(2, 3, 4, 5), (1, 1, 1, 1), (3, 2, 1, 6), (2, 2, 6, 1), (2, 2, 2, 3)]
"""Samples, channels, height and width of an image."""


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, *, groups: int) -> Tensor:
    planes = [
        F.conv2d(own.permute(3, 0, 1, 2), weight[k], None if bias is None else bias[k], padding=weight.shape[-1] // 2, groups=groups)
        for k, own in enumerate(x)
    ]
    return torch.stack(planes).permute(0, 2, 3, 4, 1)


def run(x: Tensor, weight: Tensor, bias: Tensor | None, *, is_depthwise: bool) -> Tensor:
    return convolve_depthwise(x, weight, bias) if is_depthwise else convolve(x, weight, bias)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("num_members", [1, 3])
@pytest.mark.parametrize(("outputs", "has_bias"), [(1, True), (4, False), (2, True), (None, True), (None, False)])
def test_values_and_gradients(shape: tuple[int, ...], kernel: int, num_members: int, outputs: int | None, has_bias: bool) -> None:
    batch, channels, height, width = shape
    is_depthwise = outputs is None
    outputs = outputs or channels
    x = randn(num_members, channels, height, width, batch).requires_grad_()
    weight = randn(num_members, outputs, 1 if is_depthwise else channels, kernel, kernel).requires_grad_()
    inputs = [x, weight, *([randn(num_members, outputs).requires_grad_()] if has_bias else [])]
    bias = inputs[2] if has_bias else None
    y, expected = run(x, weight, bias, is_depthwise=is_depthwise), reference(x, weight, bias, groups=channels if is_depthwise else 1)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    upstream = randn(*expected.shape, key="upstream")
    gradients = (torch.autograd.grad(value, inputs, upstream) for value in (y, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("is_depthwise", [False, True])
@pytest.mark.parametrize(("outputs", "kernel"), [(2, 3), (4, 3), (2, 1)])
def test_gradients_by_differences(is_depthwise: bool, outputs: int, kernel: int) -> None:
    x = randn(2, 2, 3, 2, 2).requires_grad_()
    outputs, inputs = (2, 1) if is_depthwise else (outputs, 2)
    weight, bias = randn(2, outputs, inputs, kernel, kernel).requires_grad_(), randn(2, outputs).requires_grad_()
    assert torch.autograd.gradcheck(lambda *tensors: run(*tensors, is_depthwise=is_depthwise), (x, weight, bias))


@pytest.mark.parametrize("needed", ["x", "weight", "bias"])
@pytest.mark.parametrize("is_depthwise", [False, True])
@pytest.mark.parametrize("outputs", [2, 6])
def test_a_single_gradient_is_that_among_all(needed: str, is_depthwise: bool, outputs: int) -> None:
    tensors = {
        "x": randn(2, 2, 4, 3, 2),
        "weight": randn(2, 2, 1, 3, 3) if is_depthwise else randn(2, outputs, 2, 3, 3),
        "bias": randn(2, 2 if is_depthwise else outputs),
    }
    alone = {name: tensor.clone().requires_grad_(name == needed) for name, tensor in tensors.items()}
    everything = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    for case in (alone, everything):
        y = run(case["x"], case["weight"], case["bias"], is_depthwise=is_depthwise)
        torch.autograd.backward(y.pow(2).sum())
    assert [name for name, tensor in alone.items() if tensor.grad is not None] == [needed]
    torch.testing.assert_close(alone[needed].grad, everything[needed].grad, rtol=1e-9, atol=1e-9)


def test_members_that_take_turns_compute_as_those_that_do_not() -> None:
    shape = (7, 6, 16, 16, 16)
    x, weight = randn(*shape, dtype=torch.float32).requires_grad_(), randn(7, 4, 6, 3, 3, dtype=torch.float32).requires_grad_()
    assert 3 * x.numel() * x.element_size() > CACHED_BYTES
    upstream = randn(7, 4, 16, 16, 16, dtype=torch.float32)
    y = convolve(x, weight, None)
    gradients = torch.autograd.grad(y, (x, weight), upstream)
    torch.testing.assert_close(y, reference(x, weight, None, groups=1), rtol=1e-4, atol=1e-4)
    for member in range(7):
        part = slice(member, member + 1)
        own = x.detach()[part].clone().requires_grad_(), weight.detach()[part].clone().requires_grad_()
        alone = convolve(*own, None)
        assert torch.equal(alone, y[part])
        for mine, everyones in zip(torch.autograd.grad(alone, own, upstream[part]), gradients, strict=True):
            assert torch.equal(mine, everyones[part])


@pytest.mark.parametrize("is_depthwise", [False, True])
def test_inputs_may_lie_anyhow_in_memory(is_depthwise: bool) -> None:
    x, weight = randn(2, 3, 4, 5, 2), randn(2, 3, 1 if is_depthwise else 3, 3, 3)
    expected = reference(x, weight, None, groups=3 if is_depthwise else 1)
    for scattered in (x.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0), torch.stack((x, x), -1)[..., 0]):
        torch.testing.assert_close(run(scattered, weight.mT.contiguous().mT, None, is_depthwise=is_depthwise), expected)
