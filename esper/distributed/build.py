"""The composition root: the one file that names concrete classes across packages and joins them."""

from __future__ import annotations

import ctypes
import math
import platform
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, get_args

import torch

from esper.distributed.env_watch import ATTRIBUTION, EnvWatch
from esper.distributed.env_worker import EnvWorker, ScriptedSpec
from esper.distributed.gauges import Gauges
from esper.distributed.learner_worker import LearnerWorker
from esper.kasmina.config import growth_limits
from esper.kasmina.model import MorphogeneticModel
from esper.leyline.host import HostFamily
from esper.leyline.load import ConfigError, dump
from esper.leyline.rng import SeedTree
from esper.leyline.telemetry import TelemetryEventType
from esper.nissa.emitter import BufferedEmitter
from esper.simic.attribution import configurations_of, sampled_orders
from esper.simic.learner import Learner
from esper.tamiyo.baselines import FixedSchedule, Germination, GradientPolicy, HeuristicPolicy, RandomPolicy, WaitPolicy
from esper.tamiyo.graph_builder import GraphBuilder
from esper.tamiyo.graph_spec import GRAPH_SPEC
from esper.tamiyo.policy import TamiyoPolicy
from esper.tamiyo.registries import Registries
from esper.tolaria.device_copies import DeviceCopies
from esper.tolaria.engine.base import TrainingPlan
from esper.tolaria.engine.choose import make_trainer
from esper.tolaria.engine.compiled import Graphs
from esper.tolaria.engine.sequential import SequentialEngine
from esper.tolaria.governor import TolariaGovernor
from esper.tolaria.tasks.presets import find_preset
from esper.tolaria.tasks.registry import make_episode
from esper.tolaria.trial import EpisodeRequest, Measuring, Trial, TrialBatch
from esper.urza.catalogue import Catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from esper.distributed.checkpoint import Checkpoint
    from esper.distributed.config import RunConfig
    from esper.distributed.facts import RunFacts
    from esper.leyline.ports import ScriptedPolicy
    from esper.nissa.transport import Transport

KEPT_BYTES = 1 << 28
"""Freed memory that a process keeps."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of these settings in glibc's malloc.h."""


def make_trial(
    config: RunConfig,
    catalogue: Catalogue,
    request: EpisodeRequest,
    *,
    device: str = "cpu",
    graphs: Graphs | None = None,
    copies: DeviceCopies | None = None,
) -> Trial:
    """One trial on `device`, ready to be reset.

    Trials that are given the same `graphs` share compiled training steps, and those given the same `copies` share what of their
    data is the same and has to be copied to the device.
    """
    preset = find_preset(config.task)
    episode = make_episode(config.task, request.split, request.seeds, request.context)
    model = MorphogeneticModel(episode.host, catalogue, config.growth, request.seeds.child("growth")).to(device)
    plan = TrainingPlan(preset.max_epochs, preset.batch_size, preset.learning_rate)
    dataset, seeds = (copies or DeviceCopies()).bring(episode.dataset, device), request.seeds.child("training")
    engine = SequentialEngine(model, dataset, config.engine, plan=plan, seeds=seeds, graphs=graphs)
    governor = TolariaGovernor(config.governor, episode.dataset.num_classes)
    return Trial(request, episode.context, engine, governor, max_epochs=preset.max_epochs, measuring=make_measuring(config, request))


def make_measuring(config: RunConfig, request: EpisodeRequest) -> Measuring:
    """What an episode measures for the record."""

    def sample(slots: tuple[int, ...]) -> Sequence[tuple[int, ...]]:
        return configurations_of(sampled_orders(slots, request.seeds.child(ATTRIBUTION).numpy()))

    telemetry = config.telemetry
    if not telemetry.records(TelemetryEventType.TOLARIA_EPOCH_COMPLETED.name):
        return Measuring(0, 0, sample)
    return Measuring(telemetry.timing_epochs, telemetry.gradient_flow_epochs, sample)


def make_scripted(facts: RunFacts, spec: ScriptedSpec) -> ScriptedPolicy:
    """A baseline by its name.

    Raises:
        ConfigError: If there is no such baseline.
    """
    makers: dict[str, Callable[[], ScriptedPolicy]] = {
        "random": RandomPolicy,
        "wait": WaitPolicy,
        "plateau": HeuristicPolicy,
        "gradient": lambda: GradientPolicy(facts.largest_blueprint),
        "fixed": lambda: FixedSchedule(tuple(Germination(epoch, slot, place) for epoch, slot, place in spec.plan)),
    }
    if spec.name not in makers:
        raise ConfigError(f"policy {spec.name!r} is not one of {', '.join(makers)}")
    return makers[spec.name]()


