"""What is trained in the benchmarks: two workloads, and the parts that play them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import torch

from benchmarks.measure import timed
from esper.distributed import build
from esper.distributed.config import RunConfig, config_from, read_run_config
from esper.distributed.env_watch import EnvWatch
from esper.distributed.env_worker import EnvWorker
from esper.distributed.gauges import Gauges
from esper.distributed.learner_worker import LearnerWorker
from esper.karn.views.catalogue import view_statements
from esper.kasmina.config import growth_limits
from esper.kasmina.hosts import CNNHost
from esper.kasmina.model import MorphogeneticModel
from esper.leyline.load import dump, merge, parse_overrides
from esper.leyline.rng import SeedTree
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.transport import InProcessTransport
from esper.tamiyo import GraphBuilder, RandomPolicy, WaitPolicy
from esper.tolaria.data import Dataset
from esper.tolaria.engine.base import Evaluate, Probe, TrainEpoch, Trainer, TrainingPlan
from esper.tolaria.engine.choose import make_trainer
from esper.tolaria.engine.sequential import SequentialEngine
from esper.tolaria.governor import TolariaGovernor
from esper.tolaria.tasks.base import Context, Episode, SampleCounts
from esper.tolaria.tasks.hosts import build_host
from esper.tolaria.tasks.presets import find_preset
from esper.tolaria.tasks.registry import contexts, make_episode
from esper.tolaria.trial import EpisodeRequest, Trial, TrialBatch
from esper.urza.catalogue import Catalogue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.graph import GraphBatch
    from esper.leyline.ports import GraphEncoder
    from esper.leyline.reports import TrialReport
    from esper.tolaria.engine.base import Answer, Call, Engine

QUICK = Path(__file__).parents[1] / "configs" / "run" / "quick.yaml"
SEEDS = SeedTree(20261121)
REFERENCE_CONTEXT = Context("cifar-shaped", "impaired", 1.0)
REFERENCE_TASK = {"preset": "cifar10", "num_train": 512, "num_val": 256, "num_test": 256, "max_epochs": 25}

PresetName = Literal["image-mix", "reference"]
OBSERVATION = "observation"
PURPOSES: dict[type, str] = {TrainEpoch: "training", Evaluate: "evaluation", Probe: "probe"}


@dataclass(frozen=True, slots=True)
class Workload:
    """Episodes of one kind."""

    name: PresetName
    config: RunConfig
    make_episode: Callable[[EpisodeRequest], Episode]
    make_trial: Callable[[EpisodeRequest], Trial]
    contexts: tuple[Context, ...]

    @property
    def plan(self) -> TrainingPlan:
        """How its hosts are trained."""
        preset = find_preset(self.config.task)
        return TrainingPlan(preset.max_epochs, preset.batch_size, preset.learning_rate)

    def requests(self, episode_idx: int, num_envs: int) -> list[EpisodeRequest]:
        """One episode per environment, the contexts in turn."""
        return [
            EpisodeRequest(i, episode_idx, "train", SEEDS.child("env", i, "episode", episode_idx), self.contexts[i % len(self.contexts)])
            for i in range(num_envs)
        ]


class TimedTrainer:
    """Lets another trainer answer, and notes what every kind of call took."""

    def __init__(self, trainer: Trainer, spent: dict[str, float]) -> None:
        self._trainer = trainer
        self._spent = spent

    def answer(self, calls: Sequence[tuple[Engine, Call]]) -> list[Answer | Exception]:
        """One answer per call, in their order."""
        run = timed(partial(self._trainer.answer, calls))
        kind = PURPOSES[type(calls[0][1])]
        self._spent[kind] = self._spent.get(kind, 0.0) + run.cpu_sec
        return run.result


class TimedEncoder:
    """Lets another encoder build the observation, and notes what it took."""

    def __init__(self, encoder: GraphEncoder, spent: dict[str, float]) -> None:
        self._encoder = encoder
        self._spent = spent

    def build(self, reports: Sequence[TrialReport]) -> GraphBatch:
        """[K] reports → a batch of K graphs."""
        run = timed(partial(self._encoder.build, reports))
        self._spent[OBSERVATION] = self._spent.get(OBSERVATION, 0.0) + run.cpu_sec
        return run.result


@dataclass(frozen=True, slots=True)
class Player:
    """The parts that play a workload in this process."""

    worker: EnvWorker
    learner: LearnerWorker
    trainer: Trainer
    """What the worker's trials are trained by."""
    spent: dict[str, float]
    """CPU seconds by what they went to: the engines' calls, the observation. Grows as it plays."""


