from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.urza.norm import MIN_GROUP_CHANNELS, GroupNorm, LayerNorm, num_groups, standardise


def planes(channels: int, *, seed: int = 0, size: int = 5) -> Tensor:
    return torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3, 16, 32, 48, 64])
def test_group_norm_agrees_with_torch(channels: int) -> None:
    ours, theirs = GroupNorm(channels), nn.GroupNorm(num_groups(channels), channels)
    with torch.no_grad():
        theirs.weight.copy_(torch.linspace(0.5, 2.0, channels))
        theirs.bias.copy_(torch.linspace(-1.0, 1.0, channels))
        ours.weight.copy_(theirs.weight.view(-1, 1, 1))
        ours.bias.copy_(theirs.bias.view(-1, 1, 1))
    h = planes(channels).requires_grad_()
    expected = theirs(h)
    torch.testing.assert_close(ours(h), expected)
    upstream = planes(channels, seed=1)
    grad, expected_grad = (torch.autograd.grad((out * upstream).sum(), h)[0] for out in (ours(h), expected))
    torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [2, 3, 16])
def test_layer_norm_agrees_with_torch(channels: int) -> None:
    h = torch.randn(4, 7, channels, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(LayerNorm(channels)(h), nn.LayerNorm(channels)(h))


@pytest.mark.parametrize("channels", [1, 3, 8, 32])
def test_backward_survives_detached_channels_last_input(channels: int) -> None:
    """torch.nn.GroupNorm kills the process here, so a failure of this test may look like a crash of the whole run."""
    h = planes(channels)
    grads = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        norm = GroupNorm(channels)
        norm(h.to(memory_format=memory_format).detach()).pow(3).sum().backward()
        assert norm.weight.grad is not None
        grads.append(norm.weight.grad)
    assert float(grads[0].norm()) > 0.0
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("scale", [0.02, 50.0])
def test_group_norm_undoes_attenuation_and_offset(scale: float, offset: float) -> None:
    h = planes(6)
    norm = GroupNorm(6)
    torch.testing.assert_close(norm(scale * h + offset), norm(h), rtol=0.05, atol=0.05)


def test_a_row_of_one_value_keeps_its_sign_and_a_gradient_to_the_gain() -> None:
    row = torch.tensor([[2.0], [-3.0]])
    torch.testing.assert_close(standardise(row), torch.tensor([[1.0], [-1.0]]), rtol=1e-3, atol=1e-3)
    norm = LayerNorm(1)
    norm(row)[0].sum().backward()
    assert norm.weight.grad is not None
    assert float(norm.weight.grad) == pytest.approx(1.0, rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 1100))
def test_groups_divide_the_channels_and_are_never_thin(channels: int) -> None:
    groups = num_groups(channels)
    assert channels % groups == 0
    assert 1 <= groups <= 32
    assert groups == 1 or channels // groups >= MIN_GROUP_CHANNELS


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (16, 1), (31, 1), (32, 2), (48, 2), (64, 4), (512, 32), (1024, 32)])
def test_as_many_groups_as_fit(channels: int, groups: int) -> None:
    assert num_groups(channels) == groups
