"""Trials of every host family for the population engine's tests, how to play them, and how to compare what they report."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from esper.kasmina.config import GrowthConfig
from esper.kasmina.model import MorphogeneticModel
from esper.leyline.actions import FULL_ALPHA_TARGET, FactoredAction, LifecycleOp
from esper.leyline.host import HostFamily
from esper.leyline.rng import SeedTree
from esper.tamiyo.baselines import RandomPolicy
from esper.tolaria import (
    EngineConfig,
    EpisodeRequest,
    GovernorConfig,
    OneByOne,
    SequentialEngine,
    TaskConfig,
    TolariaGovernor,
    TrainingPlan,
    Trial,
    TrialBatch,
)
from esper.tolaria.data import Augmentation
from esper.tolaria.engine.together import Together
from esper.tolaria.tasks import make_episode
from esper.tolaria.tasks.base import Context
from esper.urza import Catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from esper.leyline.reports import TrialReport
    from esper.tolaria.data import Dataset
    from esper.tolaria.engine.base import Trainer

STANDARD = Catalogue.standard()
CONTEXTS: dict[HostFamily, tuple[str, Context]] = {
    "cnn": ("smoke", Context("digits8", "atten", 0.75)),
    "transformer": ("recall-compose", Context("recall", "t-noattn", 0.75)),
    "mlp": ("digits-mlp", Context("digits-vector", "mlp", 1.0)),
}
FAMILIES = tuple(CONTEXTS)
OPEN: dict[str, Any] = {
    "min_training_epochs": 1,
    "min_gradient_health": 0.0,
    "min_prune_age_epochs": 1,
    "min_holding_epochs": 0,
    "embargo_epochs": 1,
    "max_developing": 3,
}
"""Rules under which everything is on offer and a dozen epochs show every stage."""
SIZES = (70, 45, 31)
"""Training, validation and test samples; batches of 32 leave a rest."""


@dataclass(frozen=True, slots=True)
class World:
    """What the trials of one comparison have in common."""

    family: HostFamily = "cnn"
    context: Context | None = None
    """None means the family's own."""
    growth: GrowthConfig = field(default_factory=lambda: GrowthConfig(**OPEN))
    engine: EngineConfig = field(default_factory=EngineConfig)
    governor: GovernorConfig = field(default_factory=GovernorConfig)
    sizes: tuple[int, int, int] = SIZES
    max_epochs: int = 10
    dtype: torch.dtype = torch.float64
    augmentation: Augmentation = "none"
    catalogue: Catalogue = STANDARD
    device: str = "cpu"

    def request(self, seed: int, env_id: int = 0) -> EpisodeRequest:
        return EpisodeRequest(env_id, 3, "train", SeedTree(seed).child("env", env_id), self.context or CONTEXTS[self.family][1])

    def requests(self, seed: int, count: int) -> list[EpisodeRequest]:
        return [self.request(seed, env_id) for env_id in range(count)]

    def make(self, request: EpisodeRequest) -> Trial:
        num_train, num_val, num_test = self.sizes
        task = TaskConfig(preset=CONTEXTS[self.family][0], num_train=num_train, num_val=num_val, num_test=num_test)
        episode = make_episode(task, request.split, request.seeds, request.context)
        model = MorphogeneticModel(episode.host, self.catalogue, self.growth, request.seeds.child("growth")).to(self.device, self.dtype)
        dataset = replace(cast_data(episode.dataset, self.dtype), augmentation=self.augmentation).to(self.device)
        plan = TrainingPlan(self.max_epochs, batch_size=32, learning_rate=0.01)
        engine = SequentialEngine(model, dataset, self.engine, plan=plan, seeds=request.seeds.child("training"))
        judge = TolariaGovernor(self.governor, dataset.num_classes)
        return Trial(request, episode.context, engine, judge, max_epochs=self.max_epochs)

    def engines(self, seed: int, count: int) -> list[SequentialEngine]:
        """Engines of members that did nothing yet."""
        return [self.make(request).engine for request in self.requests(seed, count)]  # type: ignore[misc]


def cast_data(dataset: Dataset, dtype: torch.dtype) -> Dataset:
    parts = {name: getattr(dataset, name) for name in ("train_x", "val_x", "test_x")}
    return replace(dataset, **{name: part.to(dtype) if part.is_floating_point() else part for name, part in parts.items()})


