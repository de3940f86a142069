"""Blueprints of users that fail when they are told to, and worlds in which they grow."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from esper.kasmina.config import GrowthConfig
from esper.leyline.actions import FULL_ALPHA_TARGET, FactoredAction, LifecycleOp
from esper.urza.catalogue import STANDARD, Blueprint, Catalogue
from esper.urza.cost import Cost
from tests.tolaria.populations import OPEN, World

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from esper.leyline.host import HostFamily
    from esper.leyline.layer_ops import LayerOps
    from esper.leyline.reports import TrialReport
    from esper.tolaria import Trial

PLACE = 31
NAME = "mine"
Fault = Literal["first", "rest", "evaluate", "probe", "backward", "shape", "nothing"]
FAULTS: tuple[Fault, ...] = ("first", "rest", "evaluate", "probe", "backward", "shape", "nothing")
SAID: Mapping[Fault, str] = {
    "first": "ArithmeticError('out of luck')",
    "rest": "ArithmeticError('out of luck')",
    "evaluate": "ArithmeticError('out of luck')",
    "probe": "ArithmeticError('out of luck')",
    "backward": "running backward: ArithmeticError('no way back')",
    "shape": "its value should have the shape",
    "nothing": "and is a NoneType",
}
FULL_BATCH = 32


class Faulty(nn.Module):
    """h + relu(W h) along the channels of planes or rows, with running statistics, until a fault is set."""

    mean: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, channels)
        self.register_buffer("mean", torch.zeros(channels))
        self.calls = 0
        self.fault: Fault | None = None
        self.gain = 1.0
        nn.init.zeros_(self.layer.weight)

    def forward(self, h: Tensor) -> Any:
        self.calls += self.training
        x = h.movedim(1, -1) if h.ndim == 4 else h
        if self.training:
            with torch.no_grad():
                self.mean = 0.9 * self.mean + 0.1 * x.flatten(0, -2).mean(0) + 1e-6 * self.calls
        value = x + self.gain * torch.relu(self.layer(x)) + 0.01 * self.mean
        value = value.movedim(-1, 1) if h.ndim == 4 else value
        return self._fail(value) if self.fault is not None and _is_the_moment(self, h) else value

    def _fail(self, value: Tensor) -> Any:
        if self.fault == "backward":
            return _OneWay.apply(value)  # type: ignore[no-untyped-call]
        if self.fault == "shape":
            return value.mean((2, 3), keepdim=True) if value.ndim == 4 else value[:, :1]
        if self.fault == "nothing":
            return None
        raise ArithmeticError("out of luck")


class _OneWay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        raise ArithmeticError("no way back")


def _is_the_moment(seed: Faulty, h: Tensor) -> bool:
    if seed.fault in ("evaluate", "probe"):
        return not seed.training and torch.is_grad_enabled() is (seed.fault == "probe")
    is_full = len(h) == FULL_BATCH
    return seed.training and (is_full if seed.fault == "first" else not is_full)


class Formula(nn.Module):
    """States a formula for all members, which fails in a batch of a size."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, channels)
        self.size = size
        nn.init.zeros_(self.layer.weight)

    def forward(self, h: Tensor) -> Tensor:
        value: Tensor = h + torch.relu(self.layer(h))
        return value

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        if h.shape[-2] == layers.size:
            raise ArithmeticError("no formula for this")
        return h + torch.relu(ops.dense(layers.layer, h))


def catalogue_with(family: HostFamily, build: Callable[[int], nn.Module]) -> Catalogue:
    mine = Blueprint(NAME, PLACE, family, build, lambda channels, positions: Cost(channels, channels * positions))
    return Catalogue([*STANDARD, mine])


def world_with(
    family: HostFamily, build: Callable[[int], nn.Module] = Faulty, *, rules: Mapping[str, Any] = MappingProxyType({}), **fields: Any
) -> World:
    growth = GrowthConfig(**{**OPEN, "auto_advance": True, "blueprints": (NAME, "norm"), **rules})
    own = {"max_epochs": 8, "dtype": torch.float32, "sizes": (70, 45, 31), **fields}
    return World(family, catalogue=catalogue_with(family, build), growth=growth, **own)


class Grower:
    """Plants the user's blueprint in two slots, or another one, makes what it can permanent if asked, and waits.

    Args:
        place: Of the blueprint.
        keeps: Whether to make seeds permanent.
    """

    def __init__(self, place: int = PLACE, *, keeps: bool = False) -> None:
        self._place = place
        self._keeps = keeps

    def decide(self, report: TrialReport) -> FactoredAction:
        if report.epoch < 2:
            return FactoredAction(op=LifecycleOp.GERMINATE, slot=report.epoch, blueprint=self._place, alpha_target=FULL_ALPHA_TARGET)
        slots = report.masks.slot[0, LifecycleOp.FOSSILIZE].nonzero()[0]
        if self._keeps and report.masks.op[0, LifecycleOp.FOSSILIZE]:
            return FactoredAction(op=LifecycleOp.FOSSILIZE, slot=int(slots[0]))
        return FactoredAction()


def seeds_of(trial: Trial) -> list[Faulty]:
    """The trial's seeds that can fail."""
    planted = [slot.planted[1] for slot in trial.model.seed_slots if slot.planted is not None]
    return [seed for seed in planted if isinstance(seed, Faulty)]


def set_fault(trial: Trial, fault: Fault | None) -> None:
    """Let the trial's seeds fail from now on, or no longer."""
    for seed in seeds_of(trial):
        seed.fault = fault