def make_env_worker(
    config: RunConfig, facts: RunFacts, emitter: BufferedEmitter, *, require_folder: Callable[[], None] | None = None
) -> EnvWorker:
    """A part that plays groups of trials; `require_folder` as for `EnvWorker`."""
    catalogue = Catalogue.standard()
    device = require_device(config.cluster.env_device, "cluster.env_gpus")
    limits = growth_limits(config.growth, catalogue, facts.family)
    make = partial(make_trial, config, catalogue, device=device, graphs=Graphs(), copies=DeviceCopies())
    return EnvWorker(
        TrialBatch(make, make_trainer(config.engine)),
        GraphBuilder(limits, steps_per_epoch=facts.steps_per_epoch, registries=make_registries(catalogue)),
        make_policy=lambda spec: make_scripted(facts, spec),
        reward=config.reward,
        gamma=config.ppo.gamma,
        emitter=emitter,
        watch=EnvWatch(emitter, Gauges(emitter, config.telemetry, device)),
        device=device,
        is_full=config.telemetry.is_full,
        require_folder=require_folder,
    )


def make_learner(config: RunConfig, emitter: BufferedEmitter, *, require_folder: Callable[[], None] | None = None) -> LearnerWorker:
    """The part that holds the policy; `require_folder` as for `LearnerWorker`."""
    device = require_device(config.cluster.learner_device, "cluster.learner_gpus")
    seeds = SeedTree(config.seed).child("learner")
    with seeds.child("weights").torch_scope([torch.device(device)]):
        policy = TamiyoPolicy(replace(config.policy, device=device))
    gauges = Gauges(emitter, config.telemetry, device)
    learner = Learner(policy, config.ppo, seeds)
    return LearnerWorker(learner, emitter, gauges, config=dump(config), digests=registry_digests(), require_folder=require_folder)


def make_emitter(config: RunConfig, source: str, incarnation: int, transport: Transport, spool: Path) -> BufferedEmitter:
    """A producer's way to telemetry."""
    folder = spool / source if config.telemetry.is_on else None
    return BufferedEmitter(source, incarnation, transport=transport, config=config.telemetry, spool_folder=folder)


def make_registries(catalogue: Catalogue) -> Registries:
    """The names behind every index that a policy knows; blueprints in the order of their places."""
    names = {catalogue.place(name): name for family in get_args(HostFamily) for name in catalogue.names(family)}
    return Registries.standard(blueprints=[names[place] for place in range(len(names))])


def registry_digests() -> dict[str, str]:
    """Hashes of what the policy's inputs and outputs refer to: registries, and the layout of observations."""
    catalogue = Catalogue.standard()
    return {"catalogue": catalogue.digest, "graph": GRAPH_SPEC.digest, **make_registries(catalogue).digests()}


def store_policy(config: RunConfig, facts: RunFacts, checkpoint: Checkpoint, out: Path) -> str:
    """Write a run's policy as a directory that a service can load; returns its version."""
    from esper.tamiyo.service import Observing, save_policy  # what only a service and its suppliers need

    catalogue = Catalogue.standard()
    seeds = SeedTree(config.seed)
    with seeds.torch_scope():
        policy = TamiyoPolicy(config.policy)
    learner = Learner(policy, config.ppo, seeds)
    learner.load_state(checkpoint.tensors, checkpoint.state["learner"])
    limits = growth_limits(config.growth, catalogue, facts.family)
    return save_policy(
        out,
        policy,
        Observing(make_registries(catalogue), limits, facts.steps_per_epoch),
        digests=registry_digests(),
        num_updates=learner.version,
        source={"task": config.task.preset, "seed": config.seed, "family": facts.family, **checkpoint.state["run"]},
    )


def require_device(device: str, setting: str) -> str:
    """Return `device` if it is here.

    Raises:
        ConfigError: If a GPU is asked for and none is visible to this process.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{setting} asks for a GPU, and this process sees none; leave it out to stay on the CPU")
    return device


def require_devices(config: RunConfig) -> None:
    """Look for the GPUs that a run in this process asks for.

    Raises:
        ConfigError: If there is none.
    """
    require_device(config.cluster.env_device, "cluster.env_gpus")
    require_device(config.cluster.learner_device, "cluster.learner_gpus")
    require_device(config.policy.device.partition(":")[0], "policy.device")


def prepare_process(cpus: float = 1.0) -> None:
    """Settings of a process that trains hosts.

    As many threads as the share has whole CPUs, and one below that: more would spin for cores that others use, tiny hosts lose
    by more, and results then do not depend on the machine's cores. Freed memory is kept for the next step: glibc would hand
    the large tensors of a population back to the system and fault them in again, step by step.

    Args:
        cpus: The process's CPU share.
    """
    torch.set_num_threads(max(1, math.floor(cpus)))
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
