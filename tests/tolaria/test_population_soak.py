"""Thousands of episodes in one process of a run, and thousands of seeds in one model: memory, objects and time do not grow."""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from esper.distributed import build
from esper.distributed.config import read_run_config
from esper.distributed.env_worker import ScriptedSpec
from esper.distributed.facts import examine
from esper.kasmina.config import GrowthConfig
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.surgery import GrowthTransaction
from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.rng import SeedTree
from esper.nissa.transport import InProcessTransport
from esper.tolaria import EpisodeRequest
from esper.tolaria.engine.population import PopulationEngine
from esper.tolaria.tasks.base import Context
from tests.fakes.sinks import MemorySink
from tests.tolaria.populations import OPEN, World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.distributed.env_worker import EnvWorker
    from esper.tolaria import SequentialEngine

KINDS = ("sequential", "population")
AT_ONCE = 8
WARM, FIRST, HALF, THIRD, EPISODES = 104, 504, 1000, 1504, 2000
"""Episodes after which things are counted: when all is warm, and after every quarter."""
CONTEXTS = (Context("digits8", "atten", 0.75), Context("digits8", "blind0", 1.0))
MAX_GROWTH_FRAC = 0.05
MAX_SLOWDOWN = 1.3
"""Of the last quarter to the second."""
MAX_SEED_PARAMETERS = 300
"""By which two groups may differ, whose seeds are counted while they are still there."""
CYCLES, WARM_CYCLES = 500, 50
"""Of one model: two seeds are planted, trained and pruned in each."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What is counted after so many episodes, while the last group is still there."""

    cpu_sec: float
    resident_bytes: int
    num_parameters: int
    num_models: int


def now() -> Moment:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    kinds = [type(thing) for thing in gc.get_objects()]
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    return Moment(time.process_time(), resident, kinds.count(nn.Parameter), kinds.count(MorphogeneticModel))


def make_worker(kind: str, sink: MemorySink, folder: Path) -> EnvWorker:
    """The part that plays in a run."""
    config = read_run_config(
        None,
        [
            f"engine.kind={kind}",
            "task.preset=smoke",
            f"task.contexts=[{','.join(f'{context.task}/{context.host}@{context.width}' for context in CONTEXTS)}]",
            "task.num_train=32",
            "task.num_val=24",
            "task.num_test=24",
            "task.max_epochs=9",
            "growth.auto_advance=false",
            *(f"growth.{name}={value}" for name, value in OPEN.items()),
        ],
    )
    emitter = build.make_emitter(config, "env-0", 1, InProcessTransport(sink), folder)
    return build.make_env_worker(config, examine(config), emitter)


def requests(episode: int) -> list[EpisodeRequest]:
    """A group; its members' contexts alternate."""
    seeds = SeedTree(episode)
    return [EpisodeRequest(i, episode, "train", seeds.child("env", i), CONTEXTS[i % len(CONTEXTS)]) for i in range(AT_ONCE)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_grows_over_thousands_of_episodes(kind: str, tmp_path: Path) -> None:
    sink = MemorySink()
    worker = make_worker(kind, sink, tmp_path)
    moments: dict[int, Moment] = {}
    planted = pruned = 0
    others = now().num_models
    for episode in range(AT_ONCE, EPISODES + 1, AT_ONCE):
        worker.play_scripted([ScriptedSpec("random")] * AT_ONCE, requests(episode))
        worker.settle()
        planted, pruned = planted + len(sink.rows("SEED_GERMINATED")), pruned + len(sink.rows("SEED_PRUNED"))
        sink.batches.clear()
        if episode in (WARM, FIRST, HALF, THIRD, EPISODES):
            moments[episode] = now()
            assert moments[episode].num_models == others + AT_ONCE
    worker.close()
    warm, end = moments[WARM], moments[EPISODES]
    assert min(planted, pruned) > EPISODES
    assert end.resident_bytes < (1.0 + MAX_GROWTH_FRAC) * warm.resident_bytes
    assert end.num_parameters < warm.num_parameters + MAX_SEED_PARAMETERS
    second = moments[HALF].cpu_sec - moments[FIRST].cpu_sec
    last = end.cpu_sec - moments[THIRD].cpu_sec
    assert last < MAX_SLOWDOWN * second


def germinate(engine: SequentialEngine, cycle: int) -> None:
    """Plant a seed in two slots, and let them learn."""
    places = engine.model.masks().blueprint[0].nonzero()[0]
    for slot in (0, 2):
        blueprint = int(places[(cycle + slot) % len(places)])
        with GrowthTransaction(engine.model, engine.optimizer):
            engine.model.apply(FactoredAction(op=LifecycleOp.GERMINATE, slot=slot, blueprint=blueprint), val_accuracy=20.0)
            engine.model.apply(FactoredAction(op=LifecycleOp.ADVANCE, slot=slot), val_accuracy=20.0)


def prune(engine: SequentialEngine) -> None:
    with GrowthTransaction(engine.model, engine.optimizer):
        engine.model.prune_all("test")
        engine.model.tick(val_accuracy=20.0, contributions={}, solo={})


def assert_trains_what_lives(engine: SequentialEngine) -> None:
    """The optimizer knows every parameter that lives and is trained, and no other."""
    living = {id(parameter) for parameter in engine.model.parameters() if parameter.requires_grad}
    grouped = [id(parameter) for group in engine.optimizer.param_groups for parameter in group["params"]]
    assert sorted(living) == sorted(grouped)
    assert {id(parameter) for parameter in engine.optimizer.state} <= living


def storage_bytes(engines: Sequence[SequentialEngine]) -> int:
    """Memory under all parameters and what their optimizers remember, whatever of it is shared counted once."""
    tensors = [p for engine in engines for p in engine.model.parameters()]
    remembered = [value for engine in engines for state in engine.optimizer.state.values() for value in state.values()]
    storages = [tensor.untyped_storage() for tensor in (*tensors, *remembered) if isinstance(tensor, torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_grows_over_thousands_of_seeds_in_one_model(kind: str) -> None:
    growth = GrowthConfig(**{**OPEN, "embargo_epochs": 0, "resetting_epochs": 0})
    engines = replace(World("cnn", dtype=torch.float32, sizes=(32, 8, 8)), growth=growth).engines(0, 2)
    population = PopulationEngine(engines)

    def train(epoch: int) -> None:
        if kind == "population":
            population.train_epoch(epoch)
        else:
            for engine in engines:
                engine.train_epoch(epoch)

    train(0)
    size, counts = storage_bytes(engines), [engine.model.num_host_parameters for engine in engines]
    warm = 0
    for cycle in range(CYCLES):
        for engine in engines:
            germinate(engine, cycle)
        train(cycle)
        assert storage_bytes(engines) > size
        for engine in engines:
            assert_trains_what_lives(engine)
            assert engine.model.num_seed_parameters > 0
            prune(engine)
            assert_trains_what_lives(engine)
        train(cycle)
        assert storage_bytes(engines) == size
        assert [sum(p.numel() for p in engine.model.parameters()) for engine in engines] == counts
        warm = now().num_parameters if cycle == WARM_CYCLES else warm
    assert now().num_parameters == warm
