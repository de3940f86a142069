"""What every blueprint of every catalogue must do, and what the catalogue itself promises."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from esper.leyline.actions import NUM_BLUEPRINT_PLACES
from esper.leyline.host import HostFamily
from esper.leyline.rng import SeedTree
from esper.urza import Blueprint, Catalogue, Cost
from esper.urza.catalogue import STANDARD

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.leyline import ports

WIDTHS = (1, 3, 8, 16)
SHAPES: dict[HostFamily, tuple[int, ...]] = {"cnn": (6, 5), "transformer": (7,), "mlp": ()}
BATCH = 4
SEEDS = SeedTree(0, ("urza",))


def id_of(blueprint: Blueprint) -> str:
    return f"{blueprint.family}-{blueprint.name}"


def make_value(family: HostFamily, channels: int, key: str = "value") -> Tensor:
    """A host value with the channel axis where the family has it."""
    *positions, batch = (*SHAPES[family], BATCH)
    shape = (batch, channels, *positions) if family == "cnn" else (batch, *positions, channels)
    return torch.randn(shape, generator=SEEDS.child(key, family, channels).torch())


def num_positions(family: HostFamily) -> int:
    return int(torch.tensor(SHAPES[family]).prod()) if SHAPES[family] else 1


def make_module(catalogue: Catalogue, blueprint: Blueprint, channels: int) -> nn.Module:
    with SEEDS.child("module", blueprint.name, channels).torch_scope():
        return catalogue.build(blueprint.name, blueprint.family, channels, num_positions(blueprint.family))


def check_identity_at_birth(catalogue: Catalogue, blueprint: Blueprint, channels: int) -> None:
    h = make_value(blueprint.family, channels)
    module = make_module(catalogue, blueprint, channels)
    assert torch.equal(module(h), h)
    if h.ndim == 4:
        assert torch.equal(module(h.to(memory_format=torch.channels_last)), h)
    assert torch.equal(module.eval()(1e4 * h), 1e4 * h)


def check_some_gradient_at_birth(catalogue: Catalogue, blueprint: Blueprint, channels: int) -> None:
    h = make_value(blueprint.family, channels)
    module = make_module(catalogue, blueprint, channels)
    (module(h) * make_value(blueprint.family, channels, "upstream")).sum().backward()
    norms = [float(p.grad.norm()) for p in module.parameters() if p.grad is not None]
    assert max(norms) > 0.0
    assert all(torch.isfinite(torch.tensor(norms)))


def check_all_parameters_move_in_two_steps(catalogue: Catalogue, blueprint: Blueprint, channels: int) -> None:
    module = make_module(catalogue, blueprint, channels)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        h, upstream = (make_value(blueprint.family, channels, f"{kind} {step}") for kind in ("value", "upstream"))
        (module(h) * upstream).sum().backward()
        optimizer.step()
    still = [name for name, p in module.named_parameters() if torch.equal(p, before[name])]
    assert not still


def check_cost(catalogue: Catalogue, blueprint: Blueprint, channels: int) -> None:
    positions = num_positions(blueprint.family)
    module = make_module(catalogue, blueprint, channels)
    spec = catalogue.spec(blueprint.name, blueprint.family, channels, positions)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused CPU attention goes uncounted
        module(make_value(blueprint.family, channels))
    cost = blueprint.cost(channels, positions)
    assert spec.num_parameters == sum(p.numel() for p in module.parameters())
    assert cost.product_flops * 2 * BATCH == counter.get_total_flops()
    assert spec.flops == cost.product_flops + cost.pointwise_flops
    assert spec.flops > 0


def check_isolated_backward(catalogue: Catalogue, blueprint: Blueprint, channels: int) -> None:
    """A seed that trains isolated, on a detached value in whatever memory format the host produced, learns as one that is heard."""
    h = make_value(blueprint.family, channels)
    module = make_module(catalogue, blueprint, channels)
    nudge(module)

    def gradients(value: Tensor) -> list[Tensor]:
        module.zero_grad()
        module(value).square().sum().backward()
        return [p.grad.clone() for p in module.parameters() if p.grad is not None]

    heard = h.clone().requires_grad_()
    expected = gradients(heard)
    assert heard.grad is not None and float(heard.grad.norm()) > 0.0
    assert len(expected) == len(list(module.parameters()))
    formats = (torch.contiguous_format, torch.channels_last) if h.ndim == 4 else (torch.contiguous_format,)
    for memory_format in formats:
        value = h.to(memory_format=memory_format).detach()
        for own, other in zip(gradients(value), expected, strict=True):
            assert float((own - other).norm()) <= 1e-4 * float(other.norm())
        assert value.grad is None


def check_samples_are_independent(catalogue: Catalogue, blueprint: Blueprint, channels: int) -> None:
    h = make_value(blueprint.family, channels)
    module = make_module(catalogue, blueprint, channels)
    nudge(module)
    torch.testing.assert_close(module(h)[1:2], module(h[1:2]), rtol=1e-4, atol=1e-5)


def check_any_number_of_positions(catalogue: Catalogue, blueprint: Blueprint, channels: int) -> None:
    module = make_module(catalogue, blueprint, channels)
    for positions in (1, 2, 9):
        shape = {"cnn": (2, channels, positions, 2), "transformer": (2, positions, channels), "mlp": (positions, channels)}
        h = torch.randn(shape[blueprint.family], generator=SEEDS.child("any", positions).torch())
        assert torch.equal(module(h), h)


def nudge(module: nn.Module) -> None:
    """Move every parameter away from where it was born, so that no branch is silent."""
    generator = SEEDS.child("nudge").torch()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


CHECKS: tuple[Callable[[Catalogue, Blueprint, int], None], ...] = (
    check_identity_at_birth,
    check_some_gradient_at_birth,
    check_all_parameters_move_in_two_steps,
    check_cost,
    check_isolated_backward,
    check_samples_are_independent,
    check_any_number_of_positions,
)


class Shift(nn.Module):
    """A user's own blueprint: one learned constant a channel, in any place but the standard ones."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.zeros(channels))

    def forward(self, h: Tensor) -> Tensor:
        delta: Tensor = self.constant * torch.tanh(h)
        return h + delta

    @staticmethod
    def cost(channels: int, positions: int) -> Cost:
        return Cost(channels, 0, channels * positions)


