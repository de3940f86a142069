"""Blueprints that users bring: without a formula for many members, with states of their own, and with faults."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.config import GrowthConfig
from esper.kasmina.surgery import GrowthTransaction
from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.schemas import PanicReason
from esper.tolaria import EngineConfig, OneByOne, TrialBatch
from esper.urza.catalogue import STANDARD, Blueprint, Catalogue
from esper.urza.cost import Cost
from tests.tolaria.populations import OPEN, World, as_one, furthest, play

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.leyline.host import HostFamily
    from esper.leyline.layer_ops import LayerOps
    from esper.leyline.reports import TrialReport
    from esper.tolaria import Trial
    from esper.tolaria.engine.base import Trainer

PLACE = 31
NAME = "mine"
MEMBERS = 4


class Straight(nn.Module):
    """An ordinary module, for rows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, channels)
        nn.init.zeros_(self.layer.weight)

    def forward(self, h: Tensor) -> Tensor:
        value: Tensor = h + torch.relu(self.layer(h))
        return value


class Fancy(nn.Module):
    """A module for planes, with running statistics, dropout, a part that is never trained, and a view that wants whole memory."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.drop = nn.Dropout(0.3)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.fixed = nn.Conv2d(channels, channels, 1)
        self.fixed.requires_grad_(False)

    def forward(self, h: Tensor) -> Tensor:
        flat = h.view(len(h), -1).tanh().view_as(h)
        value: Tensor = h + 0.1 * self.conv(self.drop(self.norm(flat))) + 0.1 * self.fixed(h)
        return value


class Silent(nn.Module):
    """Nothing to train, and so nothing that shows it may be heard."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False)

    def forward(self, h: Tensor) -> Tensor:
        value: Tensor = self.norm(h)
        return value


class Wasteful(Straight):
    """Holds a layer that is never used, and one that the member's luck decides about at every step; both would wither by decay."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.spare = nn.Linear(channels, channels)
        self.sometimes = nn.Linear(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        value = super().forward(h)
        is_used = self.training and float(torch.rand(())) < 0.5
        return value + 0.1 * torch.tanh(self.sometimes(h)) if is_used else value


class Spare(Straight):
    """States a formula for all members, and holds a layer that is never used."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.spare = nn.Linear(channels, channels)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        return h + torch.relu(ops.dense(layers.layer, h))


def catalogue_with(family: HostFamily, build: Callable[[int], nn.Module]) -> Catalogue:
    mine = Blueprint(NAME, PLACE, family, build, lambda channels, positions: Cost(channels, channels * positions))
    return Catalogue([*STANDARD, mine])


def world_with(family: HostFamily, build: Callable[[int], nn.Module], **fields: Any) -> World:
    growth = GrowthConfig(**OPEN, auto_advance=True, blueprints=(NAME, "norm"))
    return World(family, catalogue=catalogue_with(family, build), growth=growth, **{"max_epochs": 9, **fields})


class Grower:
    """Plants the user's blueprint in the member's slots and waits, but for the last member, who plants another."""

    def __init__(self, world: World, member: int) -> None:
        self._name = NAME if member < MEMBERS - 1 else "norm"
        self._place = world.catalogue.place(self._name)
        self._first = member % 2

    def decide(self, report: TrialReport) -> FactoredAction:
        epoch = report.epoch - self._first
        return FactoredAction(op=LifecycleOp.GERMINATE, slot=epoch, blueprint=self._place) if 0 <= epoch < 2 else FactoredAction()


def lives(world: World, trainer: Trainer, **options: Any) -> list[list[TrialReport]]:
    return play(world, trainer, seed=5, members=range(MEMBERS), make_player=lambda _, member: Grower(world, member), **options)


ORDINARY = [
    ("mlp", Straight, "adamw"),
    ("transformer", Straight, "sgd"),
    ("cnn", Fancy, "adamw"),
    ("cnn", Fancy, "sgd"),
    ("mlp", Silent, "adamw"),
]


