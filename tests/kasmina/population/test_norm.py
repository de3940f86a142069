from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina.population.norm import group_norm, layer_norm
from esper.urza.norm import GroupNorm, LayerNorm
from tests.kasmina.population.members import randn


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (3, 1), (4, 2), (32, 2)])
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 4), (3, 2, 5)])
def test_group_norm_is_that_of_the_blueprints(channels: int, groups: int, size: tuple[int, ...]) -> None:
    tensors = randn(2, channels, *size), randn(2, channels, 1, 1, key="gain"), randn(2, channels, 1, 1, key="shift")
    x, weight, bias = (tensor.requires_grad_() for tensor in tensors)
    y = group_norm(x, weight, bias, groups)
    upstream = randn(*x.shape, key="upstream")
    gradients = torch.autograd.grad(y, (x, weight, bias), upstream)
    for member in range(2):
        norm = GroupNorm(channels).double()
        norm.groups = groups
        with torch.no_grad():
            norm.weight.copy_(weight[member])
            norm.bias.copy_(bias[member])
        own = x[member].detach().permute(3, 0, 1, 2).requires_grad_()
        plain = norm(own)
        torch.testing.assert_close(y[member].permute(3, 0, 1, 2), plain, rtol=1e-9, atol=1e-9)
        expected = torch.autograd.grad(plain, (own, norm.weight, norm.bias), upstream[member].permute(3, 0, 1, 2))
        torch.testing.assert_close(gradients[0][member].permute(3, 0, 1, 2), expected[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradients[1][member], expected[1], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradients[2][member], expected[2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("channels", "groups", "size"), [(4, 2, (2, 1, 3)), (1, 1, (1, 1, 3)), (2, 1, (2, 2, 1))])
def test_gradients_by_differences(channels: int, groups: int, size: tuple[int, ...]) -> None:
    x, weight, bias = randn(2, channels, *size), randn(2, channels, 1, 1), randn(2, channels, 1, 1)
    assert torch.autograd.gradcheck(lambda x, w, b: group_norm(x, w, b, groups), tuple(t.requires_grad_() for t in (x, weight, bias)))


@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("scale", [0.02, 50.0])
def test_group_norm_undoes_attenuation_and_offset_in_single_precision(scale: float, offset: float) -> None:
    x, ones, zeros = randn(2, 6, 5, 5, 3, dtype=torch.float32), torch.ones(2, 6, 1, 1), torch.zeros(2, 6, 1, 1)
    torch.testing.assert_close(group_norm(scale * x + offset, ones, zeros, 1), group_norm(x, ones, zeros, 1), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 4, 5, 6), (2, 3, 1)])
@pytest.mark.parametrize("keeps_single", [True, False])
def test_layer_norm_is_that_of_the_plain_layers(shape: tuple[int, ...], keeps_single: bool) -> None:
    x, weight, bias = randn(*shape), randn(2, shape[-1]), randn(2, shape[-1], key="shift")
    y = layer_norm(x, weight, bias, keeps_single=keeps_single)
    for member in range(2):
        norm = (LayerNorm(shape[-1]) if keeps_single else nn.LayerNorm(shape[-1])).double()
        with torch.no_grad():
            norm.weight.copy_(weight[member])
            norm.bias.copy_(bias[member])
        torch.testing.assert_close(y[member], norm(x[member]), rtol=1e-9, atol=1e-9)