def make_workload(name: PresetName, overrides: Sequence[str] = ()) -> Workload:
    """Build a workload; `reference` is the public reference's: CIFAR-shaped images made here, and its smallest host.

    That host has 1×1 kernels and 1, 2 and 4 channels: 70 parameters here, 77 there, where norms stand in for biases.
    """
    changes = parse_overrides(overrides)
    if name == "image-mix":
        config = read_run_config(QUICK, overrides)
        make_trial = partial(build.make_trial, config, Catalogue.standard())
        return Workload(name, config, partial(_registered, config), make_trial, contexts(config.task, "train"))
    quick = read_run_config(QUICK)
    config = config_from(merge({"task": REFERENCE_TASK, "policy": dump(quick.policy), "ppo": dump(quick.ppo)}, changes))
    dataset = cifar_shaped(find_preset(config.task).counts, SEEDS.child("data"))
    episode = partial(_fresh_host, dataset)
    return Workload(name, config, episode, lambda request: assemble(config, episode(request), request)[0], (REFERENCE_CONTEXT,))


def cifar_shaped(counts: SampleCounts, seeds: SeedTree) -> Dataset:
    """Noise of the shape of CIFAR-10 around one image per class, augmented by crops and mirroring."""
    generator = seeds.torch()
    centres = torch.randn(10, 3, 32, 32, generator=generator)

    def part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(10, (count,), generator=generator)
        return centres[labels] + torch.randn(count, 3, 32, 32, generator=generator), labels

    return Dataset(*part(counts.train), *part(counts.val), *part(counts.test), num_classes=10, kind="image", augmentation="crop_flip")


def assemble(config: RunConfig, episode: Episode, request: EpisodeRequest) -> tuple[Trial, SequentialEngine]:
    """A trial of an episode, and the engine that trains it."""
    preset = find_preset(config.task)
    model = MorphogeneticModel(cnn_of(episode), Catalogue.standard(), config.growth, request.seeds.child("growth"))
    plan = TrainingPlan(preset.max_epochs, preset.batch_size, preset.learning_rate)
    engine = SequentialEngine(model, episode.dataset, config.engine, plan=plan, seeds=request.seeds.child("training"))
    governor = TolariaGovernor(config.governor, episode.dataset.num_classes)
    return Trial(request, episode.context, engine, governor, max_epochs=plan.max_epochs), engine


def cnn_of(episode: Episode) -> CNNHost:
    """The episode's host.

    Raises:
        TypeError: If it is not convolutional, as all hosts of these workloads are.
    """
    if not isinstance(episode.host, CNNHost):
        raise TypeError(f"{episode.context.name}: expected a convolutional host, got {type(episode.host).__name__}")
    return episode.host


@contextmanager
def open_player(workload: Workload, make_trial: Callable[[EpisodeRequest], Trial] | None = None) -> Iterator[Player]:
    """Environments, an untrained policy, and telemetry that ends in a DuckDB file, as in a local run.

    Args:
        workload: What is played.
        make_trial: Makes a trial of a request; the workload's own way unless given.
    """
    config = workload.config
    limits = growth_limits(config.growth, Catalogue.standard(), "cnn")
    steps_per_epoch = -(-find_preset(config.task).counts.train // workload.plan.batch_size)
    with TemporaryDirectory() as folder:
        sink = DuckDBSink(Path(folder) / "telemetry.duckdb", views=view_statements())
        emitters = [build.make_emitter(config, name, 1, InProcessTransport(sink), Path(folder)) for name in ("env-0", "learner")]
        spent: dict[str, float] = {}
        trainer = TimedTrainer(make_trainer(config.engine), spent)
        worker = EnvWorker(
            TrialBatch(make_trial or workload.make_trial, trainer),
            TimedEncoder(GraphBuilder(limits, steps_per_epoch=steps_per_epoch), spent),
            make_policy=lambda spec: WaitPolicy() if spec.name == "wait" else RandomPolicy(),
            reward=config.reward,
            gamma=config.ppo.gamma,
            emitter=emitters[0],
            watch=EnvWatch(emitters[0], Gauges(emitters[0], config.telemetry, "cpu")),
            device="cpu",
            is_full=config.telemetry.is_full,
        )
        learner = build.make_learner(config, emitters[1])
        yield Player(worker, learner, trainer, spent)
        worker.close()
        learner.close()
        sink.close()


def _registered(config: RunConfig, request: EpisodeRequest) -> Episode:
    return make_episode(config.task, request.split, request.seeds, request.context)


def _fresh_host(dataset: Dataset, request: EpisodeRequest) -> Episode:
    with request.seeds.child("host").torch_scope():
        return Episode(REFERENCE_CONTEXT, dataset, build_host(REFERENCE_CONTEXT, dataset))
