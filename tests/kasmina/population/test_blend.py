"""Blending with one alpha a member."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast, get_args

import pytest
import torch
from torch import Tensor

from esper.kasmina.blend import BlendGate, blend, straight_through
from esper.kasmina.population.stack import StackPlan
from esper.leyline.alpha import BlendOperator
from esper.leyline.host import HostFamily
from tests.kasmina.population.members import OPS, grown, randn, run_one_by_one, run_stacked, stack_parameters, to_stacked, value_shape

if TYPE_CHECKING:
    from collections.abc import Callable

FAMILIES: tuple[HostFamily, ...] = get_args(HostFamily)
ALPHAS = [0.0, 0.3, 0.7, 1.0]


def make_values(family: HostFamily, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Host and seed values of four members, as a population holds them."""
    shape = (4, *value_shape(family, 4, batch=3, size=2))
    h, s = (to_stacked(family, randn(*shape, key=key, dtype=dtype)).contiguous().requires_grad_() for key in ("h", "s"))
    return h, s


def make_gate(family: HostFamily, dtype: torch.dtype = torch.float32) -> tuple[list[BlendGate], Callable[[Tensor], Tensor]]:
    gates = [cast("BlendGate", gate) for gate in grown(lambda: BlendGate(4, family), 4, dtype)]
    return gates, partial(BlendGate.value, OPS[family], StackPlan(gates[0]).bind(stack_parameters(gates)))


def per_member(alphas: list[float], h: Tensor) -> Tensor:
    return torch.tensor(alphas, dtype=h.dtype).view(-1, *[1] * (h.ndim - 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stacked_gate_computes_what_the_gates_do(family: HostFamily) -> None:
    gates = grown(lambda: BlendGate(4, family), 3)
    shape = (3, *value_shape(family, 4, batch=5, size=3))
    h = randn(*shape)
    upstream = torch.stack([randn(*gate(own).shape, key="upstream") for gate, own in zip(gates, h, strict=True)])
    for ours, plain in zip(run_stacked(family, gates, h, upstream), run_one_by_one(gates, h, upstream), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("operator", BlendOperator)
def test_a_member_is_mixed_by_its_own_alpha_bit_for_bit(family: HostFamily, operator: BlendOperator) -> None:
    h, s = make_values(family)
    _, gate = make_gate(family)
    mixed = blend(h, s, per_member(ALPHAS, h), operator, gate)
    gradients = torch.autograd.grad(mixed.sum(), (h, s))
    for member, alpha in enumerate(ALPHAS):
        alone = blend(h, s, alpha, operator, gate)
        assert torch.equal(alone[member], mixed[member])
        if alpha:
            for mine, everyones in zip(torch.autograd.grad(alone.sum(), (h, s)), gradients, strict=True):
                torch.testing.assert_close(mine[member], everyones[member])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("operator", BlendOperator)
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_an_unheard_member_is_its_host_whatever_its_seed_says(family: HostFamily, operator: BlendOperator, broken: float) -> None:
    h, s = make_values(family)
    _, gate = make_gate(family)
    with torch.no_grad():
        s[0] = broken
    mixed = blend(h, s, per_member(ALPHAS, h), operator, gate)
    assert torch.equal(mixed[0], h[0])
    assert bool(torch.isfinite(mixed).all())
    (gradient,) = torch.autograd.grad(mixed.sum(), h)
    assert torch.equal(gradient[0], torch.ones_like(h[0]))


@pytest.mark.parametrize("family", FAMILIES)
def test_straight_through_is_the_hosts_value_with_both_gradients(family: HostFamily) -> None:
    h, s = make_values(family)
    with torch.no_grad():
        s[0] = torch.nan
    mixed = straight_through(h, s)
    assert torch.equal(mixed, h)
    upstream = torch.randn_like(h)
    for gradient in torch.autograd.grad(mixed, (h, s), upstream):
        assert torch.equal(gradient, upstream)
