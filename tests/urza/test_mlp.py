from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.leyline.rng import SeedTree
from esper.urza.mlp import LowRank, Norm, Perceptron, hidden_width, low_rank

SEEDS = SeedTree(0, ("urza", "mlp"))


def test_perceptron_gives_a_linear_host_a_product() -> None:
    """sign(a · b) is beyond any linear host."""
    generator = SEEDS.child("samples").torch()
    with SEEDS.child("host").torch_scope():
        host = nn.Sequential(nn.Linear(2, 6), Perceptron(6, expansion=4), nn.Linear(6, 1))
    optimizer = torch.optim.AdamW(host.parameters(), lr=0.02)
    accuracy = 0.0
    for _ in range(200):
        x = torch.randn(128, 2, generator=generator)
        label = (x.prod(dim=1) > 0).float()
        logit = host(x)[:, 0]
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.binary_cross_entropy_with_logits(logit, label))
        optimizer.step()
        accuracy = float(((logit > 0) == (label > 0.5)).float().mean())
    assert accuracy > 0.9


@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6)])
def test_rows_do_not_depend_on_the_number_of_leading_axes(shape: tuple[int, ...]) -> None:
    h = torch.randn(shape, generator=SEEDS.child("rows").torch())
    with SEEDS.child("axes").torch_scope():
        modules = [Norm(6), LowRank(6), Perceptron(6, expansion=4)]
    for module in modules:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.3)
        torch.testing.assert_close(module(h).reshape(-1, 6), module(h.reshape(-1, 6)))


def test_norm_opens_its_gate_by_tanh() -> None:
    norm = Norm(6)
    h = torch.randn(5, 6, generator=SEEDS.child("gate").torch())
    with torch.no_grad():
        norm.scale.fill_(10.0)
    torch.testing.assert_close(norm(h), h + nn.functional.layer_norm(h, (6,)))


@pytest.mark.parametrize(("channels", "rank"), [(1, 2), (8, 2), (24, 3), (64, 8), (1024, 8)])
def test_rank_follows_the_width_between_two_and_eight(channels: int, rank: int) -> None:
    assert low_rank(channels) == rank


@pytest.mark.parametrize(("channels", "rank"), [(1, 2), (8, 8), (32, 32), (384, 32)])
def test_large_rank_is_full_until_thirty_two(channels: int, rank: int) -> None:
    assert low_rank(channels, 32, 1) == rank


@pytest.mark.parametrize(("channels", "expansion", "hidden"), [(1, 4, 8), (2, 4, 8), (8, 4, 32), (1, 2, 4)])
def test_hidden_width_has_a_floor(channels: int, expansion: int, hidden: int) -> None:
    assert hidden_width(channels, expansion) == hidden
