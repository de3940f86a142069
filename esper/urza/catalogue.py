"""Which blueprints exist, where they stand in the 32-way head, and how one is built.

The catalogue is a value: an explicit tuple of blueprints, checked once. Nothing registers itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import get_args

from torch import nn

from esper.leyline.actions import NUM_BLUEPRINT_PLACES
from esper.leyline.host import HostFamily
from esper.leyline.schemas import BlueprintSpec
from esper.urza import cnn, mlp, transformer
from esper.urza.cost import Cost
from esper.urza.risk import assess_risk


@dataclass(frozen=True, slots=True)
class Blueprint:
    """One kind of seed for one host family."""

    name: str
    place: int
    """Index in the blueprint head, 0…31; a name has the same place in every family."""
    family: HostFamily
    build: Callable[[int], nn.Module]
    """channels → a module that computes the identity and takes any number of positions."""
    cost: Callable[[int, int], Cost]
    """(channels, positions) → cost; must agree with what `build` makes."""
    rescales_only: bool = False
    """Whether it multiplies or normalises the host's values and mixes nothing new into them."""


STANDARD: tuple[Blueprint, ...] = (
    Blueprint("norm", 0, "cnn", cnn.Norm, cnn.Norm.cost, rescales_only=True),
    Blueprint("norm", 0, "transformer", mlp.Norm, mlp.Norm.cost, rescales_only=True),
    Blueprint("norm", 0, "mlp", mlp.Norm, mlp.Norm.cost, rescales_only=True),
    Blueprint("attention", 1, "cnn", cnn.ChannelAttention, cnn.ChannelAttention.cost, rescales_only=True),
    Blueprint("attention", 1, "transformer", transformer.Attention, transformer.Attention.cost),
    Blueprint("spatial_attention", 2, "cnn", cnn.SpatialAttention, cnn.SpatialAttention.cost, rescales_only=True),
    Blueprint("depthwise", 3, "cnn", cnn.Depthwise, cnn.Depthwise.cost),
    Blueprint("bottleneck", 4, "cnn", cnn.Bottleneck, cnn.Bottleneck.cost),
    Blueprint("conv_small", 5, "cnn", cnn.ConvSmall, cnn.ConvSmall.cost),
    Blueprint("conv_light", 6, "cnn", cnn.ConvLight, cnn.ConvLight.cost),
    Blueprint("conv_heavy", 7, "cnn", cnn.ConvHeavy, cnn.ConvHeavy.cost),
    Blueprint("lora", 8, "cnn", cnn.LowRank, cnn.LowRank.cost),
    Blueprint("lora", 8, "transformer", mlp.LowRank, mlp.LowRank.cost),
    Blueprint("lora", 8, "mlp", mlp.LowRank, mlp.LowRank.cost),
    Blueprint(
        "lora_large",
        9,
        "transformer",
        partial(mlp.LowRank, max_rank=32, divisor=1),
        partial(mlp.LowRank.cost, max_rank=32, divisor=1),
    ),
    Blueprint(
        "mlp_small",
        10,
        "transformer",
        partial(transformer.FeedForward, expansion=2),
        partial(transformer.FeedForward.cost, expansion=2),
    ),
    Blueprint(
        "mlp",
        11,
        "transformer",
        partial(transformer.FeedForward, expansion=4),
        partial(transformer.FeedForward.cost, expansion=4),
    ),
    Blueprint("mlp", 11, "mlp", partial(mlp.Perceptron, expansion=4), partial(mlp.Perceptron.cost, expansion=4)),
    Blueprint("causal_conv", 12, "transformer", transformer.CausalConv, transformer.CausalConv.cost),
)
"""The shipped blueprints. Places are part of every trained policy: never move one, put new ones into empty places."""


