"""Where the modules of new seeds come from: built once per seed, from randomness that the seed's id alone decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from esper.kasmina.blend import BlendGate
from esper.leyline.alpha import BlendOperator
from esper.leyline.host import HostFamily
from esper.leyline.ports import Catalogue
from esper.leyline.rng import SeedTree

if TYPE_CHECKING:
    from esper.kasmina.seed_state import SeedState
    from esper.kasmina.slot import SeedSlot

Modules = tuple[str, nn.Module, BlendGate | None]
"""Seed id, the blueprint's module, and the gate of a seed that blends by GATE."""


@dataclass(frozen=True, slots=True)
class Nursery:
    """Builds what a seed's state asks for."""

    catalogue: Catalogue
    family: HostFamily
    seeds: SeedTree

    def modules(self, slot: SeedSlot, state: SeedState, *, epoch: int) -> Modules:
        """The modules that `state` needs, taken from the slot as far as they are there.

        Args:
            slot: Where the seed stands; it is not changed.
            state: A seed that has a module.
            epoch: Now; tells the gates of one seed apart.
        """
        spec, seeds = slot.spec, self.seeds.child("seed", state.seed_id)
        seed, gate = slot.planted[1:] if slot.planted is not None and slot.planted[0] == state.seed_id else (None, None)
        if seed is None:
            with seeds.torch_scope():
                seed = self.catalogue.build(state.blueprint_id, self.family, spec.channels, spec.positions)
        if state.operator is not BlendOperator.GATE:
            gate = None
        elif gate is None:
            with seeds.child("gate", epoch).torch_scope():
                gate = BlendGate(spec.channels, self.family)
        return state.seed_id, seed, gate
