"""Thousands of episodes in one process: memory, objects and time do not grow."""

from __future__ import annotations

import gc
import os
import time
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from esper.leyline.actions import FactoredAction
from esper.leyline.stages import SeedStage
from esper.tolaria import EngineConfig, TrialBatch
from esper.tolaria.engine.choose import make_trainer
from esper.tolaria.tasks.base import Context
from tests.tolaria.populations import Scripted, World

if TYPE_CHECKING:
    from typing import Literal


AT_ONCE = 8
WARM, FIRST, HALF, THIRD, EPISODES = 200, 504, 1000, 1504, 2000
"""Episodes after which things are counted: when all is warm, and after every quarter."""
CONTEXTS = (Context("digits8", "atten", 0.75), Context("digits8", "blind0", 1.0))
WORLD = World("cnn", dtype=torch.float32, sizes=(32, 24, 24), max_epochs=9)
MAX_GROWTH_FRAC = 0.05
MAX_SLOWDOWN = 1.3
"""Of the last quarter to the second."""
MAX_SEED_PARAMETERS = 300
"""By which two groups may differ, whose seeds are counted while they are still there."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What is counted after so many episodes, while the last group is still there."""

    cpu_sec: float
    resident_bytes: int
    num_parameters: int


def now() -> Moment:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    count = sum(type(thing) is nn.Parameter for thing in gc.get_objects())
    return Moment(time.process_time(), pages * os.sysconf("SC_PAGE_SIZE"), count)


def play_group(batch: TrialBatch, seed: int) -> tuple[int, int]:
    """One episode per member; how many seeds were planted and pruned."""
    contexts = [replace(WORLD, context=CONTEXTS[member % len(CONTEXTS)]) for member in range(AT_ONCE)]
    reports = batch.start([world.request(seed, member) for member, world in enumerate(contexts)])
    players = [Scripted(seed, member, keeps=0.2) for member in range(AT_ONCE)]
    planted = pruned = 0
    while not all(report.done for report in reports):
        actions = [p.decide(r) if not r.done else FactoredAction() for p, r in zip(players, reports, strict=True)]
        reports = batch.step(actions)
        stages = [transition.to_stage for report in reports for transition in report.transitions]
        planted, pruned = planted + stages.count(SeedStage.GERMINATED), pruned + stages.count(SeedStage.PRUNED)
    return planted, pruned


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["auto", "population"])
def test_nothing_grows_over_thousands_of_episodes(kind: Literal["auto", "population"]) -> None:
    world = replace(WORLD, engine=EngineConfig(kind=kind))
    batch = TrialBatch(world.make, make_trainer(world.engine))
    moments: dict[int, Moment] = {}
    played: list[weakref.ref[nn.Module]] = []
    planted = pruned = 0
    for episode in range(AT_ONCE, EPISODES + 1, AT_ONCE):
        num_planted, num_pruned = play_group(batch, episode)
        planted, pruned = planted + num_planted, pruned + num_pruned
        played += [weakref.ref(trial.model) for trial in batch.trials]
        if episode in (WARM, FIRST, HALF, THIRD, EPISODES):
            moments[episode] = now()
            assert sum(model() is not None for model in played) == AT_ONCE
    warm, end = moments[WARM], moments[EPISODES]
    assert min(planted, pruned) > EPISODES
    assert end.resident_bytes < (1.0 + MAX_GROWTH_FRAC) * warm.resident_bytes
    assert end.num_parameters < warm.num_parameters + MAX_SEED_PARAMETERS
    second = moments[HALF].cpu_sec - moments[FIRST].cpu_sec
    last = end.cpu_sec - moments[THIRD].cpu_sec
    assert last < MAX_SLOWDOWN * second