class Catalogue:
    """Blueprints by name and by place.

        catalogue = Catalogue.standard()
        with seeds.child("seed", "r0c0").torch_scope():
            module = catalogue.build("conv_light", "cnn", channels=8, positions=64)

    Raises:
        ValueError: If a name has two places, a place two names, a family two blueprints of one name, or a place is outside
            the head.
    """

    def __init__(self, blueprints: Iterable[Blueprint]) -> None:
        ordered = sorted(blueprints, key=lambda blueprint: blueprint.place)
        self._places: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._entries: dict[HostFamily, dict[str, Blueprint]] = {family: {} for family in get_args(HostFamily)}
        for blueprint in ordered:
            self._admit(blueprint)

    @classmethod
    def standard(cls) -> Catalogue:
        """The shipped catalogue."""
        return cls(STANDARD)

    def names(self, family: HostFamily) -> tuple[str, ...]:
        """Blueprints that exist for a host family, by place."""
        return tuple(self._of_family(family))

    def place(self, name: str) -> int:
        """Place of a blueprint in the head.

        Raises:
            KeyError: If there is none of that name; the message lists those there are.
        """
        if name not in self._places:
            raise KeyError(f"blueprint {name!r} is not one of {', '.join(self._places)}")
        return self._places[name]

    def name(self, place: int) -> str:
        """Blueprint at a place of the head.

        Raises:
            KeyError: If the place is empty; the message lists those taken.
        """
        if place not in self._names:
            taken = ", ".join(f"{taken} {name}" for taken, name in self._names.items())
            raise KeyError(f"place {place} of the blueprint head is empty; taken are {taken}")
        return self._names[place]

    def spec(self, name: str, family: HostFamily, channels: int, positions: int) -> BlueprintSpec:
        """Cost and risk of a blueprint at a width.

        Args:
            name: Blueprint.
            family: Family of the host.
            channels: C at the slot, at least 1.
            positions: H·W, T or 1 at the slot, at least 1.

        Raises:
            KeyError: If the family has no such blueprint.
            ValueError: If a size is below 1.
        """
        blueprint = self._entry(name, family)
        _check_sizes(channels, positions)
        cost = blueprint.cost(channels, positions)
        return BlueprintSpec(
            blueprint_id=name,
            family=family,
            place=blueprint.place,
            channels=channels,
            positions=positions,
            num_parameters=cost.num_parameters,
            flops=cost.flops,
            risk=assess_risk(cost.num_parameters, channels, rescales_only=blueprint.rescales_only),
        )

    def build(self, name: str, family: HostFamily, channels: int, positions: int) -> nn.Module:
        """A fresh module that computes the identity; initialised from torch's ambient generator.

        Arguments and errors are those of `spec`. The module takes any number of positions.
        """
        blueprint = self._entry(name, family)
        _check_sizes(channels, positions)
        return blueprint.build(channels)

    def specs(self, family: HostFamily, channels: int, positions: int) -> tuple[BlueprintSpec, ...]:
        """Cost and risk of every blueprint of a family at a width, by place."""
        return tuple(self.spec(name, family, channels, positions) for name in self.names(family))

    def list(self, family: HostFamily, channels: int, positions: int) -> str:
        """The same as a table for people."""
        lines = [f"{'place':>5}  {'blueprint':<18}{'parameters':>12}{'MACs/sample':>14}  risk"]
        lines += [
            f"{spec.place:>5}  {spec.blueprint_id:<18}{spec.num_parameters:>12,}{spec.flops:>14,}  {spec.risk.name}"
            for spec in self.specs(family, channels, positions)
        ]
        return "\n".join(lines)

    @property
    def digest(self) -> str:
        """SHA-256 of the names, places and families, as hexadecimal; stored in checkpoints."""
        rows = sorted((entry.name, entry.place, entry.family) for names in self._entries.values() for entry in names.values())
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def _admit(self, blueprint: Blueprint) -> None:
        name, place = blueprint.name, blueprint.place
        if not 0 <= place < NUM_BLUEPRINT_PLACES:
            raise ValueError(f"{name}: place {place} is outside the blueprint head, 0…{NUM_BLUEPRINT_PLACES - 1}")
        if self._places.setdefault(name, place) != place:
            raise ValueError(f"{name}: has place {self._places[name]} in one family and {place} in {blueprint.family}")
        if self._names.setdefault(place, name) != name:
            raise ValueError(f"{name}: place {place} is taken by {self._names[place]}")
        if name in self._of_family(blueprint.family):
            raise ValueError(f"{name}: given twice for {blueprint.family}")
        self._entries[blueprint.family][name] = blueprint

    def _of_family(self, family: HostFamily) -> dict[str, Blueprint]:
        if family not in self._entries:
            raise KeyError(f"host family {family!r} is not one of {', '.join(self._entries)}")
        return self._entries[family]

    def _entry(self, name: str, family: HostFamily) -> Blueprint:
        entries = self._of_family(family)
        if name not in entries:
            raise KeyError(f"blueprint {name!r} is not one of those for {family}: {', '.join(entries)}")
        return entries[name]


def _check_sizes(channels: int, positions: int) -> None:
    if channels < 1 or positions < 1:
        raise ValueError(f"a slot has at least one channel and one position, got channels={channels}, positions={positions}")
