"""The loop: play a round, learn from it, save, tell. It does not know where its parts are."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, field

from esper.distributed.checkpoint import CheckpointFolder
from esper.distributed.collector import Collector, InterruptedRound
from esper.distributed.config import RunConfig
from esper.distributed.event_group import LEARNED, group_id
from esper.distributed.facts import RunFacts
from esper.distributed.requests import training_round
from esper.distributed.runtime import Runtime
from esper.distributed.story import RunStory
from esper.leyline.reports import EpisodeOutcome
from esper.leyline.rng import SeedTree
from esper.simic.update_report import UpdateReport


@dataclass(slots=True)
class Counts:
    """How far a run is; saved with every checkpoint."""

    rounds: int = 0
    episodes: int = 0
    env_steps: int = 0


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What one round brought."""

    counts: Counts
    outcomes: tuple[EpisodeOutcome, ...]
    update: UpdateReport
    wall_sec: float
    """Playing and learning."""

    @property
    def mean_utility(self) -> float:
        """Mean utility of the round's episodes on test data."""
        return statistics.fmean(outcome.utility for outcome in self.outcomes)

    @property
    def env_steps_per_sec(self) -> float:
        """Throughput, updates included."""
        return sum(outcome.episode_length for outcome in self.outcomes) / self.wall_sec


@dataclass(frozen=True)
class Run:
    """A training run and its parts."""

    config: RunConfig
    facts: RunFacts
    runtime: Runtime
    collector: Collector
    checkpoints: CheckpointFolder
    story: RunStory
    counts: Counts = field(default_factory=Counts)

    @property
    def seeds(self) -> SeedTree:
        """Source of the training episodes' randomness."""
        return SeedTree(self.config.seed).child("train")


def train(run: Run) -> bool:
    """Play rounds and learn from them until all are played.

    Returns:
        Whether the user stopped it before; the last checkpoint then says how far it came.
    """
    while run.counts.rounds < run.config.rollout.rounds:
        try:
            report = play_round(run)
        except InterruptedRound:
            return True
        run.story.round_finished(report)
        save(run, report.mean_utility)
    return False


def play_round(run: Run) -> RoundReport:
    """One episode per environment, then one update."""
    started = time.perf_counter()
    executor, learner = run.runtime.executor, run.runtime.learner
    groups = training_round(run.counts.rounds, run.config, run.seeds)
    outcomes = run.collector.play(groups, greedy=False)
    update = executor.get(executor.call(learner, "update", group_id("train", LEARNED, run.counts.rounds)))
    run.counts.rounds += 1
    run.counts.episodes += len(outcomes)
    run.counts.env_steps += sum(outcome.episode_length for outcome in outcomes)
    return RoundReport(Counts(**asdict(run.counts)), tuple(outcomes), update, time.perf_counter() - started)


def save(run: Run, utility: float) -> None:
    """Write a checkpoint if one is due, and forget old ones."""
    rounds = run.counts.rounds
    if rounds % run.config.checkpoint.every_rounds and rounds < run.config.rollout.rounds:
        return
    executor = run.runtime.executor
    run.runtime.emitter.flush()
    executor.get(executor.call(run.runtime.learner, "save", run.checkpoints.path(rounds), {**asdict(run.counts), "utility": utility}))
    run.checkpoints.note_best(rounds, utility)
    run.checkpoints.forget_old()


def restore(run: Run, path: object) -> None:
    """Continue from a checkpoint; that it is the best so far may not have been noted before the run was killed."""
    executor = run.runtime.executor
    state = executor.get(executor.call(run.runtime.learner, "load", path))
    run.counts.rounds, run.counts.episodes, run.counts.env_steps = state["rounds"], state["episodes"], state["env_steps"]
    if path == run.checkpoints.path(run.counts.rounds):
        run.checkpoints.note_best(run.counts.rounds, state["utility"])
