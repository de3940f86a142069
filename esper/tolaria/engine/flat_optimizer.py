"""The host optimizer of a whole population, on its flat storage. Every member's own optimizer sees its part of the moments."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from esper.kasmina.transfer import bring
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
        self._owned = [(optimizers[place.member], place.parameter) for place in storage.places]
        self._has_steps = config.optimizer == "adamw"
        states = [optimizer.state.get(parameter, {}) for optimizer, parameter in self._owned]
        self._counts = _steps(states)
        flat = {name: torch.zeros_like(storage.leaf.detach()) for name in MOMENTS[config.optimizer]}
        parts = {name: storage.parts(moment) for name, moment in flat.items()}
        for name, views in parts.items():
            _fill(views, [state.get(name) for state in states])
        self._states: list[dict[str, Any]] = [{name: views[i] for name, views in parts.items()} for i in range(len(states))]
        for (optimizer, parameter), state in zip(self._owned, self._states, strict=True):
            optimizer.state[parameter] = state
        self._bounds = _runs(self._counts, [place.width for place in storage.places])
        self._segments = [storage.leaf.detach()[start:stop] for start, stop, _ in self._bounds]
        self._optimizer = make_optimizer(self._segments, config, learning_rate)
        for segment, (start, stop, count) in zip(self._segments, self._bounds, strict=True):
            state = {name: moment[start:stop] for name, moment in flat.items()}
            if self._has_steps:
                state[STEP] = bring(torch.tensor(float(count)), segment.device)
            self._optimizer.state[segment] = state
        self._written: list[tuple[dict[str, Any], tuple[Tensor, int]]] = []
        """Steps as they were told, and how often they had been changed then: reading them would wait for a GPU."""
        self._write_counts()

    def is_in_step(self) -> bool:
        """Whether the members' own optimizers still hold what it gave them, and took no step themselves."""
        held = zip(self._owned, self._states, strict=True)
        if any(optimizer.state.get(parameter) is not state for (optimizer, parameter), state in held):
            return False
        return all(state.get(STEP) is count and count._version == version for state, (count, version) in self._written)

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
        for segment in self._segments:
            segment.grad = None
        for optimizer in {id(optimizer): optimizer for optimizer, _ in self._owned}.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate

    def _write_counts(self) -> None:
        if self._has_steps:
            counts = bring(torch.tensor(self._counts, dtype=torch.float32), self._segments[0].device).unbind()
            for state, count in zip(self._states, counts, strict=True):
                state[STEP] = count
            self._written = [(state, (count, count._version)) for state, count in zip(self._states, counts, strict=True)]


def _runs(counts: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Start, stop and count of every run of parameters that were trained equally often."""
    runs, start = [], 0
    for count, run in groupby(zip(counts, sizes, strict=True), key=lambda pair: pair[0]):
        stop = start + sum(size for _, size in run)
        runs.append((start, stop, count))
        start = stop
    return runs


def _steps(states: Sequence[dict[str, Any]]) -> list[int]:
    """How often each parameter was trained; 0 where nobody counts."""
    counted = [state[STEP] for state in states if STEP in state]
    counts = iter(torch.stack(counted).tolist() if counted else ())
    return [int(next(counts)) if STEP in state else 0 for state in states]


def _fill(views: Sequence[Tensor], moments: Sequence[Tensor | None]) -> None:
    """Copy moments into their places; those of parameters that were never trained stay 0."""
    pairs = [(view, moment) for view, moment in zip(views, moments, strict=True) if moment is not None]
    if pairs:
        targets, sources = zip(*pairs, strict=True)
        torch._foreach_copy_(list(targets), list(sources))
