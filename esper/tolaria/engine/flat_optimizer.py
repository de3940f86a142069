"""The host optimizer of a whole population, on its flat storage. Every member's own optimizer sees its part of the moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from esper.kasmina.transfer import bring
from esper.tolaria.engine.sequential import make_optimizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from esper.kasmina.population.storage import Storage
    from esper.tolaria.engine.base import EngineConfig

MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
"""What each optimizer remembers of every number, by the name in its state."""
STEP = "step"


@dataclass(frozen=True, slots=True)
class _Segment:
    """Numbers side by side that the library's optimizer updates as one."""

    start: int
    stop: int
    first_place: int
    num_places: int
    numbers: Tensor


@dataclass(frozen=True, slots=True)
class Memory:
    """What an optimizer knows of its parameters."""

    moments: Mapping[str, Tensor]
    counts: tuple[int, ...]
    """How often each was trained."""


class FlatOptimizer:
    """Takes over the members' optimizer states: from now on they are views of flat ones.

    Numbers that were trained for equally many steps lie together in one segment, which the library's own optimizer updates.
    Parameters on which the loss did not depend once have segments of their own, which such a step leaves out.

    Args:
        storage: The population's parameters.
        optimizers: The members' own, in member order.
        config: Which optimizer.
        learning_rate: Until it is told another one.
        is_captured: The rate lies in a tensor, and the library's optimizer reads nothing back, so that a graph can hold its steps.
    """

    def __init__(
        self,
        storage: Storage,
        optimizers: Sequence[torch.optim.Optimizer],
        config: EngineConfig,
        learning_rate: float,
        *,
        is_captured: bool = False,
    ) -> None:
        self._storage, self._config = storage, config
        self._rate: float | Tensor = _rate_tensor(learning_rate, storage.leaf.device) if is_captured else learning_rate
        self.num_divisions = 0
        """How often the library's optimizer was made anew; graphs that hold steps of an earlier one are of no more use."""
        self._owned = [(optimizers[place.member], place.parameter) for place in storage.places]
        self._has_steps = config.optimizer == "adamw"
        states = [optimizer.state.get(parameter, {}) for optimizer, parameter in self._owned]
        self._counts = _steps(states)
        self._moments = {name: torch.zeros_like(storage.leaf.detach()) for name in MOMENTS[config.optimizer]}
        parts = {name: storage.parts(moment) for name, moment in self._moments.items()}
        for name, views in parts.items():
            _fill(views, [state.get(name) for state in states])
        self._states: list[dict[str, Any]] = [{name: views[i] for name, views in parts.items()} for i in range(len(states))]
        for (optimizer, parameter), state in zip(self._owned, self._states, strict=True):
            optimizer.state[parameter] = state
        self._apart: frozenset[int] = frozenset()
        self._divide()
        self._written: list[tuple[dict[str, Any], tuple[Tensor, int]]] = []
        """Steps as they were told, and how often they had been changed then: reading them would wait for a GPU."""
        self._write_counts()

    def is_in_step(self) -> bool:
        """Whether the members' own optimizers still hold what it gave them, and took no step themselves."""
        held = zip(self._owned, self._states, strict=True)
        if any(optimizer.state.get(parameter) is not state for (optimizer, parameter), state in held):
            return False
        return all(state.get(STEP) is count and count._version == version for state, (count, version) in self._written)

    def set_rate(self, learning_rate: float) -> None:
        """Tell the rate of the steps from now on."""
        if isinstance(self._rate, Tensor):
            self._rate.fill_(learning_rate)
            return
        self._rate = learning_rate
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def update(self, gradient: Tensor, unheard: frozenset[int] = frozenset()) -> None:
        """Update every member's parameters by its part of a gradient with respect to the storage's leaf; `count` it then.

        Args:
            gradient: Shaped as the leaf.
            unheard: Places of parameters on which the loss did not depend: they stay as they are, as does what is remembered of them.
        """
        if not unheard <= self._apart:
            self._apart |= unheard
            self._count()
            self._divide()
        for segment in self._segments:
            segment.numbers.grad = None if segment.first_place in unheard else gradient[segment.start : segment.stop]
        self._optimizer.step()

    def count(self, unheard: frozenset[int] = frozenset()) -> None:
        """Note an update, which may have been made by a graph."""
        for i, segment in enumerate(self._segments):
            self._taken[i] += segment.first_place not in unheard

    def remember(self) -> Memory:
        """Copies of what it knows between epochs, for `restore`."""
        return Memory({name: moment.clone() for name, moment in self._moments.items()}, tuple(self._counts))

    def restore(self, memory: Memory) -> None:
        """Know again what it knew when `memory` was made of it, and tell the members' own optimizers."""
        for name, moment in self._moments.items():
            moment.copy_(memory.moments[name])
        self._counts = list(memory.counts)
        self._divide()
        self._write_counts()

    def hand_back(self, learning_rate: float) -> None:
        """Tell the members' own optimizers how many steps were taken, the last at this rate; moments they see anyway."""
        self._count()
        self._write_counts()
        for segment in self._segments:
            segment.numbers.grad = None
        for optimizer in {id(optimizer): optimizer for optimizer, _ in self._owned}.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate

    def _divide(self) -> None:
        """Make an optimizer for the segments that there are now."""
        leaf, widths = self._storage.leaf.detach(), [place.width for place in self._storage.places]
        self._segments = list(_segments(leaf, self._counts, widths, self._apart))
        self._taken = [0] * len(self._segments)
        """Steps of every segment that are not yet in the counts of its places."""
        self._optimizer = self._make_optimizer()
        self.num_divisions += 1
        for segment in self._segments:
            state = {name: moment[segment.start : segment.stop] for name, moment in self._moments.items()}
            if self._has_steps:
                state[STEP] = bring(torch.tensor(float(self._counts[segment.first_place])), leaf.device)
            self._optimizer.state[segment.numbers] = state

    def _make_optimizer(self) -> torch.optim.Optimizer:
        numbers, rate = [segment.numbers for segment in self._segments], self._rate
        if not isinstance(rate, Tensor):
            return make_optimizer(numbers, self._config, rate)
        optimizer = make_optimizer(numbers, self._config, 0.0)
        for group in optimizer.param_groups:
            group.update(lr=rate, fused=True)
            if "capturable" in group:
                group["capturable"] = rate.is_cuda
        return optimizer

    def _count(self) -> None:
        """Credit the places with the steps that were taken."""
        for i, segment in enumerate(self._segments):
            for place in range(segment.first_place, segment.first_place + segment.num_places):
                self._counts[place] += self._taken[i]
            self._taken[i] = 0

    def _write_counts(self) -> None:
        if self._has_steps:
            counts = bring(torch.tensor(self._counts, dtype=torch.float32), self._storage.leaf.device).unbind()
            for state, count in zip(self._states, counts, strict=True):
                state[STEP] = count
            self._written = [(state, (count, count._version)) for state, count in zip(self._states, counts, strict=True)]


def _rate_tensor(learning_rate: float, device: torch.device) -> Tensor:
    """On a GPU as precise as the library's fused optimizers read it there."""
    return torch.full((), learning_rate, dtype=torch.float32 if device.type == "cuda" else torch.float64, device=device)


def _segments(leaf: Tensor, counts: Sequence[int], widths: Sequence[int], apart: frozenset[int]) -> Iterator[_Segment]:
    """Every run of parameters that were trained equally often, and everything that stays apart by itself."""
    start = first = 0
    for _, run in groupby(range(len(counts)), key=lambda place: (counts[place], place if place in apart else None)):
        places = list(run)
        stop = start + sum(widths[place] for place in places)
        yield _Segment(start, stop, first, len(places), leaf[start:stop])
        start, first = stop, first + len(places)


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
