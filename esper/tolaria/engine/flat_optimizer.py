"""The host optimizer of a whole population, on its flat storage. Every member's own optimizer sees its part of the moments."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from esper.tolaria.engine.sequential import make_optimizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.kasmina.population.storage import Storage
    from esper.tolaria.engine.base import EngineConfig

MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
"""What each optimizer remembers of every number, by the name in its state."""
STEP = "step"


class FlatOptimizer:
    """Takes over the members' optimizer states: from now on they are views of flat ones.

    Numbers that were trained for equally many steps lie together in one segment, which the library's own optimizer updates.

    Args:
        storage: The population's parameters.
        optimizers: The members' own, in member order.
        config: Which optimizer.
        learning_rate: Until `step` is told another one.
    """

    def __init__(self, storage: Storage, optimizers: Sequence[torch.optim.Optimizer], config: EngineConfig, learning_rate: float) -> None:
        self._owned = [(optimizers[row.member], parameter) for row in storage.rows() for parameter in row.parameters]
        self._counts = [_steps(optimizer, parameter) for optimizer, parameter in self._owned]
        self._has_steps = config.optimizer == "adamw"
        sizes = [parameter.numel() for _, parameter in self._owned]
        flat = {name: _flatten(self._owned, name) for name in MOMENTS[config.optimizer]}
        pieces = {name: moment.split(sizes) for name, moment in flat.items()}
        for i, (optimizer, parameter) in enumerate(self._owned):
            optimizer.state[parameter] = {name: parts[i].view(parameter.shape) for name, parts in pieces.items()}
        self._bounds = _runs(self._counts, sizes)
        self._segments = [storage.leaf.detach()[start:stop] for start, stop, _ in self._bounds]
        self._optimizer = make_optimizer(self._segments, config, learning_rate)
        for segment, (start, stop, count) in zip(self._segments, self._bounds, strict=True):
            state = {name: moment[start:stop] for name, moment in flat.items()}
            if self._has_steps:
                state[STEP] = torch.tensor(float(count), device=segment.device)
            self._optimizer.state[segment] = state
        self._write_counts()

    def step(self, gradient: Tensor, learning_rate: float) -> None:
        """Update every member's parameters by its part of a gradient with respect to the storage's leaf."""
        for segment, (start, stop, _) in zip(self._segments, self._bounds, strict=True):
            segment.grad = gradient[start:stop]
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()

    def hand_back(self, num_steps: int, learning_rate: float) -> None:
        """Tell the members' own optimizers that so many steps were taken, the last at this rate; moments they see anyway."""
        self._counts = [count + num_steps for count in self._counts]
        self._write_counts()
        for optimizer in {id(optimizer): optimizer for optimizer, _ in self._owned}.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate

    def _write_counts(self) -> None:
        if self._has_steps:
            device = self._segments[0].device
            counts = torch.tensor(self._counts, dtype=torch.float32, device=device).unbind()
            for (optimizer, parameter), count in zip(self._owned, counts, strict=True):
                optimizer.state[parameter][STEP] = count


def _runs(counts: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Start, stop and count of every run of parameters that were trained equally often."""
    runs, start = [], 0
    for count, run in groupby(zip(counts, sizes, strict=True), key=lambda pair: pair[0]):
        stop = start + sum(size for _, size in run)
        runs.append((start, stop, count))
        start = stop
    return runs


def _steps(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> int:
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    return int(state.get(STEP, 0))


def _flatten(owned: Sequence[tuple[torch.optim.Optimizer, nn.Parameter]], name: str) -> Tensor:
    """A moment of all parameters; 0 for those that were never trained."""
    states = [(parameter, optimizer.state.get(parameter, {}).get(name)) for optimizer, parameter in owned]
    return torch.cat([(torch.zeros_like(parameter) if moment is None else moment).detach().reshape(-1) for parameter, moment in states])