def as_one() -> Together:
    """A trainer that runs everything it can as one."""
    return Together(insists=True)


class Player(Protocol):
    """Decides for one member."""

    def decide(self, report: TrialReport) -> FactoredAction:
        """What is done next."""
        ...


class Scripted:
    """Draws decisions from what is legal and from its own generator, never from measured figures.

    Args:
        seed: Source of the decisions.
        member: For whom.
        keeps: Share of the moments in which a seed is not pruned, and made permanent where possible.
    """

    def __init__(self, seed: int, member: int, *, keeps: float = 0.6) -> None:
        self._rng = SeedTree(seed).child("decisions", member).numpy()
        self._policy = RandomPolicy()
        self._policy.reset(self._rng)
        self._keeps = keeps

    def decide(self, report: TrialReport) -> FactoredAction:
        action, is_kept = self._policy.decide(report), self._rng.random() < self._keeps
        if not is_kept:
            return action
        masks = report.masks
        if masks.op[0, LifecycleOp.FOSSILIZE]:
            return FactoredAction(op=LifecycleOp.FOSSILIZE, slot=int(np.flatnonzero(masks.slot[0, LifecycleOp.FOSSILIZE])[0]))
        if action.op is LifecycleOp.PRUNE:
            return FactoredAction()
        return action._replace(alpha_target=FULL_ALPHA_TARGET) if action.op is LifecycleOp.GERMINATE else action


def play(
    world: World,
    trainer: Trainer,
    *,
    seed: int,
    members: Sequence[int],
    make_player: Callable[[int, int], Player] = Scripted,
    meddle: Callable[[dict[int, Trial], int], None] | None = None,
) -> list[list[TrialReport]]:
    """Whole episodes in lockstep; for every member the list of its reports.

    Args:
        world: The rules.
        trainer: Who trains.
        seed: Of everything random.
        members: Which of the world's episodes play; each is the same whoever else plays.
        make_player: Who decides, made of the seed and the member.
        meddle: Told the trials by member, and the epoch, before every step.
    """
    batch = TrialBatch(world.make, trainer)
    reports = batch.start([world.request(seed, member) for member in members])
    players = [make_player(seed, member) for member in members]
    lives = [[report] for report in reports]
    while not all(report.done for report in reports):
        if meddle is not None:
            meddle(dict(zip(members, batch.trials, strict=True)), max(map(len, lives)) - 1)
        running = [not report.done for report in reports]
        actions = [player.decide(r) if not r.done else FactoredAction() for player, r in zip(players, reports, strict=True)]
        reports = batch.step(actions)
        for life, report, runs in zip(lives, reports, running, strict=True):
            if runs:
                life.append(report)
    return lives


def differences(a: Any, b: Any, *, where: str = "report") -> Iterator[tuple[str, float]]:
    """How far two reports, or parts of them, lie apart, number by number: relative to 1 + size; infinite where they disagree.

    Wall time is left out.
    """
    if isinstance(a, float) and isinstance(b, float):
        equal = a == b or (math.isnan(a) and math.isnan(b))
        yield where, 0.0 if equal else abs(a - b) / (1.0 + abs(a)) if math.isfinite(a - b) else math.inf
    elif is_dataclass(a) and type(a) is type(b):
        for part in fields(a):
            if part.compare and part.name != "timings":
                yield from differences(getattr(a, part.name), getattr(b, part.name), where=f"{where}.{part.name}")
    elif isinstance(a, tuple | list) and isinstance(b, tuple | list) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, where=f"{where}[{index}]")
    else:
        is_same = np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        yield where, 0.0 if is_same else math.inf


def furthest(a: Any, b: Any) -> tuple[float, str]:
    """The largest difference, and where it is."""
    return max((gap, where) for where, gap in differences(a, b))


def grown(world: World, seed: int, count: int, *, epochs: int = 6) -> list[Trial]:
    """Trials after a few epochs of growth, trained one by one."""
    batch = TrialBatch(world.make, OneByOne())
    reports = batch.start(world.requests(seed, count))
    players = [Scripted(seed, member, keeps=0.9) for member in range(count)]
    for _ in range(epochs):
        reports = batch.step([player.decide(report) for player, report in zip(players, reports, strict=True)])
    return list(batch.trials)
