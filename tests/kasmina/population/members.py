"""Members of a population, for tests: modules of one kind with different weights, run together and alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from esper.kasmina.population.layers import StackedPlanes, StackedRows
from esper.kasmina.population.stack import StackPlan
from esper.leyline.rng import SeedTree
from esper.urza import Catalogue
from esper.urza.catalogue import STANDARD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.leyline.host import HostFamily
    from esper.leyline.layer_ops import LayerOps

SEEDS = SeedTree(0, ("population",))
BLUEPRINTS = [(blueprint.family, blueprint.name) for blueprint in STANDARD]
OPS: dict[HostFamily, LayerOps] = {"cnn": StackedPlanes(), "transformer": StackedRows(4), "mlp": StackedRows(3)}


def randn(*shape: int, key: object = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=SEEDS.child("values", str(key), *shape).torch(), dtype=dtype)


def grown(make: Callable[[], nn.Module], num_members: int, dtype: torch.dtype = torch.float64) -> list[nn.Module]:
    """Modules with every parameter moved at random, each by its own numbers."""
    with SEEDS.child("grown").torch_scope():
        modules = [make().to(dtype) for _ in range(num_members)]
        with torch.no_grad():
            for parameter in (parameter for module in modules for parameter in module.parameters()):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return modules


def grown_blueprints(family: HostFamily, name: str, channels: int, num_members: int, dtype: torch.dtype = torch.float64) -> list[nn.Module]:
    return grown(lambda: Catalogue.standard().build(name, family, channels, 4), num_members, dtype)


def value_shape(family: HostFamily, channels: int, *, batch: int, size: int) -> tuple[int, ...]:
    """Shape of one member's value in a plain model."""
    return {"cnn": (batch, channels, size, size + 1), "transformer": (batch, size, channels), "mlp": (batch, channels)}[family]


def stack_parameters(modules: Sequence[nn.Module]) -> list[Tensor]:
    """[K, …] for every parameter, cut out of one row of numbers per member, as a population stores them."""
    rows = torch.stack([torch.cat([parameter.detach().flatten() for parameter in module.parameters()]) for module in modules])
    shapes = [parameter.shape for parameter in modules[0].parameters()]
    pieces = rows.split([shape.numel() for shape in shapes], dim=1)
    return [piece.reshape(len(modules), *shape).requires_grad_() for piece, shape in zip(pieces, shapes, strict=True)]


def to_stacked(family: HostFamily, values: Tensor) -> Tensor:
    """[K, B, …] → the layout of a population."""
    return values.permute(0, 2, 3, 4, 1) if family == "cnn" else values


def to_plain(family: HostFamily, values: Tensor) -> Tensor:
    """The way back."""
    return values.permute(0, 4, 1, 2, 3) if family == "cnn" else values


def run_stacked(family: HostFamily, modules: Sequence[nn.Module], h: Tensor, upstream: Tensor) -> list[Tensor]:
    """Value, gradient of h and of every parameter, members in front, of modules that have a stacked formula.

    Args:
        family: Shape of the values.
        modules: One per member.
        h: [K, B, …] as in plain models.
        upstream: Gradient of the value, likewise.
    """
    parameters = stack_parameters(modules)
    stacked = to_stacked(family, h.detach()).requires_grad_()
    value = modules[0].value(OPS[family], StackPlan(modules[0]).bind(parameters), stacked)  # type: ignore[operator]
    dh, *rest = torch.autograd.grad(value, [stacked, *parameters], to_stacked(family, upstream))
    return [to_plain(family, value), to_plain(family, dh), *rest]


def run_one_by_one(modules: Sequence[nn.Module], h: Tensor, upstream: Tensor) -> list[Tensor]:
    """The same from the modules' own forward passes."""
    results = []
    for module, own, up in zip(modules, h, upstream, strict=True):
        x = own.detach().requires_grad_()
        value = module(x)
        results.append([value, *torch.autograd.grad(value, [x, *module.parameters()], up)])
    return [torch.stack(parts) for parts in zip(*results, strict=True)]
