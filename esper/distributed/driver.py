"""The loop: play a round, learn from it, save, tell. It does not know where its parts are."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from esper.distributed.checkpoint_folder import CheckpointError, CheckpointFolder
from esper.distributed.collector import Collector
from esper.distributed.config import RunConfig
from esper.distributed.event_group import LEARNED, group_id
from esper.distributed.executor import InterruptedRound, LearnerHungError, LearnerLostError, PartLostError, without_learner
from esper.distributed.facts import RunFacts
from esper.distributed.requests import training_round
from esper.distributed.rounds import Counts, RoundReport
from esper.distributed.run_dir import require_claim
from esper.distributed.runtime import Runtime
from esper.distributed.story import RunStory
from esper.distributed.supervise import Fault
from esper.leyline.rng import SeedTree
from esper.leyline.rollout import ActMode


def never() -> bool:
    """Nobody asks to stop."""
    return False


class Mirror(Protocol):
    """Keeps copies of a run's checkpoints."""

    def update(self, folder: CheckpointFolder) -> None:
        """Copy what is new, and forget what the folder has forgotten."""
        ...


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
    store: Mirror | None = None
    """Second place for checkpoints."""
    claim: Path | None = None
    """Names who may write to the run's folder; None where nobody else can."""
    should_stop: Callable[[], bool] = never
    """Asked while a lost learner is being replaced; the collector asks it between steps."""

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
            _advance(run)
        except InterruptedRound:
            return True
    return False


def _advance(run: Run) -> None:
    """Play a round and save it; without a learner in the end, go back."""
    try:
        report = play_round(run)
        run.story.round_finished(report)
        show(run.runtime, report)
        save(run, report.mean_utility, accuracy=report.mean_accuracy)
    except LearnerLostError as error:
        go_back(run, error)


def show(runtime: Runtime, report: RoundReport) -> None:
    """Set the gauges of a cluster's dashboard."""
    if runtime.dashboard is not None:
        num_faults = runtime.crew.num_faults if runtime.crew is not None else 0
        runtime.dashboard.round_finished(rounds=report.counts.rounds, env_steps_per_sec=report.env_steps_per_sec, num_faults=num_faults)


def play_round(run: Run) -> RoundReport:
    """One episode per environment, then one update."""
    started = time.perf_counter()
    groups = training_round(run.counts.rounds, run.config, run.seeds)
    outcomes = run.collector.play(groups, ActMode.TRAIN)
    group = group_id("train", LEARNED, run.counts.rounds)
    env_steps = run.counts.env_steps + sum(outcome.episode_length for outcome in outcomes)
    num_rollbacks = sum(outcome.outcome_type == "rolled_back" for outcome in outcomes)
    update = _ask_learner(run, "update", group, env_steps, num_rollbacks)
    run.counts.rounds += 1
    run.counts.episodes += len(outcomes)
    run.counts.env_steps = env_steps
    return RoundReport(Counts(**asdict(run.counts)), tuple(outcomes), update, time.perf_counter() - started)


def save(run: Run, utility: float, *, accuracy: float | None = None) -> None:
    """Write a checkpoint if one is due, and forget old ones.

    Args:
        run: The run, after a round.
        utility: Mean of the round.
        accuracy: Mean of the round in percent, for the record.

    Raises:
        RunDirBusyError: If another machine has taken the run's folder.
    """
    if run.claim is not None:
        require_claim(run.claim)
    rounds = run.counts.rounds
    if rounds % run.config.checkpoint.every_rounds and rounds < run.config.rollout.rounds:
        return
    if run.runtime.crew is not None:
        run.runtime.crew.look_at_store()
    run.runtime.emitter.settle()
    state = {**asdict(run.counts), "utility": utility, "avg_accuracy": accuracy, "story": run.story.to_json()}
    seq = _ask_learner(run, "save", run.checkpoints.path(rounds), state)
    if run.runtime.crew is not None:
        run.runtime.crew.learner_committed(seq)
    run.checkpoints.note_best(rounds, utility)
    run.checkpoints.forget_old()
    if run.store is not None:
        try:
            run.store.update(run.checkpoints)
        except CheckpointError as error:
            print(f"{error}; round {rounds} is safe in {run.checkpoints.root}, and is copied with the next one", file=sys.stderr)


def restore(run: Run, path: object) -> float | None:
    """Continue from a checkpoint; that it is the best so far may not have been noted before the run was killed.

    Returns:
        Mean accuracy of the round after which it was written; None if the checkpoint does not say.
    """
    state = _ask_learner(run, "load", path)
    run.counts.rounds, run.counts.episodes, run.counts.env_steps = state["rounds"], state["episodes"], state["env_steps"]
    run.story.load_json(state.get("story"))
    if path == run.checkpoints.path(run.counts.rounds):
        run.checkpoints.note_best(run.counts.rounds, state["utility"])
    accuracy: float | None = state.get("avg_accuracy")
    return accuracy


def go_back(run: Run, error: LearnerLostError) -> None:
    """Replace the learner that was lost, and go back to the last checkpoint; what came after it will be played again.

    Raises:
        RunFailedError: If learners were lost too often, or nobody can replace them.
        InterruptedRound: If the user asked to stop meanwhile.
    """
    crew = run.runtime.crew
    if crew is None:
        raise error
    while True:
        sound, _ = run.checkpoints.sound()
        rounds = sound[-1] if sound else 0
        fault = Fault.HUNG if isinstance(error, LearnerHungError) else Fault.DIED
        crew.replace_learner(fault, str(error), work=f"rounds after {rounds}", should_stop=run.should_stop)
        run.runtime.emitter.settle()
        crew.forget_after(rounds)
        run.counts.rounds = run.counts.episodes = run.counts.env_steps = 0
        run.story.load_json(None)
        try:
            if sound:
                restore(run, run.checkpoints.path(rounds))
            return
        except LearnerLostError as again:
            error = again


def _ask_learner(run: Run, method: str, *args: object) -> Any:
    executor, crew = run.runtime.executor, run.runtime.crew
    try:
        ref = executor.call(run.runtime.learner, method, *args)
        return executor.get(ref) if crew is None else crew.answer_of_learner(ref)
    except PartLostError as error:
        raise without_learner(error) from error
