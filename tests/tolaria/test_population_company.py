"""In single precision, bit for bit: it does not matter to a member who else is trained with it, or what becomes of them."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch

from esper.kasmina.config import GrowthConfig
from esper.leyline.schemas import PanicReason
from esper.tolaria import EngineConfig, OneByOne
from tests.tolaria.populations import FAMILIES, OPEN, World, as_one, furthest, play

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.leyline.host import HostFamily
    from esper.leyline.reports import TrialReport
    from esper.tolaria import Trial

MEMBERS = range(5)


def world_of(family: HostFamily, seed: int) -> World:
    return World(
        family,
        dtype=torch.float32,
        growth=GrowthConfig(**OPEN, auto_advance=seed % 2 == 0, isolate_blending=seed % 2 == 1),
        engine=EngineConfig(weight_decay=0.01, max_grad_norm=(None, 1.0)[seed % 2], optimizer=("adamw", "sgd")[seed // 2 % 2]),
        augmentation="crop_flip" if family == "cnn" else "none",
        sizes=(70, 30, 20),
        max_epochs=8,
    )


@cache
def everyone(family: HostFamily, seed: int) -> list[list[TrialReport]]:
    """Lives in which nobody breaks."""
    return play(world_of(family, seed), as_one(), seed=seed, members=MEMBERS)


@torch.no_grad()
def poison_host(trials: dict[int, Trial], epoch: int) -> None:
    if epoch == 3 and 1 in trials:
        next(trials[1].model.get_submodule("host").parameters()).fill_(math.nan)


@torch.no_grad()
def poison_seeds(trials: dict[int, Trial], epoch: int) -> None:
    """As soon as the member has a seed that learns."""
    if 1 in trials and trials[1].model.live_slots():
        for parameter in trials[1].model.slots.parameters():
            parameter.fill_(math.nan)


@pytest.mark.parametrize(("family", "seed"), [("cnn", 0), ("cnn", 1), ("transformer", 0), ("transformer", 1), ("mlp", 1), ("mlp", 2)])
def test_company_does_not_matter(family: HostFamily, seed: int) -> None:
    world = world_of(family, seed)
    together = everyone(family, seed)
    for group in ((0,), (4, 2)):
        for member, life in zip(group, play(world, as_one(), seed=seed, members=group), strict=True):
            gap, where = furthest(together[member], life)
            assert gap == 0.0, (member, where)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("meddle", [poison_host, poison_seeds])
def test_a_companion_that_breaks_and_ends_early_does_not_matter(
    family: HostFamily, meddle: Callable[[dict[int, Trial], int], None]
) -> None:
    world = world_of(family, 0)
    healthy = everyone(family, 0)
    broken = play(world, as_one(), seed=0, members=MEMBERS, meddle=meddle)
    for member in MEMBERS:
        if member != 1:
            gap, where = furthest(healthy[member], broken[member])
            assert gap == 0.0, (member, where)
    last = broken[1][-1]
    assert last.verdict is not None
    assert (last.verdict.panic, last.done) == (PanicReason.NAN, True)
    assert len(broken[1]) < len(broken[0])
    assert math.isfinite(last.val_loss)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_member_that_breaks_is_rolled_back_as_its_own_engine_would(family: HostFamily) -> None:
    world = World(family)
    alone, together = (play(world, trainer, seed=0, members=range(3), meddle=poison_host) for trainer in (OneByOne(), as_one()))
    gap, where = furthest(alone, together)
    assert gap < 1e-6, where
    assert [len(life) for life in together] == [world.max_epochs + 1, 5, world.max_epochs + 1]


def test_long_evaluations_do_not_depend_on_company() -> None:
    world = World("mlp", dtype=torch.float32, sizes=(70, 1000, 700), max_epochs=2)
    together = play(world, as_one(), seed=4, members=range(40))
    for member in (0, 39):
        assert furthest(together[member], play(world, as_one(), seed=4, members=[member])[0])[0] == 0.0