class LoudShift(Shift):
    """The same, but not the identity at birth."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        nn.init.ones_(self.constant)


class StarvedShift(nn.Module):
    """Identity at birth, and for ever: a product of two zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.zeros(channels))
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, h: Tensor) -> Tensor:
        delta: Tensor = self.constant * self.gate * h
        return h + delta


SHIFT = Blueprint("shift", 13, "mlp", Shift, Shift.cost)


@pytest.mark.parametrize("blueprint", (*STANDARD, SHIFT), ids=id_of)
@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_every_blueprint_passes(check: Callable[[Catalogue, Blueprint, int], None], channels: int, blueprint: Blueprint) -> None:
    check(Catalogue((*STANDARD, SHIFT)), blueprint, channels)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"build": LoudShift}, check_identity_at_birth),
        ({"build": StarvedShift}, check_some_gradient_at_birth),
        ({"build": StarvedShift}, check_all_parameters_move_in_two_steps),
        ({"build": StarvedShift}, check_cost),
        ({"cost": lambda channels, positions: Cost(channels, 1)}, check_cost),
    ],
)
def test_a_wrong_blueprint_is_caught(change: dict[str, Callable[..., object]], check: Callable[[Catalogue, Blueprint, int], None]) -> None:
    wrong = dataclasses.replace(SHIFT, **change)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        check(Catalogue((wrong,)), wrong, 8)


def test_standard_catalogue_fills_the_agreed_places() -> None:
    catalogue = Catalogue.standard()
    conv = ("depthwise", "bottleneck", "conv_small", "conv_light", "conv_heavy")
    expected = ["norm", "attention", "spatial_attention", *conv, "lora", "lora_large", "mlp_small", "mlp", "causal_conv"]
    assert [catalogue.name(place) for place in range(13)] == expected
    assert [catalogue.place(name) for name in expected] == list(range(13))
    for place in range(13, NUM_BLUEPRINT_PLACES):
        with pytest.raises(KeyError):
            catalogue.name(place)


def test_families_offer_what_they_should_in_order_of_place() -> None:
    catalogue = Catalogue.standard()
    assert catalogue.names("cnn") == tuple(catalogue.name(place) for place in range(9))
    assert catalogue.names("transformer") == ("norm", "attention", "lora", "lora_large", "mlp_small", "mlp", "causal_conv")
    assert catalogue.names("mlp") == ("norm", "lora", "mlp")


