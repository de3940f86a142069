"""What one labelled batch says about the slots and layers of every member; the numbers of `grad_probe`, for all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.grad_probe import HostProbe, LayerProbe, SlotProbe

if TYPE_CHECKING:
    from esper.kasmina.population.model import Population
    from esper.leyline.host import HostFamily


def probe_population(population: Population, x: Tensor, y: Tensor) -> list[HostProbe]:
    """Measure slots and layers of every member on its own batch.

    Args:
        population: Nothing in it is changed.
        x: Inputs [K, B, …].
        y: int64 classes [K, B], or [K, B, T].
    """
    with torch.enable_grad():
        trace = population.trace(population.arrange(x))
        losses = F.cross_entropy(trace.logits.flatten(0, -2), y.flatten(), reduction="none").view(len(x), -1).mean(1)
        leaf = population.storage.leaf
        *at_slots, at_leaf = torch.autograd.grad(losses.sum(), [*trace.values, leaf])
    weights, gradients = (_of_hosts(population, tensor) for tensor in (leaf.detach(), at_leaf))
    model = population.models[0]
    family = model.host.family
    slots = [_slot_figures(value.detach(), gradient, family) for value, gradient in zip(trace.values, at_slots, strict=True)]
    layers = []
    for spec, columns in zip(model.host.layer_specs(), population.layer_columns(), strict=True):
        own = _flat([weights[i] for i in columns]), _flat([gradients[i] for i in columns])
        layers.append(torch.stack([own[0].norm(dim=1), own[1].norm(dim=1), own[1].var(1, correction=0), trace.zeros[spec.layer_id]]))
    slot_figures, layer_figures = torch.stack(slots, 1).permute(2, 1, 0).tolist(), torch.stack(layers).permute(2, 0, 1).tolist()
    has_space = [slot.spec.positions > 1 for slot in model.seed_slots]
    return [
        HostProbe(
            tuple(
                SlotProbe(norm, mean, std, spatial if spreads else None)
                for (norm, mean, std, spatial), spreads in zip(slot_rows, has_space, strict=True)
            ),
            tuple(LayerProbe(*row) for row in layer_rows),
        )
        for slot_rows, layer_rows in zip(slot_figures, layer_figures, strict=True)
    ]


def _of_hosts(population: Population, values: Tensor) -> list[Tensor]:
    """What of a tensor shaped as the storage's leaf belongs to every parameter of the hosts, members in front."""
    return [stack for stack in population.storage.cut(values)[0] if isinstance(stack, Tensor)]


def _flat(tensors: list[Tensor]) -> Tensor:
    """[K, all numbers]."""
    return torch.cat([tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None] for tensor in tensors], dim=1)


def _slot_figures(value: Tensor, gradient: Tensor, family: HostFamily) -> Tensor:
    """Gradient norm per root of size, mean, standard deviation over samples and positions, and over positions, [4, K]."""
    positions = _positions(value.contiguous(), family)
    means = positions.mean((2, 3))
    spread = (positions - means[:, :, None, None]).square_().mean((2, 3)).sqrt().mean(1)
    spatial = (positions - positions.mean(2, keepdim=True)).square_().mean(2).sqrt().mean((1, 2))
    norm = gradient.contiguous().flatten(1).norm(dim=1) / gradient[0].numel() ** 0.5
    return torch.stack([norm, means.mean(1), spread, spatial])


def _positions(value: Tensor, family: HostFamily) -> Tensor:
    """[K, C, positions, B] whatever the family."""
    if family == "cnn":
        return value.flatten(2, 3)
    return value.permute(0, 3, 2, 1) if family == "transformer" else value.mT.unsqueeze(2)
