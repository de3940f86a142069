"""The seeds of a cell, run as one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from esper.kasmina.faults import BackwardWatch, require_value
from esper.kasmina.population.cells import Cell, own_parameters, runs_of_manners
from esper.kasmina.population.stack import StackPlan
from esper.kasmina.population.storage import Block
from esper.kasmina.slot import mix_in, seed_input
from esper.kasmina.transfer import bring
from esper.leyline.layer_ops import BlueprintError, LayerOps, is_stackable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.kasmina.population.columns import Stack
    from esper.leyline.host import HostFamily

MAX_ALPHAS = 64
"""How many choices of members' alphas are remembered by a cell."""
Surroundings = Callable[[int], AbstractContextManager[None]]
"""What surrounds the forward pass of a member's own module, as its source of random numbers."""


class Culprit(NamedTuple):
    """A seed that may have failed."""

    cell: Cell
    row: int


def no_surroundings(member: int) -> AbstractContextManager[None]:  # noqa: ARG001
    """Nothing, for passes in which no module draws random numbers."""
    return nullcontext()


class SeedRunner:
    """Mixes the seeds of one cell into the values of their hosts.

    Args:
        cell: Which seeds.
        family: Shape of the values.
        ops: Operations on stacked values of that family.
        watch: Is told of the backward passes of modules that run member by member.
    """

    def __init__(self, cell: Cell, family: HostFamily, ops: LayerOps, watch: BackwardWatch[Culprit] | None = None) -> None:
        seed, *gate = cell.modules
        self.cell = cell
        self._watch: BackwardWatch[Culprit] = BackwardWatch() if watch is None else watch
        self._family = family
        self._num_seed_tensors = len(own_parameters(seed, cell))
        self._seed = _formula(seed, ops) if _is_stackable(seed, self._num_seed_tensors) else None
        self._gate = _formula(gate[0], ops) if gate else None
        self._alphas: dict[tuple[float, ...], float | Tensor] = {}
        self._held: dict[int, Tensor] = {}
        """By the first place of a run of places: their alphas, in a tensor that stays where it is."""

    def block(self) -> Block:
        """The seeds' parameters; those of modules that run member by member lie apart."""
        cell = self.cell
        num_apart = self._num_seed_tensors if self._seed is None else 0
        rows = tuple(tuple(row) for row in cell.parameters)
        incubating = tuple(cell.slot if place.is_incubating else None for place in cell.places)
        return Block(cell.members, rows, learns=cell.learns, num_apart=num_apart, incubating=incubating)

    @property
    def own_modules(self) -> tuple[nn.Module, ...]:
        """The seeds' own modules, if they run member by member because their blueprint has no formula for all at once."""
        return tuple(place.planted[1] for place in self.cell.places if place.planted is not None) if self._seed is None else ()

    def run(
        self,
        h: Tensor,
        tensors: Sequence[Stack],
        rows: Sequence[int] | None = None,
        surroundings: Surroundings = no_surroundings,
        *,
        holds_alphas: bool = False,
    ) -> Tensor:
        """Value behind the slot.

        Args:
            h: Value before it, rows in front.
            tensors: Parameters of the seed and then of its gate, with the same rows in front.
            rows: Which of the cell's seeds each row is for, in the cell's order; None means all of them, once.
            surroundings: For modules that run member by member.
            holds_alphas: Read from tensors how far the seeds, all of them, are blended in; `refresh_alphas` keeps them current.

        Raises:
            BlueprintError: If the blueprint fails; it names the members in fault.
        """
        if self._seed is None:
            self._watch.end_at(h)
        rows = range(len(self.cell.places)) if rows is None else rows
        places = [self.cell.places[row] for row in rows]
        runs = runs_of_manners(places)
        parts = h.split([count for _, count in runs]) if len(runs) > 1 else (h,)
        sources = [seed_input(part, manner) for part, (manner, _) in zip(parts, runs, strict=True)]
        values = self._grow(_joined(sources), tensors, rows, surroundings)
        seeds = values.split([count for _, count in runs]) if len(runs) > 1 else (values,)
        gates = tensors[self._num_seed_tensors :]
        mixed, first = [], 0
        for part, s, source, (manner, count) in zip(parts, seeds, sources, runs, strict=True):
            last = first + count
            alphas = tuple(place.alpha for place in places[first:last])
            alpha = self._held_alpha(first, alphas, h) if holds_alphas else self._alpha(alphas, h)
            gate = None if self._gate is None else partial(self._gate, [tensor[first:last] for tensor in gates])
            mixed.append(mix_in(part, s, source, gate, alpha=alpha, manner=manner))
            first = last
        return torch.cat(mixed) if len(runs) > 1 else mixed[0]

    def refresh_alphas(self) -> None:
        """Write to the tensors that passes have read how far the seeds are blended in by now."""
        for first, tensor in self._held.items():
            alphas = [place.alpha for place in self.cell.places[first : first + len(tensor)]]
            tensor.copy_(bring(torch.tensor(alphas, dtype=tensor.dtype).view_as(tensor), tensor.device))

    def _grow(self, h: Tensor, tensors: Sequence[Stack], rows: Sequence[int], surroundings: Surroundings) -> Tensor:
        """What the seeds make of their inputs."""
        own = tensors[: self._num_seed_tensors]
        if self._seed is None:
            return torch.stack([self._grow_one(row, h[i], [t[i] for t in own], surroundings) for i, row in enumerate(rows)])
        try:
            return require_value(self._seed(own, h), h)
        except Exception as error:
            culprits = [Culprit(self.cell, row) for row in dict.fromkeys(rows)]
            raise failure(culprits, error, doing=f"running on values {list(h.shape)} of as many members") from error

    def _grow_one(self, row: int, h: Tensor, tensors: Sequence[Tensor], surroundings: Surroundings) -> Tensor:
        """What one member's module makes of its input."""
        place = self.cell.places[row]
        assert place.planted is not None
        module = place.planted[1]
        parameters = {name: tensor for (name, _), tensor in zip(own_parameters(module, self.cell), tensors, strict=True)}
        x = h.permute(3, 0, 1, 2).contiguous() if self._family == "cnn" else h
        culprit = Culprit(self.cell, row)
        with surroundings(self.cell.members[row]):
            try:
                value = self._watch.begin_at(torch.func.functional_call(module, parameters, (x,)), culprit)
                value = require_value(value, x).to(x.dtype)
            except Exception as error:
                raise failure([culprit], error, doing=f"running on a value {list(x.shape)}") from error
        return value.permute(1, 2, 3, 0) if self._family == "cnn" else value

    def _alpha(self, alphas: tuple[float, ...], h: Tensor) -> float | Tensor:
        """One number where all agree, else one per member that broadcasts over `h`; both rounded alike, and known until one moves."""
        known = self._alphas.get(alphas)
        if known is None:
            rounded = torch.tensor(alphas, dtype=h.dtype)
            is_one = len(set(alphas)) == 1
            known = float(rounded.numpy()[0]) if is_one else bring(rounded.view(-1, *[1] * (h.ndim - 1)), h.device)
            if len(self._alphas) == MAX_ALPHAS:
                self._alphas.clear()
            self._alphas[alphas] = known
        return known

    def _held_alpha(self, first: int, alphas: tuple[float, ...], h: Tensor) -> Tensor:
        """One per member that broadcasts over `h`, in the one tensor of these members."""
        if first not in self._held:
            self._held[first] = bring(torch.tensor(alphas, dtype=h.dtype).view(-1, *[1] * (h.ndim - 1)), h.device)
        return self._held[first]


def failure(culprits: Sequence[Culprit], error: Exception, *, doing: str) -> BlueprintError:
    """An error of seeds of one cell, by what it was about."""
    cell = culprits[0].cell
    members = tuple(sorted(cell.members[culprit.row] for culprit in culprits))
    return BlueprintError(cell.blueprint_id, cell.places[0].spec.slot_id, doing, repr(error), members)


def _joined(sources: Sequence[Tensor]) -> Tensor:
    """What the seeds are given, as a tensor of its own: its gradient adds up apart, so that it rounds as in any company."""
    return torch.cat(list(sources)) if len(sources) > 1 else sources[0].view_as(sources[0])


def _is_stackable(module: nn.Module, num_own: int) -> bool:
    """Whether a seed states one formula for all members, and all its numbers are those of a member."""
    has_buffers = next(module.buffers(), None) is not None
    return not has_buffers and len(list(module.parameters())) == num_own and is_stackable(module)


def _formula(module: nn.Module, ops: LayerOps) -> Callable[[Sequence[Stack], Tensor], Tensor]:
    """(parameters, values) → values, with members in front of both."""
    plan = StackPlan(module)
    assert is_stackable(module)
    value = module.value
    return lambda tensors, h: value(ops, plan.bind(tensors), h)
