"""The seeds of a cell, run as one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from esper.kasmina.population.cells import Cell, runs_of_manners
from esper.kasmina.population.stack import StackPlan
from esper.kasmina.slot import SeedSlot, mix_in, seed_input
from esper.leyline.layer_ops import LayerOps, Stackable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.leyline.host import HostFamily


class SeedRunner:
    """Mixes the seeds of one cell into the values of their hosts.

    Args:
        cell: Which seeds.
        family: Shape of the values.
        ops: Operations on stacked values of that family.
    """

    def __init__(self, cell: Cell, family: HostFamily, ops: LayerOps) -> None:
        seed, *gate = cell.modules
        self.cell = cell
        self._num_seed_tensors = len(list(seed.parameters()))
        self._seed = _runner(seed, family, ops)
        self._gate = _runner(gate[0], family, ops) if gate else None

    def run(self, h: Tensor, tensors: Sequence[Tensor], places: Sequence[SeedSlot]) -> Tensor:
        """Value behind the slot.

        Args:
            h: Value before it, members in front.
            tensors: Parameters of the seed and then of its gate, with the same members in front.
            places: The slots of these members: the cell's, or some of them in the cell's order.
        """
        runs = runs_of_manners(places)
        parts = h.split([count for _, count in runs]) if len(runs) > 1 else (h,)
        sources = [seed_input(part, manner) for part, (manner, _) in zip(parts, runs, strict=True)]
        values = self._seed(tensors[: self._num_seed_tensors], torch.cat(sources) if len(runs) > 1 else sources[0])
        seeds = values.split([count for _, count in runs]) if len(runs) > 1 else (values,)
        gate = None if self._gate is None else partial(self._gate, tensors[self._num_seed_tensors :])
        mixed, first = [], 0
        for part, s, source, (manner, count) in zip(parts, seeds, sources, runs, strict=True):
            alpha = _alpha([place.alpha for place in places[first : first + count]], h)
            mixed.append(mix_in(part, s, source, gate, alpha=alpha, manner=manner))
            first += count
        return torch.cat(mixed) if len(runs) > 1 else mixed[0]


def _alpha(alphas: Sequence[float], h: Tensor) -> float | Tensor:
    """One number where all agree, else one per member that broadcasts over `h`."""
    if len(set(alphas)) == 1:
        return alphas[0]
    return torch.tensor(alphas, dtype=h.dtype, device=h.device).view(-1, *[1] * (h.ndim - 1))


def _runner(module: nn.Module, family: HostFamily, ops: LayerOps) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
    """(parameters, values) → values, with members in front of both."""
    if isinstance(module, Stackable):
        plan, value = StackPlan(module), module.value
        return lambda tensors, h: value(ops, plan.bind(tensors), h)
    return partial(_one_by_one, module, family)


def _one_by_one(module: nn.Module, family: HostFamily, tensors: Sequence[Tensor], h: Tensor) -> Tensor:
    """Run a module that has no stacked formula on each member alone."""
    names = [name for name, _ in module.named_parameters()]
    values = []
    for member, x in enumerate(h):
        own = {name: tensor[member] for name, tensor in zip(names, tensors, strict=True)}
        value = torch.func.functional_call(module, own, (x.permute(3, 0, 1, 2) if family == "cnn" else x,))
        values.append(value.permute(1, 2, 3, 0) if family == "cnn" and value.ndim == x.ndim else value)
    return torch.stack(values)
