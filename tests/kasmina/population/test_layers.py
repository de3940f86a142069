from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.population.layers import StackedPlanes, StackedRows, attend, average_pool, look_up
from esper.urza.plain import PLAIN
from tests.kasmina.population.members import randn, to_plain, to_stacked

if TYPE_CHECKING:
    from collections.abc import Callable

PLANES, ROWS = StackedPlanes(), StackedRows(4)


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (2, 3), (6, 1)])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_average_pool_is_torchs_own(size: tuple[int, int], window: int) -> None:
    if min(size) < window:
        return
    x = randn(2, 3, 4, *size).requires_grad_()
    expected = torch.stack([F.avg_pool2d(own, window) for own in x])
    torch.testing.assert_close(to_plain("cnn", average_pool(to_stacked("cnn", x), window)), expected)
    (ours,) = torch.autograd.grad(average_pool(to_stacked("cnn", x), window).square().sum(), x)
    torch.testing.assert_close(ours, torch.autograd.grad(expected.square().sum(), x)[0])


@pytest.mark.parametrize("size", [(1, 1), (2, 5)])
def test_planes_pool_spread_and_get_coordinates_as_plain_ones(size: tuple[int, int]) -> None:
    x = randn(2, 3, 4, *size)
    stacked = to_stacked("cnn", x)
    pooled = PLANES.pool(stacked)
    spread = to_plain("cnn", (stacked * PLANES.spread(pooled)))
    placed = to_plain("cnn", PLANES.with_coordinates(stacked))
    for member, own in enumerate(x):
        torch.testing.assert_close(pooled[member].mT, PLAIN.pool(own))
        torch.testing.assert_close(spread[member], own * PLAIN.spread(PLAIN.pool(own)))
        torch.testing.assert_close(placed[member], PLAIN.with_coordinates(own))


def test_scalars_belong_to_members() -> None:
    scalars = torch.tensor([2.0, 3.0])
    for ops, shape in ((PLANES, (2, 3, 4, 5, 6)), (ROWS, (2, 3, 4, 5)), (StackedRows(3), (2, 3, 4))):
        scaled = ops.scalar(scalars) * torch.ones(shape)
        assert torch.equal(scaled[0], torch.full(shape[1:], 2.0))
        assert torch.equal(scaled[1], torch.full(shape[1:], 3.0))


@pytest.mark.parametrize(("batch", "length", "heads", "depth"), [(1, 1, 1, 1), (3, 5, 2, 3), (4, 16, 3, 4)])
def test_attention_is_the_plain_one_of_each_member(batch: int, length: int, heads: int, depth: int) -> None:
    packed = randn(3, batch, length, 3 * heads * depth)
    mixed = attend(packed, heads)
    for member, own in enumerate(packed):
        torch.testing.assert_close(mixed[member], PLAIN.attend(own, heads))


def test_every_member_has_its_own_table() -> None:
    table, tokens = randn(3, 5, 2).requires_grad_(), torch.tensor([[[0, 4]], [[1, 1]], [[4, 0]]])
    values = look_up(table, tokens)
    for member in range(3):
        assert torch.equal(values[member], table[member][tokens[member]])
    (gradient,) = torch.autograd.grad(values.sum(), table)
    assert gradient[..., 0].tolist() == [[1, 0, 0, 0, 1], [0, 2, 0, 0, 0], [1, 0, 0, 0, 1]]


def test_a_convolution_in_groups_that_are_neither_one_nor_all_is_refused() -> None:
    layer = SimpleNamespace(weight=randn(2, 4, 2, 3, 3), bias=None, groups=2)
    with pytest.raises(ValueError, match="1 or as many groups, got 2"):
        PLANES.conv(layer, randn(2, 4, 5, 5, 3))


def test_operations_refuse_values_of_another_kind() -> None:
    planes, rows, layer = randn(1, 2, 3, 3, 4), randn(1, 2, 3, 6), nn.Identity()
    calls: tuple[Callable[[], object], ...] = (
        lambda: PLANES.attend(planes, 2),
        lambda: PLANES.causal_conv(layer, planes),
        lambda: ROWS.conv(layer, rows),
        lambda: ROWS.pool(rows),
        lambda: ROWS.spread(rows),
        lambda: ROWS.with_coordinates(rows),
    )
    for refused in calls:
        with pytest.raises(TypeError, match="not for"):
            refused()
