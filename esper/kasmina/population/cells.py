"""Which seeds of a population compute alike, slot by slot."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from esper.kasmina.slot import Manner, SeedSlot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from esper.kasmina.model import MorphogeneticModel


@dataclass(frozen=True, slots=True)
class Cell:
    """Seeds of one slot with the same blueprint: they run as one. Gates are all used or all left out; all learn or none."""

    slot: int
    blueprint_id: str
    members: tuple[int, ...]
    """Whose seeds they are. Those that are treated alike stand together, and among them those of equal age."""
    places: tuple[SeedSlot, ...]
    """The members' slots."""

    @property
    def learns(self) -> bool:
        """Whether the parameters are trained."""
        manner = self.places[0].manner
        return manner is not None and manner.learns

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """A member's modules that compute, as a template of all: the seed, and its gate if that is used."""
        return _computing(self.places[0])

    @property
    def parameters(self) -> list[list[nn.Parameter]]:
        """Of every member, the parameters of these modules that are trained, or all where the cell does not learn."""
        return [[parameter for module in _computing(place) for _, parameter in own_parameters(module, self)] for place in self.places]


def own_parameters(module: nn.Module, cell: Cell) -> list[tuple[str, nn.Parameter]]:
    """Parameters of a module that belong to each member, by name; what a blueprint has frozen stays with the module."""
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad is cell.learns]


def runs_of_manners(places: Sequence[SeedSlot]) -> list[tuple[Manner, int]]:
    """How many slots in a row are treated in which manner."""
    return [(manner, len(list(run))) for manner, run in groupby(place.manner for place in places) if manner is not None]


def find_cells(models: Sequence[MorphogeneticModel]) -> tuple[tuple[Cell, ...], ...]:
    """Cells of every slot; a member whose slot computes nothing is in none of them."""
    return tuple(_cells_of(slot, models) for slot in range(len(models[0].seed_slots)))


def _cells_of(slot: int, models: Sequence[MorphogeneticModel]) -> tuple[Cell, ...]:
    groups: dict[tuple[str, bool, bool], list[tuple[bool, bool, int, int, int]]] = {}
    for member, model in enumerate(models):
        place, seed = model.seed_slots[slot], model.seed_reports()[slot]
        if seed is not None and place.planted is not None and (manner := place.manner) is not None:
            key = seed.blueprint_id, len(_computing(place)) > 1, manner.learns
            order = manner.is_incubating, manner.isolates, int(manner.operator), seed.age_epochs, member
            groups.setdefault(key, []).append(order)
    cells = []
    for (blueprint_id, _, _), orders in sorted(groups.items()):
        members = tuple(order[-1] for order in sorted(orders))
        cells.append(Cell(slot, blueprint_id, members, tuple(models[member].seed_slots[slot] for member in members)))
    return tuple(cells)


def _computing(place: SeedSlot) -> tuple[nn.Module, ...]:
    assert place.planted is not None
    _, seed, gate = place.planted
    return (seed,) if gate is None or place.is_incubating else (seed, gate)
