"""One trial: a host that trains for a fixed number of epochs while decisions grow it. `TrialBatch` steps K of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.kasmina.gates import GATE_OF_STAGE, evaluate_gate
from esper.kasmina.gradients import gradient_flow
from esper.kasmina.snapshot import Snapshot
from esper.kasmina.surgery import GrowthTransaction
from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.reports import ClosedGate, Counterfactuals, EpochTimings, GradientFlow, StageTransition, TrialReport
from esper.leyline.rng import SeedTree
from esper.leyline.schemas import GateLevel, GovernorVerdict
from esper.leyline.stages import SeedStage
from esper.tolaria.counterfactual import leave_one_out, plan_configurations, solo
from esper.tolaria.engine.base import EpochResult, Evaluate, Evaluation, OneByOne, Probe, TrainEpoch
from esper.tolaria.history import SignalHistory
from esper.tolaria.lockstep import Turn, take_turns
from esper.tolaria.measure import layer_reports, optimizer_state, slot_reports
from esper.tolaria.tasks.base import Context, Split

if TYPE_CHECKING:
    from esper.kasmina.config import GrowthConfig
    from esper.kasmina.grad_probe import HostProbe
    from esper.kasmina.model import MorphogeneticModel
    from esper.leyline.reports import SeedStateReport
    from esper.tolaria.engine.base import Engine, Trainer
    from esper.tolaria.governor import TolariaGovernor


@dataclass(frozen=True, slots=True)
class EpisodeRequest:
    """Which episode to play."""

    env_id: int
    episode_idx: int
    split: Split
    seeds: SeedTree
    """Source of everything random in the episode but the policy's sampling."""
    context: Context | None = None
    """None draws one from the split."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """What is measured for the record. Nothing of it moves a decision, a reward or a weight."""

    timing_epochs: int = 0
    """Host epochs from one timing of the parts of training steps to the next, from the first; 0 never."""
    gradient_flow_epochs: int = 0
    """The same for the gradient of every layer."""
    attribution: Callable[[tuple[int, ...]], Sequence[tuple[int, ...]]] | None = None
    """Sets of slots to evaluate in the last epoch for seeds too many to try every subset of."""


@dataclass(frozen=True, slots=True)
class _Epoch:
    """What is known at the end of an epoch."""

    number: int
    evaluation: Evaluation
    result: EpochResult | None = None
    verdict: GovernorVerdict | None = None
    counterfactuals: Counterfactuals | None = None
    """None also after a rollback: the network that was measured is gone."""
    transitions: tuple[StageTransition, ...] = ()
    flow: GradientFlow | None = None


class Trial:
    """Plays one episode.

        report = trial.reset()
        while not report.done:
            report = trial.step(decide(report))

    Several trials move together in a `TrialBatch`, which lets one trainer answer the calls of all their turns.
    """

    def __init__(
        self,
        request: EpisodeRequest,
        context: Context,
        engine: Engine,
        governor: TolariaGovernor,
        *,
        max_epochs: int,
        measuring: Measuring | None = None,
    ) -> None:
        self.request = request
        self.context = context
        self._engine = engine
        self._model = engine.model
        self._governor = governor
        self._max_epochs = max_epochs
        self._measuring = measuring or Measuring()
        self._closed: dict[str, tuple[GateLevel, tuple[str, ...]]] = {}
        self._history = SignalHistory()
        self._snapshot: Snapshot | None = None
        self._report: TrialReport | None = None

    @property
    def engine(self) -> Engine:
        """What trains the model."""
        return self._engine

    @property
    def model(self) -> MorphogeneticModel:
        """The model that grows."""
        return self._model

    @property
    def whereabouts(self) -> str:
        """Env, episode, context and epoch, for messages."""
        request, epoch = self.request, self._report.epoch if self._report else 0
        return f"in env {request.env_id}, episode {request.episode_idx} ({self.context.name}), after epoch {epoch}"

    @property
    def report(self) -> TrialReport:
        """The latest report.

        Raises:
            RuntimeError: If the trial was not reset yet.
        """
        if self._report is None:
            raise RuntimeError("reset() the trial before asking for its report")
        return self._report

    def reset(self) -> TrialReport:
        """Measure the untrained host; the first decision may rest on it.

        Raises:
            RuntimeError: If the episode has begun; another one needs another trial.
        """
        return take_turns({self: self.opening()}, OneByOne())[self]

    def step(self, action: FactoredAction) -> TrialReport:
        """Execute a decision, train one epoch, and report.

        Raises:
            IllegalActionError: If the last report's masks forbid the action.
            RuntimeError: If the episode is over.
        """
        return take_turns({self: self.turn(action)}, OneByOne())[self]

    def opening(self) -> Turn:
        """What `reset` does, as a turn."""
        if self._report is not None:
            raise RuntimeError(f"the episode of env {self.request.env_id} has begun; make another trial to play again")
        evaluation: Evaluation = yield Evaluate("val", ((),))
        self._snapshot = self._model.snapshot()
        self._history.record_validation(evaluation.losses[0], evaluation.accuracies[0])
        return (yield from self._finish(_Epoch(0, evaluation)))

    def turn(self, action: FactoredAction) -> Turn:
        """What `step` does, as a turn."""
        before = self.report
        if before.done:
            raise RuntimeError(f"the episode of env {before.env_id} ended at epoch {before.epoch}")
        transitions = self._apply(action, before.val_accuracy)
        result: EpochResult = yield TrainEpoch(before.epoch, is_timed=is_due(before.epoch, self._measuring.timing_epochs))
        flow = self._gradient_flow(result) if is_due(before.epoch, self._measuring.gradient_flow_epochs) else None
        self._history.record_training(result.loss, result.accuracy, result.num_batches)
        is_last = before.epoch + 1 == self._max_epochs
        fossils = self._model.fossil_slots()
        live = tuple(slot for slot in self._model.live_slots() if slot not in fossils)
        configurations = plan_configurations(live, fossils, is_last=is_last, sample=self._measuring.attribution)
        evaluation: Evaluation = yield Evaluate("val", configurations)
        table = Counterfactuals(configurations, evaluation.accuracies)
        verdict = self._governor.judge(result.loss, evaluation.losses[0])
        if verdict.panic is not None:
            transitions += self._roll_back()
            evaluation = yield Evaluate("val", (self._model.fossil_slots(),))
        else:
            transitions += self._tick(table, live, fossils)
            if verdict.is_healthy:
                self._snapshot = self._model.snapshot()
        self._history.record_validation(evaluation.losses[0], evaluation.accuracies[0])
        table_of_kept = table if verdict.panic is None else None
        epoch = _Epoch(before.epoch + 1, evaluation, result, verdict, table_of_kept, transitions, flow)
        return (yield from self._finish(epoch))

    def _apply(self, action: FactoredAction, val_accuracy: float) -> tuple[StageTransition, ...]:
        if action.op is LifecycleOp.WAIT:
            return ()
        with GrowthTransaction(self._model, self._engine.optimizer):
            transitions = self._model.apply(action, val_accuracy=val_accuracy)
        if any(transition.to_stage is SeedStage.FOSSILIZED for transition in transitions):
            self._protect_fossils()
        return transitions

    def _gradient_flow(self, result: EpochResult) -> GradientFlow | None:
        """Gradients of the epoch's last step; where they were clipped, as they were before."""
        limit, norm = self._engine.config.max_grad_norm, result.gradient_norm
        scale = 1.0 if limit is None or norm is None else max(1.0, norm / limit)
        return gradient_flow(self._model.named_parameters(), scale=scale)

    def _newly_closed_gates(self) -> tuple[ClosedGate, ...]:
        found = closed_gates(self._model.seed_reports(), self._model.config)
        verdicts = {closed.seed_id: (closed.gate.gate, closed.gate.checks_failed) for closed in found}
        news = tuple(closed for closed in found if self._closed.get(closed.seed_id) != verdicts[closed.seed_id])
        self._closed = verdicts
        return news

    def _protect_fossils(self) -> None:
        """Remember a new fossil's weights before it trains on, so that a rollback finds them whole."""
        assert self._snapshot is not None
        now = self._model.snapshot()
        self._snapshot = Snapshot(self._snapshot.host, {**now.fossils, **self._snapshot.fossils})

    def _tick(self, table: Counterfactuals, live: Sequence[int], fossils: Sequence[int]) -> tuple[StageTransition, ...]:
        with GrowthTransaction(self._model, self._engine.optimizer):
            return self._model.tick(
                val_accuracy=table.accuracies[0],
                contributions=leave_one_out(table),
                solo=solo(table, live, fossils),
            )

    def _roll_back(self) -> tuple[StageTransition, ...]:
        """Return to the last healthy host and fossils, without the live seeds and without optimizer momentum."""
        assert self._snapshot is not None
        with GrowthTransaction(self._model, self._engine.optimizer):
            transitions = self._model.prune_all("governor")
            self._model.restore(self._snapshot)
        self._engine.optimizer.state.clear()
        return transitions

    def _finish(self, epoch: _Epoch) -> Turn:
        """Measure what is left to measure, and report."""
        rolled_back = epoch.verdict is not None and epoch.verdict.panic is not None
        done = rolled_back or epoch.number == self._max_epochs
        measured: HostProbe = yield Probe()
        test: Evaluation | None = None
        if done:
            test = yield Evaluate("test", (self._model.fossil_slots(),))
        self._report = self._make_report(epoch, measured, done=done, test=test)
        return self._report

    def _make_report(self, epoch: _Epoch, measured: HostProbe, *, done: bool, test: Evaluation | None) -> TrialReport:
        model, result = self._model, epoch.result
        val_accuracy, val_loss = self._history.last_validation
        slots = slot_reports(model, measured)
        return TrialReport(
            env_id=self.request.env_id,
            episode_idx=self.request.episode_idx,
            epoch=epoch.number,
            max_epochs=self._max_epochs,
            signals=self._history.signals(epoch.number, slots),
            train_loss=result.loss if result else None,
            train_accuracy=result.accuracy if result else None,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            committed_accuracy=epoch.counterfactuals.accuracy_of(model.fossil_slots()) if epoch.counterfactuals else val_accuracy,
            host_params=model.num_host_parameters,
            seed_params=model.num_seed_parameters,
            fossil_params=model.num_fossil_parameters,
            learning_rate=self._engine.optimizer.param_groups[0]["lr"],
            gradient_norm=result.gradient_norm if result else None,
            layers=layer_reports(model, measured),
            slots=slots,
            masks=model.masks(),
            transitions=epoch.transitions,
            counterfactuals=epoch.counterfactuals,
            verdict=epoch.verdict,
            timings=_timings(epoch, test),
            done=done,
            test_accuracy=test.accuracies[0] if test else None,
            gradient_flow=epoch.flow,
            closed_gates=self._newly_closed_gates(),
            optimizer=optimizer_state(self._engine.optimizer),
        )