def test_catalogue_is_the_port() -> None:
    port: ports.Catalogue = Catalogue.standard()
    spec = port.spec("conv_light", "cnn", channels=8, positions=64)
    assert (spec.blueprint_id, spec.family, spec.place, spec.channels, spec.positions) == ("conv_light", "cnn", 6, 8, 64)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    catalogue = Catalogue.standard()
    with pytest.raises(KeyError, match=r"conv_huge.*norm, attention, spatial_attention"):
        catalogue.place("conv_huge")
    with pytest.raises(KeyError, match=r"31.*6 conv_light"):
        catalogue.name(31)
    with pytest.raises(KeyError, match=r"conv_light.*mlp: norm, lora, mlp"):
        catalogue.build("conv_light", "mlp", 8, 1)
    with pytest.raises(KeyError, match=r"causal_conv.*cnn"):
        catalogue.spec("causal_conv", "cnn", 8, 1)


@pytest.mark.parametrize(("channels", "positions"), [(0, 4), (4, 0), (-1, 1)])
def test_impossible_sizes_are_refused(channels: int, positions: int) -> None:
    catalogue = Catalogue.standard()
    with pytest.raises(ValueError, match=re.escape(f"channels={channels}")):
        catalogue.build("norm", "cnn", channels, positions)
    with pytest.raises(ValueError, match=re.escape(f"positions={positions}")):
        catalogue.spec("norm", "cnn", channels, positions)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (SHIFT, dataclasses.replace(SHIFT, family="cnn", place=14), "13 in one family and 14|place 13"),
        (SHIFT, dataclasses.replace(SHIFT, name="other"), "place 13 is taken"),
        (SHIFT, SHIFT, "given twice"),
        (SHIFT, dataclasses.replace(SHIFT, name="far", place=NUM_BLUEPRINT_PLACES), "outside the blueprint head"),
        (SHIFT, dataclasses.replace(SHIFT, name="far", place=-1), "outside the blueprint head"),
    ],
)
def test_contradictory_blueprints_are_refused(first: Blueprint, second: Blueprint, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Catalogue((first, second))


def test_digest_follows_names_places_and_families_and_nothing_else() -> None:
    digest = Catalogue((SHIFT,)).digest
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    assert Catalogue((dataclasses.replace(SHIFT, build=LoudShift, rescales_only=True),)).digest == digest
    assert Catalogue(reversed(STANDARD)).digest == Catalogue.standard().digest
    changed = [
        Catalogue((dataclasses.replace(SHIFT, name="drift"),)).digest,
        Catalogue((dataclasses.replace(SHIFT, place=14),)).digest,
        Catalogue((dataclasses.replace(SHIFT, family="cnn"),)).digest,
        Catalogue((SHIFT, dataclasses.replace(SHIFT, family="cnn"))).digest,
    ]
    assert len({digest, *changed}) == 5


def test_standard_digest_is_the_one_in_checkpoints() -> None:
    assert Catalogue.standard().digest == "fed4779ac036a68f986455abbff0b88387be910b1a6958a1c504c786e7dffd7f"


@pytest.mark.parametrize("family", get_args(HostFamily))
def test_table_shows_every_blueprint_of_the_family(family: HostFamily) -> None:
    catalogue = Catalogue.standard()
    header, *rows = catalogue.list(family, 64, 256).splitlines()
    specs = catalogue.specs(family, 64, 256)
    assert [row.split()[1] for row in rows] == list(catalogue.names(family)) == [spec.blueprint_id for spec in specs]
    assert [row.split()[2].replace(",", "") for row in rows] == [str(spec.num_parameters) for spec in specs]
    assert [row.split()[3].replace(",", "") for row in rows] == [str(spec.flops) for spec in specs]
    assert len({len(line.split()) for line in (header, *rows)}) == 1


def test_initialisation_follows_the_ambient_generator() -> None:
    catalogue = Catalogue.standard()

    def weights(key: int) -> Tensor:
        with SEEDS.child(key).torch_scope():
            return torch.cat([p.detach().flatten() for p in catalogue.build("conv_light", "cnn", 4, 16).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_builds_share_nothing() -> None:
    catalogue = Catalogue.standard()
    first, second = (catalogue.build("conv_light", "cnn", 4, 16) for _ in range(2))
    assert not {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in second.parameters()}
