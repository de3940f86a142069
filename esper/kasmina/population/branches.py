"""A population under several choices of slots at once: one row for every network that differs so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esper.kasmina.population.columns import Stack, pick
from esper.kasmina.population.seeds import SeedRunner
from esper.kasmina.transfer import bring

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """Configurations of one member that agree up to here."""

    member: int
    configurations: tuple[int, ...]
    """Indices into the member's configurations."""


@dataclass(frozen=True, slots=True)
class _Fork:
    source: int
    row: Row
    runner: SeedRunner | None
    """None where the slot is passed by."""


class Branches:
    """Rows begin as one per member and fork at slots that some configurations have on and others off.

    Args:
        configurations: For every member, the sets of slots left on.
        runners: Those of every slot.
        tensors: Their parameters, in the same order.
    """

    def __init__(
        self,
        configurations: Sequence[Sequence[Sequence[int]]],
        runners: Sequence[Sequence[SeedRunner]],
        tensors: Sequence[Sequence[Sequence[Stack]]],
    ) -> None:
        self._configurations = [[frozenset(slots) for slots in own] for own in configurations]
        self._runners = runners
        self._tensors = tensors
        self.rows = [Row(member, tuple(range(len(own)))) for member, own in enumerate(configurations)]

    @property
    def members(self) -> list[int]:
        """Member of every row."""
        return [row.member for row in self.rows]

    def pass_slot(self, slot: int, h: Tensor) -> Tensor:
        """Values behind a slot; `rows` says whose they are."""
        runners = self._runners[slot]
        if not runners:
            return h
        forks = self._forks(slot, runners)
        sources = [fork.source for fork in forks]
        if sources != list(range(len(self.rows))):
            h = h.index_select(0, bring(torch.tensor(sources), h.device))
        self.rows = [fork.row for fork in forks]
        counts = [sum(fork.runner is runner for fork in forks) for runner in (None, *runners)]
        passed, *parts = h.split(counts)
        grown = [passed]
        for part, runner, tensors in zip(parts, runners, self._tensors[slot], strict=True):
            if len(part):
                members = [fork.row.member for fork in forks if fork.runner is runner]
                grown.append(_run(runner, part, tensors, members))
        return torch.cat(grown)

    def by_member(self, h: Tensor) -> Tensor:
        """Values behind a slot in member order, where every member has one row; `rows` follows."""
        members = self.members
        if members == sorted(members):
            return h
        order = sorted(range(len(members)), key=members.__getitem__)
        self.rows = [self.rows[i] for i in order]
        return h.index_select(0, bring(torch.tensor(order), h.device))

    def rows_of_configurations(self) -> list[list[int]]:
        """For every member, the row of each of its configurations."""
        places: list[list[int]] = [[0] * len(own) for own in self._configurations]
        for index, row in enumerate(self.rows):
            for configuration in row.configurations:
                places[row.member][configuration] = index
        return places

    def _forks(self, slot: int, runners: Sequence[SeedRunner]) -> list[_Fork]:
        """New rows: first those that pass the slot by, then those of each runner."""
        owner = {
            member: runner
            for runner in runners
            for member, place in zip(runner.cell.members, runner.cell.places, strict=True)
            if not place.is_incubating
        }
        forks: list[_Fork] = []
        for source, row in enumerate(self.rows):
            runner = owner.get(row.member)
            on = tuple(c for c in row.configurations if runner is not None and slot in self._configurations[row.member][c])
            off = tuple(c for c in row.configurations if c not in on)
            if off:
                forks.append(_Fork(source, Row(row.member, off), None))
            if on:
                forks.append(_Fork(source, Row(row.member, on), runner))
        order = {id(runner): i for i, runner in enumerate(runners, start=1)}

        def place(fork: _Fork) -> tuple[int, int]:
            return (0, fork.source) if fork.runner is None else (order[id(fork.runner)], fork.runner.cell.members.index(fork.row.member))

        return sorted(forks, key=place)


def _run(runner: SeedRunner, h: Tensor, tensors: Sequence[Stack], members: Sequence[int]) -> Tensor:
    own = runner.cell.members
    if tuple(members) == own:
        return runner.run(h, tensors)
    rows = [own.index(member) for member in members]
    index = bring(torch.tensor(rows), h.device)
    return runner.run(h, [pick(stack, rows, index) for stack in tensors], rows)
