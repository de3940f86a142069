"""K growing models of one shape that run as one. Each of them stays what it is: its modules see every number at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from esper.kasmina.faults import BackwardWatch
from esper.kasmina.model import evaluating, require_slots
from esper.kasmina.population.branches import Branches
from esper.kasmina.population.cells import find_cells
from esper.kasmina.population.hosts import stacked_host
from esper.kasmina.population.seeds import Culprit, SeedRunner, Surroundings, failure, no_surroundings
from esper.kasmina.population.stack import StackPlan
from esper.kasmina.population.storage import Block, Storage
from esper.kasmina.slot import Manner
from esper.kasmina.transfer import bring

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.kasmina.model import MorphogeneticModel
    from esper.kasmina.population.columns import Stack

Likeness = tuple[tuple[tuple[str, bool, Manner] | None, ...], ...]
"""What stands in every slot of every member, as far as it decides which seeds run together."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a population computed on the way to its logits."""

    logits: Tensor
    values: tuple[Tensor, ...]
    """What every slot hands on, members in front."""
    zeros: Mapping[str, Tensor]
    """Share of zeros in the output of every host layer, [K], by layer id."""


class Population:
    """Models whose hosts have the same configuration.

        population = Population(models)
        logits = population.forward(population.arrange(x))          # x [K, B, …] → [K, B, classes]
        gradient, = torch.autograd.grad(loss, population.storage.leaf)

    It lasts for as long as no model changes its structure (`is_current`); then make another one.

    Raises:
        ValueError: If the hosts cannot run as one.
    """

    def __init__(self, models: Sequence[MorphogeneticModel]) -> None:
        obstacles = {obstacle for model in models if (obstacle := find_obstacle(model)) is not None}
        host = stacked_host(models[0].host)
        if obstacles or host is None:
            raise ValueError(f"these hosts cannot run as one: {', '.join(sorted(obstacles))}")
        self.models = tuple(models)
        self._host = host
        self._host_plan = StackPlan(models[0].get_submodule("host"))
        self._likeness = _likeness(models)
        self._watch: BackwardWatch[Culprit] = BackwardWatch()
        family = models[0].host.family
        self._runners = [tuple(SeedRunner(cell, family, host.ops, self._watch) for cell in cells) for cells in find_cells(models)]
        device = next(models[0].parameters()).device
        self._lines = [_Line(runners, len(models), device) for runners in self._runners]
        self._slots_behind: dict[int, list[int]] = {}
        for index, slot in enumerate(models[0].seed_slots):
            self._slots_behind.setdefault(slot.spec.segment, []).append(index)
        everyone = tuple(range(len(models)))
        seeds = [runner for runners in self._runners for runner in runners]
        self.storage = Storage(
            [
                Block(everyone, tuple(tuple(model.get_submodule("host").parameters()) for model in models), learns=True),
                *(runner.block() for runner in seeds),
            ]
        )

    def is_current(self, models: Sequence[MorphogeneticModel]) -> bool:
        """Whether these are its models, grown as they were when it was made, and their numbers still lie in its storage."""
        return self.models == tuple(models) and self._likeness == _likeness(models) and self.storage.is_in_use()

    def arrange(self, x: Tensor) -> Tensor:
        """Bring inputs [K, B, …] into the layout in which the population computes."""
        return self._host.arrange(x)

    def forward(self, x: Tensor, surroundings: Surroundings = no_surroundings, *, holds_alphas: bool = False) -> Tensor:
        """Logits [K, B, classes] or [K, B, T, classes] in training, differentiable with respect to `storage.leaf`.

        Args:
            x: Inputs of every member, arranged.
            surroundings: For seeds that run member by member.
            holds_alphas: Read from tensors how far seeds are blended in, as of the last `refresh_alphas`.
        """
        host, tensors = self._tensors(with_grad=True)

        def visit(segment: int, h: Tensor) -> Tensor:
            for slot in self._slots_behind.get(segment, ()):
                if self._runners[slot]:
                    h = self._grow(h, slot, tensors[slot], surroundings, holds_alphas=holds_alphas)
            return h

        layers = self._host_plan.bind(host)
        return self._host.run(lambda: layers, x, visit)

    def refresh_alphas(self) -> None:
        """Look how far seeds are blended in by now, for passes that read it from tensors."""
        for runner in chain.from_iterable(self._runners):
            runner.refresh_alphas()

    def trace(self, x: Tensor) -> Trace:
        """Run as in evaluation with all seeds on, with gradients, and keep what a probe asks for.

        Args:
            x: Inputs of every member, arranged.
        """
        host, tensors = self._tensors(with_grad=True)
        everything = [[tuple(range(len(self._runners)))]] * len(self.models)
        branches = Branches(everything, self._runners, tensors)
        values: dict[int, Tensor] = {}
        zeros: dict[str, Tensor] = {}

        def visit(segment: int, h: Tensor) -> Tensor:
            for slot in self._slots_behind.get(segment, ()):
                values[slot] = h = branches.by_member(branches.pass_slot(slot, h))
            return h

        def record(layer_id: str, value: Tensor) -> None:
            zeros[layer_id] = (value.detach() == 0).flatten(1).float().mean(1)

        layers = self._host_plan.bind(host)
        with self._evaluating():
            logits = self._host.run(lambda: layers, x, visit, record)
        return Trace(logits, tuple(values[slot] for slot in range(len(self._runners))), zeros)

    @torch.no_grad()
    def evaluate(self, x: Tensor, configurations: Sequence[Sequence[Sequence[int]]]) -> tuple[Tensor, list[list[int]]]:
        """Logits of every member under its own choices of slots, as in evaluation; what configurations share runs once.

        Args:
            x: Inputs of every member, arranged.
            configurations: For every member, the sets of slots left on.

        Returns:
            Logits [R, B, …] of the networks that differ, and for every member the row of each of its configurations.

        Raises:
            ValueError: If a member has no configuration.
            IndexError: If a configuration names a slot that does not exist.
        """
        for own in configurations:
            require_slots(own, len(self._runners))
        host, tensors = self._tensors(with_grad=False)
        branches = Branches(configurations, self._runners, tensors)

        def visit(segment: int, h: Tensor) -> Tensor:
            for slot in self._slots_behind.get(segment, ()):
                h = branches.pass_slot(slot, h)
            return h

        def layers() -> Any:
            members = branches.members
            if members == list(range(len(self.models))):
                return self._host_plan.bind(host)
            index = bring(torch.tensor(members), x.device)
            return self._host_plan.bind([tensor.index_select(0, index) for tensor in host])

        with self._evaluating():
            return self._host.run(layers, x, visit), branches.rows_of_configurations()

    def layer_columns(self) -> list[list[int]]:
        """For every host layer, which of the host's parameters are its own."""
        model = self.models[0].get_submodule("host")
        places = {id(parameter): i for i, parameter in enumerate(model.parameters())}
        layers = [model.get_submodule(spec.layer_id) for spec in self.models[0].host.layer_specs()]
        return [[places[id(parameter)] for parameter in layer.parameters()] for layer in layers]

    @property
    def own_modules(self) -> tuple[nn.Module, ...]:
        """Seeds that run member by member, because their blueprints have no formula for all at once."""
        return tuple(module for runners in self._runners for runner in runners for module in runner.own_modules)

    def naming_faults(self) -> AbstractContextManager[None]:
        """A block with a backward pass; what fails there in a seed is raised as a `BlueprintError` that names the member."""
        return self._watch.naming(lambda culprit, error: failure([culprit], error, doing="running backward"))

    def _tensors(self, *, with_grad: bool) -> tuple[list[Tensor], list[list[list[Stack]]]]:
        """Parameters of the host, and of every runner of every slot, members in front."""
        host, *rest = self.storage.stacked(with_grad=with_grad)
        seeds = iter(rest)
        return [stack for stack in host if isinstance(stack, Tensor)], [[next(seeds) for _ in runners] for runners in self._runners]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Evaluation mode for seeds that run member by member."""
        with ExitStack() as stack:
            for module in self.own_modules:
                stack.enter_context(evaluating(module))
            yield

    def _grow(self, h: Tensor, slot: int, tensors: Sequence[Sequence[Stack]], surroundings: Surroundings, *, holds_alphas: bool) -> Tensor:
        """Run the seeds behind one slot, and pass the members by that have none."""
        runners, line = self._runners[slot], self._lines[slot]
        *parts, passed = line.arrange(h).split(line.sizes)
        grown = [
            runner.run(part, own, surroundings=surroundings, holds_alphas=holds_alphas)
            for runner, part, own in zip(runners, parts, tensors, strict=True)
        ]
        joined = torch.cat([*grown, passed]) if len(passed) else (torch.cat(grown) if len(grown) > 1 else grown[0])
        return line.restore(joined)


class _Line:
    """The members in the order in which the seeds of a slot run, and back.

    Args:
        runners: Those of the slot.
        num_members: Of the population; those without a seed stand last.
        device: Where values are.
    """

    def __init__(self, runners: Sequence[SeedRunner], num_members: int, device: torch.device) -> None:
        taken = [member for runner in runners for member in runner.cell.members]
        order = taken + sorted(set(range(num_members)) - set(taken))
        self.sizes = [len(runner.cell.members) for runner in runners] + [num_members - len(taken)]
        """Members of every runner, and those without a seed."""
        back = sorted(range(num_members), key=order.__getitem__)
        is_in_order = order == sorted(order)
        self._orders = None if is_in_order else tuple(bring(torch.tensor(own), device) for own in (order, back))

    def arrange(self, x: Tensor) -> Tensor:
        """Rows as the seeds run."""
        return x if self._orders is None else _reordered(x, *self._orders)

    def restore(self, x: Tensor) -> Tensor:
        """Rows in member order."""
        return x if self._orders is None else _reordered(x, *reversed(self._orders))


def find_obstacle(model: MorphogeneticModel) -> str | None:
    """Why a model can only run by itself; None if it can run with others of its shape."""
    host = model.get_submodule("host")
    if stacked_host(model.host) is None or next(host.buffers(), None) is not None:
        return f"a {type(host).__name__} has no stacked twin"
    if not all(parameter.requires_grad for parameter in host.parameters()):
        return f"parts of a {type(host).__name__} are frozen"
    return None


class _Reordered(torch.autograd.Function):
    """Rows in another order; the gradient takes the way back without adding anything up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        return grad[0].index_select(0, ctx.back), None, None


def _reordered(x: Tensor, order: Tensor, back: Tensor) -> Tensor:
    y: Tensor = _Reordered.apply(x, order, back)  # type: ignore[no-untyped-call]
    return y


def _likeness(models: Sequence[MorphogeneticModel]) -> Likeness:
    return tuple(
        tuple(
            (slot.planted[0], slot.planted[2] is not None, slot.manner) if slot.planted is not None and slot.manner is not None else None
            for slot in model.seed_slots
        )
        for model in models
    )