def is_due(epoch: int, every: int) -> bool:
    """Whether `epoch` is the first, or a whole number of periods after it; never where the period is 0."""
    return every > 0 and epoch % every == 0


def closed_gates(seeds: Sequence[SeedStateReport | None], config: GrowthConfig) -> tuple[ClosedGate, ...]:
    """Gates that keep seeds in their stages, in slot order."""
    asked = [seed for seed in seeds if seed is not None and seed.stage in GATE_OF_STAGE]
    results = [(seed, evaluate_gate(GATE_OF_STAGE[seed.stage], seed, config)) for seed in asked]
    return tuple(ClosedGate(seed.slot_id, seed.seed_id, result) for seed, result in results if not result.passed)


def _timings(epoch: _Epoch, test: Evaluation | None) -> EpochTimings:
    result = epoch.result
    steps = result.step_times if result else None
    return EpochTimings(
        host_epoch_time_ms=1e3 * result.wall_sec if result else None,
        evaluation_time_ms=1e3 * (epoch.evaluation.wall_sec + (test.wall_sec if test else 0.0)),
        forward_time_ms=1e3 * steps.forward_sec if steps else None,
        backward_time_ms=1e3 * steps.backward_sec if steps else None,
        optimizer_step_time_ms=1e3 * steps.optimizer_sec if steps else None,
        data_transfer_time_ms=1e3 * steps.transfer_sec if steps else None,
    )


