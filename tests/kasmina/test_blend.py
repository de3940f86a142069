from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from esper.kasmina.blend import BlendGate, blend, straight_through
from esper.leyline.alpha import BlendOperator
from esper.leyline.rng import SeedTree

if TYPE_CHECKING:
    from esper.leyline.host import HostFamily

SHAPES: dict[HostFamily, tuple[int, ...]] = {"cnn": (4, 3, 5, 5), "transformer": (4, 6, 3), "mlp": (4, 3)}


def values(shape: tuple[int, ...] = SHAPES["cnn"]) -> tuple[Tensor, Tensor]:
    generator = SeedTree(1).torch()
    return torch.randn(shape, generator=generator, requires_grad=True), torch.randn(shape, generator=generator, requires_grad=True)


def mix(operator: BlendOperator, alpha: float | Tensor, h: Tensor, s: Tensor) -> Tensor:
    with SeedTree(2).torch_scope():
        gate = BlendGate(h.shape[1], "cnn")
    return blend(h, s, alpha, operator, gate)


def test_straight_through_has_the_hosts_value_and_both_gradients() -> None:
    h, s = values()
    upstream = torch.randn_like(h)
    mixed = straight_through(h, s)
    assert torch.equal(mixed, h)
    torch.autograd.backward(mixed, upstream)
    assert h.grad is not None
    assert s.grad is not None
    assert torch.equal(h.grad, upstream)
    assert torch.equal(s.grad, upstream)


def test_straight_through_keeps_a_broken_seed_out_of_the_value() -> None:
    h, s = values()
    assert torch.equal(straight_through(h, s * torch.inf), h)


@pytest.mark.parametrize("operator", BlendOperator)
def test_alpha_zero_is_the_host_bit_for_bit(operator: BlendOperator) -> None:
    h, s = values()
    assert mix(operator, 0.0, h, s) is h
    assert torch.equal(mix(operator, torch.zeros(4, 1, 1, 1), h, s), h)


def test_add_is_the_convex_mix() -> None:
    h, s = values()
    torch.testing.assert_close(mix(BlendOperator.ADD, 0.25, h, s), 0.75 * h + 0.25 * s)
    assert torch.equal(mix(BlendOperator.ADD, 1.0, h, s), s)


def test_multiply_scales_the_host_by_the_seeds_difference() -> None:
    h, s = values()
    torch.testing.assert_close(mix(BlendOperator.MULTIPLY, 0.4, h, s), h * (1 + 0.4 * torch.tanh(s - h)))


def test_gate_mixes_each_sample_by_its_own_gate() -> None:
    h, s = values()
    with SeedTree(2).torch_scope():
        gate = BlendGate(3, "cnn")
    mixed = blend(h, s, 0.5, BlendOperator.GATE, gate)
    opening = gate(h)
    assert opening.shape == (4, 1, 1, 1)
    assert bool(((opening > 0) & (opening < 1)).all())
    torch.testing.assert_close(mixed, h + 0.5 * opening * (s - h))


def test_gate_without_a_gate_is_refused() -> None:
    with pytest.raises(ValueError, match="gate"):
        blend(*values(), 0.5, BlendOperator.GATE)


@pytest.mark.parametrize("operator", BlendOperator)
def test_one_alpha_per_sample_equals_samples_one_by_one(operator: BlendOperator) -> None:
    h, s = values()
    alphas = [0.0, 0.3, 0.7, 1.0]
    together = mix(operator, torch.tensor(alphas).view(4, 1, 1, 1), h, s)
    for i, alpha in enumerate(alphas):
        torch.testing.assert_close(together[i : i + 1], mix(operator, alpha, h[i : i + 1], s[i : i + 1]))


def test_multiply_leaves_the_hosts_gradient_alone_where_the_seeds_input_was_cut_off() -> None:
    h, _ = values()
    source = h.detach()
    torch.autograd.backward(blend(h, source + 0.5, 0.4, BlendOperator.MULTIPLY, reference=source).sum())
    assert h.grad is not None
    torch.testing.assert_close(h.grad, torch.full_like(h, 1 + 0.4 * torch.tanh(torch.tensor(0.5)).item()))


@pytest.mark.parametrize("family", SHAPES)
def test_gate_shapes_and_size(family: HostFamily) -> None:
    h = torch.randn(SHAPES[family])
    gate = BlendGate(3, family)
    assert (gate(h) * h).shape == h.shape
    assert sum(p.numel() for p in gate.parameters()) == 8 * 3 + 8 + 8 + 1


def test_a_token_gate_does_not_see_the_future() -> None:
    gate = BlendGate(3, "transformer")
    h = torch.randn(2, 6, 3)
    changed = h.clone()
    changed[:, 4:] += 1.0
    torch.testing.assert_close(gate(h)[:, :4], gate(changed)[:, :4])