@pytest.mark.parametrize(("family", "build", "optimizer"), ORDINARY)
def test_an_ordinary_module_agrees(family: HostFamily, build: Callable[[int], nn.Module], optimizer: str) -> None:
    engine = EngineConfig(optimizer=optimizer, weight_decay=0.02)  # type: ignore[arg-type]
    world = world_with(family, build, engine=engine)
    alone, together = (lives(world, trainer) for trainer in (OneByOne(), as_one()))
    gap, where = furthest(alone, together)
    assert gap < 1e-6, where
    seeds = [life[-1].slots[0].seed for life in together[: MEMBERS - 1]]
    assert [seed.alpha for seed in seeds if seed is not None] == [0.0 if build is Silent else 1.0] * len(seeds)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("build", [Wasteful, Spare])
def test_what_is_not_used_is_left_alone(build: Callable[[int], nn.Module], optimizer: str) -> None:
    engine = EngineConfig(optimizer=optimizer, weight_decay=0.5)  # type: ignore[arg-type]
    world = world_with("mlp", build, engine=engine)
    alone, together = (trained(world, trainer) for trainer in (OneByOne(), as_one()))
    for own, ours in zip(alone, together, strict=True):
        assert own.model.state_dict().keys() == ours.model.state_dict().keys()
        for name, value in own.model.state_dict().items():
            torch.testing.assert_close(ours.model.state_dict()[name], value, rtol=1e-9, atol=1e-9, msg=name)
        for name, parameter in ours.model.named_parameters():
            if ".spare." in name:
                assert parameter.grad is None
        for (name, parameter), (_, twin) in zip(own.model.named_parameters(), ours.model.named_parameters(), strict=True):
            count = own.engine.optimizer.state.get(parameter, {}).get("step", 0)
            assert ours.engine.optimizer.state.get(twin, {}).get("step", 0) == count, name


def test_its_own_engine_gives_a_users_blueprint_contiguous_values() -> None:
    world = world_with("cnn", Fancy, dtype=torch.float32)
    engine = world.engines(0, 1)[0]
    with GrowthTransaction(engine.model, engine.optimizer):
        engine.model.apply(FactoredAction(op=LifecycleOp.GERMINATE, blueprint=PLACE), val_accuracy=20.0)
        engine.model.tick(val_accuracy=20.0, contributions={}, solo={})
    assert any(slot.computes for slot in engine.model.seed_slots)
    assert engine.layout.memory_format == "contiguous"
    assert math.isfinite(engine.train_epoch(0).loss)  # a view in it would fail otherwise


def trained(world: World, trainer: Trainer) -> Sequence[Trial]:
    """Trials whose seeds have grown and trained."""
    batch = TrialBatch(world.make, trainer)
    reports = batch.start(world.requests(5, MEMBERS))
    players = [Grower(world, member) for member in range(MEMBERS)]
    for _ in range(6):
        reports = batch.step([player.decide(report) for player, report in zip(players, reports, strict=True)])
    return batch.trials


def test_an_ordinary_modules_state_is_its_members() -> None:
    world = world_with("cnn", Fancy)
    batches = []
    for trainer in (OneByOne(), as_one()):
        batch = TrialBatch(world.make, trainer)
        reports = batch.start(world.requests(5, MEMBERS))
        players = [Grower(world, member) for member in range(MEMBERS)]
        while not all(report.done for report in reports):
            reports = batch.step([player.decide(report) for player, report in zip(players, reports, strict=True)])
        batches.append(batch)
    for alone, together in zip(*(batch.trials for batch in batches), strict=True):
        own, ours = alone.model.state_dict(), together.model.state_dict()
        assert own.keys() == ours.keys()
        for name, value in own.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-9, msg=name)
    names = [name for name in batches[1].trials[0].model.state_dict() if name.endswith("running_mean")]
    means = [batches[1].trials[member].model.state_dict()[names[0]] for member in (0, 2)]
    assert not torch.equal(*means)


@torch.no_grad()
def poison(trials: dict[int, Any], epoch: int) -> None:
    if epoch == 5:
        for parameter in trials[1].model.slots.parameters():
            parameter.fill_(torch.nan)


def test_a_modules_broken_numbers_end_its_own_trial_alone() -> None:
    world = world_with("transformer", Straight)
    alone, together = (lives(world, trainer, meddle=poison) for trainer in (OneByOne(), as_one()))
    gap, where = furthest(alone, together)
    assert gap < 1e-6, where
    verdict = together[1][-1].verdict
    assert verdict is not None
    assert verdict.panic is PanicReason.NAN
    assert [len(life) for life in together] == [10, 7, 10, 10]