class TrialBatch:
    """K trials in lockstep; one that ended early keeps its last report until the others end.

        reports = trials.start(requests)
        while not all(r.done for r in reports):
            reports = trials.step(actions)

    Args:
        make_trial: Makes a trial of a request.
        trainer: Answers what the trials ask of their engines, for all of them at once.
    """

    def __init__(self, make_trial: Callable[[EpisodeRequest], Trial], trainer: Trainer) -> None:
        self._make_trial = make_trial
        self._trainer = trainer
        self._trials: list[Trial] = []

    @property
    def trials(self) -> Sequence[Trial]:
        """The trials being played, in the order of their requests."""
        return self._trials

    def start(self, requests: Sequence[EpisodeRequest]) -> list[TrialReport]:
        """Begin one episode per request."""
        self._trials = [self._make_trial(request) for request in requests]
        take_turns({trial: trial.opening() for trial in self._trials}, self._trainer)
        return [trial.report for trial in self._trials]

    def step(self, actions: Sequence[FactoredAction]) -> list[TrialReport]:
        """Execute one decision per trial; decisions for trials that ended are ignored.

        Raises:
            ValueError: If there are not as many actions as trials.
        """
        if len(actions) != len(self._trials):
            raise ValueError(f"{len(actions)} actions for {len(self._trials)} trials")
        turns = {trial: trial.turn(action) for trial, action in zip(self._trials, actions, strict=True) if not trial.report.done}
        take_turns(turns, self._trainer)
        return [trial.report for trial in self._trials]
