"""Every blueprint of every family, stacked: the numbers of the plain modules, and no member that knows of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from esper.leyline.layer_ops import is_stackable
from tests.kasmina.population.members import BLUEPRINTS, grown_blueprints, randn, run_one_by_one, run_stacked, value_shape

if TYPE_CHECKING:
    from esper.leyline.host import HostFamily

SIZES = ((3, 4), (5, 1), (1, 2), (16, 3))


@pytest.mark.parametrize(("family", "name"), BLUEPRINTS)
@pytest.mark.parametrize("channels", [1, 4, 6, 16, 33])
@pytest.mark.parametrize("num_members", [1, 3])
def test_value_and_gradients_are_those_of_the_plain_modules(family: HostFamily, name: str, channels: int, num_members: int) -> None:
    modules = grown_blueprints(family, name, channels, num_members)
    for batch, size in SIZES:
        shape = (num_members, *value_shape(family, channels, batch=batch, size=size))
        h, upstream = randn(*shape), randn(*shape, key="upstream")
        for ours, plain in zip(run_stacked(family, modules, h, upstream), run_one_by_one(modules, h, upstream), strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("family", "name"), BLUEPRINTS)
@pytest.mark.parametrize("channels", [1, 3, 4, 6, 16])
def test_a_member_computes_the_same_bits_alone_and_among_others(family: HostFamily, name: str, channels: int) -> None:
    modules = grown_blueprints(family, name, channels, 5, torch.float32)
    for batch, size in ((1, 3), (7, 4), (32, 8)):
        shape = (5, *value_shape(family, channels, batch=batch, size=size))
        h, upstream = (randn(*shape, key=key, dtype=torch.float32) for key in ("h", "upstream"))
        together = run_stacked(family, modules, h, upstream)
        for first, last in ((0, 1), (1, 2), (4, 5), (1, 3), (3, 5)):
            alone = run_stacked(family, modules[first:last], h[first:last], upstream[first:last])
            for mine, everyones in zip(alone, together, strict=True):
                assert torch.equal(mine, everyones[first:last])


@pytest.mark.parametrize(("family", "name"), BLUEPRINTS)
@pytest.mark.parametrize("broken", ["input", "parameters"])
def test_a_broken_member_leaves_the_others_alone(family: HostFamily, name: str, broken: str) -> None:
    modules = grown_blueprints(family, name, 4, 3, torch.float32)
    shape = (3, *value_shape(family, 4, batch=5, size=3))
    h, upstream = (randn(*shape, key=key, dtype=torch.float32) for key in ("h", "upstream"))
    healthy = run_stacked(family, modules, h, upstream)
    with torch.no_grad():
        if broken == "input":
            h[1] = torch.nan
        else:
            for parameter in modules[1].parameters():
                parameter.fill_(torch.nan)
    for before, after in zip(healthy, run_stacked(family, modules, h, upstream), strict=True):
        assert torch.equal(before[[0, 2]], after[[0, 2]])


@pytest.mark.parametrize(("family", "name"), BLUEPRINTS)
def test_values_and_upstream_gradients_may_lie_anyhow_in_memory(family: HostFamily, name: str) -> None:
    modules = grown_blueprints(family, name, 4, 3)
    shape = (3, *value_shape(family, 4, batch=5, size=3))
    h, upstream = randn(*shape), randn(*shape, key="upstream")
    expected = run_stacked(family, modules, h, upstream)
    for scattered in (h.mT.contiguous().mT, torch.stack((h, h), -1)[..., 0], h.flip(0).flip(0)):
        for result, value in zip(run_stacked(family, modules, scattered, upstream.mT.contiguous().mT), expected, strict=True):
            torch.testing.assert_close(result, value, rtol=1e-9, atol=1e-9)
    broadcast = torch.full((), 0.7, dtype=h.dtype).expand(shape)
    for result, value in zip(run_stacked(family, modules, h, broadcast), run_one_by_one(modules, h, broadcast), strict=True):
        torch.testing.assert_close(result, value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("family", "name"), BLUEPRINTS)
def test_every_shipped_blueprint_has_a_stacked_formula(family: HostFamily, name: str) -> None:
    assert is_stackable(grown_blueprints(family, name, 4, 1)[0])
