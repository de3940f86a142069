"""One trial: a host that trains for a fixed number of epochs while decisions grow it. `TrialBatch` steps K of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from esper.kasmina.gradients import gradient_flow
from esper.kasmina.lifecycle import IllegalActionError
from esper.kasmina.surgery import GrowthTransaction
from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.layer_ops import BlueprintError
from esper.leyline.masks import explain_illegal
from esper.leyline.reports import ClosedGate, Counterfactuals, GradientFlow, StageTransition, TrialReport
from esper.leyline.rng import SeedTree
from esper.leyline.schemas import GateLevel, GovernorVerdict
from esper.leyline.stages import SeedStage
from esper.tolaria.counterfactual import leave_one_out, plan_configurations, solo
from esper.tolaria.engine.base import Call, EpochResult, Evaluate, Evaluation, OneByOne, Probe, TrainEpoch
from esper.tolaria.history import SignalHistory
from esper.tolaria.lockstep import Turn, take_turns
from esper.tolaria.measure import closed_gates, layer_reports, optimizer_state, slot_reports, timings
from esper.tolaria.tasks.base import Context, Split

if TYPE_CHECKING:
    from esper.kasmina.grad_probe import HostProbe
    from esper.kasmina.model import MorphogeneticModel
    from esper.kasmina.snapshot import Snapshot
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


@dataclass(slots=True)
class _Epoch:
    """What is known of an epoch so far."""

    number: int
    evaluation: Evaluation | None = None
    result: EpochResult | None = None
    verdict: GovernorVerdict | None = None
    counterfactuals: Counterfactuals | None = None
    """None also after a rollback: the network that was measured is gone."""
    transitions: tuple[StageTransition, ...] = ()
    flow: GradientFlow | None = None

    @property
    def is_rolled_back(self) -> bool:
        """Whether the governor gave the trial up."""
        return self.verdict is not None and self.verdict.panic is not None


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

    def require_legal(self, action: FactoredAction) -> None:
        """Refuse an action.

        Raises:
            IllegalActionError: If the last report's masks forbid it.
        """
        reason = explain_illegal(action, self.report.masks)
        if reason is not None:
            error = IllegalActionError(action, reason)
            error.add_note(self.whereabouts)
            raise error

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
        epoch = _Epoch(0)
        epoch.evaluation = yield Evaluate("val", ((),))
        self._snapshot = self._model.snapshot()
        return (yield from self._finish(epoch))

    def turn(self, action: FactoredAction) -> Turn:
        """What `step` does, as a turn. Where a blueprint fails, the trial is rolled back and ends."""
        before = self.report
        if before.done:
            raise RuntimeError(f"the episode of env {before.env_id} ended at epoch {before.epoch}")
        epoch = _Epoch(before.epoch + 1)
        try:
            epoch.transitions = self._apply(action, before.val_accuracy)
            yield from self._train(epoch)
            yield from self._validate(epoch)
            return (yield from self._finish(epoch))
        except BlueprintError as error:
            if epoch.is_rolled_back:
                raise
            epoch.verdict = self._governor.condemn(str(error), loss=epoch.result.loss if epoch.result else None)
        yield from self._roll_back(epoch)
        return (yield from self._finish(epoch))

    def _train(self, epoch: _Epoch) -> Generator[Call, Any, None]:
        """Train for an epoch, and note what it was like."""
        index = epoch.number - 1
        result: EpochResult = yield TrainEpoch(index, is_timed=is_due(index, self._measuring.timing_epochs))
        epoch.result = result
        epoch.flow = self._gradient_flow(result) if is_due(index, self._measuring.gradient_flow_epochs) else None
        self._history.record_training(result.loss, result.accuracy, result.num_batches)

    def _validate(self, epoch: _Epoch) -> Generator[Call, Any, None]:
        """Evaluate what was trained, and let the governor say whether it goes on."""
        assert epoch.result is not None
        is_last = epoch.number == self._max_epochs
        fossils = self._model.fossil_slots()
        live = tuple(slot for slot in self._model.live_slots() if slot not in fossils)
        configurations = plan_configurations(live, fossils, is_last=is_last, sample=self._measuring.attribution)
        evaluation: Evaluation = yield Evaluate("val", configurations)
        table = Counterfactuals(configurations, evaluation.accuracies)
        epoch.verdict = self._governor.judge(epoch.result.loss, evaluation.losses[0])
        if epoch.is_rolled_back:
            yield from self._roll_back(epoch)
            return
        epoch.evaluation, epoch.counterfactuals = evaluation, table
        epoch.transitions += self._tick(table, live, fossils)
        if epoch.verdict.is_healthy:
            self._snapshot = self._model.snapshot()

    def _apply(self, action: FactoredAction, val_accuracy: float) -> tuple[StageTransition, ...]:
        if action.op is LifecycleOp.WAIT:
            return ()
        with GrowthTransaction(self._model, self._engine.optimizer, keeps_numbers=True):
            transitions = self._model.apply(action, val_accuracy=val_accuracy)
        if any(transition.to_stage is SeedStage.FOSSILIZED for transition in transitions):
            self._protect_fossils()
        return transitions

    def _gradient_flow(self, result: EpochResult) -> GradientFlow | None:
        """Gradients of the epoch's last step; where they were clipped, as they were before."""
        limit, clipped = self._engine.config.max_grad_norm, result.clipped
        if limit is None or clipped is None:
            return gradient_flow(self._model.named_parameters())
        heard = max(1.0, clipped.heard / limit)
        apart = {f"slots.{slot}.": max(1.0, norm / limit) for slot, norm in clipped.incubating}

        def scale_of(layer: str) -> float:
            return next((scale for start, scale in apart.items() if layer.startswith(start)), heard)

        return gradient_flow(self._model.named_parameters(), scale_of)

    def _newly_closed_gates(self) -> tuple[ClosedGate, ...]:
        found = closed_gates(self._model.seed_reports(), self._model.config)
        verdicts = {closed.seed_id: (closed.gate.gate, closed.gate.checks_failed) for closed in found}
        news = tuple(closed for closed in found if self._closed.get(closed.seed_id) != verdicts[closed.seed_id])
        self._closed = verdicts
        return news

    def _protect_fossils(self) -> None:
        """Remember a new fossil's weights before it trains on, so that a rollback finds them whole."""
        assert self._snapshot is not None
        self._snapshot = self._model.with_fossils(self._snapshot)

    def _tick(self, table: Counterfactuals, live: Sequence[int], fossils: Sequence[int]) -> tuple[StageTransition, ...]:
        with GrowthTransaction(self._model, self._engine.optimizer, keeps_numbers=True):
            return self._model.tick(
                val_accuracy=table.accuracies[0],
                contributions=leave_one_out(table),
                solo=solo(table, live, fossils),
            )

    def _roll_back(self, epoch: _Epoch) -> Generator[Call, Any, None]:
        """Return to the last healthy host and fossils, without the live seeds and without optimizer momentum."""
        assert self._snapshot is not None
        with GrowthTransaction(self._model, self._engine.optimizer):
            epoch.transitions += self._model.prune_all("governor")
            self._model.restore(self._snapshot)
        self._engine.optimizer.state.clear()
        epoch.counterfactuals = None
        epoch.evaluation = yield from self._ask(epoch, Evaluate("val", (self._model.fossil_slots(),)))

    def _ask(self, epoch: _Epoch, call: Call) -> Generator[Call, Any, Any]:
        """The engine's answer; after a rollback a fossil that fails is silenced, and the engine asked again."""
        while True:
            try:
                return (yield call)
            except BlueprintError as error:
                if not epoch.is_rolled_back or not self._model.silence(error.slot_id):
                    raise
                assert epoch.verdict is not None
                told = f"{epoch.verdict.failure or error}; the permanent seed in {error.slot_id} is silent since"
                epoch.verdict = replace(epoch.verdict, failure=told)

    def _finish(self, epoch: _Epoch) -> Turn:
        """Measure what is left to measure, and report."""
        measured: HostProbe = yield from self._ask(epoch, Probe())
        done = epoch.is_rolled_back or epoch.number == self._max_epochs
        test: Evaluation | None = None
        if done:
            test = yield from self._ask(epoch, Evaluate("test", (self._model.fossil_slots(),)))
        assert epoch.evaluation is not None
        self._history.record_validation(epoch.evaluation.losses[0], epoch.evaluation.accuracies[0])
        self._report = self._make_report(epoch, measured, epoch.evaluation, test=test)
        return self._report

    def _make_report(self, epoch: _Epoch, measured: HostProbe, evaluation: Evaluation, *, test: Evaluation | None) -> TrialReport:
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
            timings=timings(epoch.result, evaluation, test),
            done=test is not None,
            test_accuracy=test.accuracies[0] if test else None,
            gradient_flow=epoch.flow,
            closed_gates=self._newly_closed_gates(),
            optimizer=optimizer_state(self._engine.optimizer),
        )


def is_due(epoch: int, every: int) -> bool:
    """Whether `epoch` is the first, or a whole number of periods after it; never where the period is 0."""
    return every > 0 and epoch % every == 0


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
        self._error = ""
        """What broke a turn off, and left trials in the middle of an epoch."""

    @property
    def trials(self) -> Sequence[Trial]:
        """The trials being played, in the order of their requests."""
        return self._trials

    def start(self, requests: Sequence[EpisodeRequest]) -> list[TrialReport]:
        """Begin one episode per request."""
        self._trials = [self._make_trial(request) for request in requests]
        self._play({trial: trial.opening() for trial in self._trials})
        return [trial.report for trial in self._trials]

    def step(self, actions: Sequence[FactoredAction]) -> list[TrialReport]:
        """Execute one decision per trial; decisions for trials that ended are ignored.

        Raises:
            ValueError: If there are not as many actions as trials.
            IllegalActionError: If a trial's masks forbid its action; no trial has taken a step then.
            RuntimeError: If an error broke off the last step, or the start.
        """
        if self._error:
            raise RuntimeError(f"an error broke these episodes off, start() others: {self._error}")
        if len(actions) != len(self._trials):
            raise ValueError(f"{len(actions)} actions for {len(self._trials)} trials")
        running = [(trial, action) for trial, action in zip(self._trials, actions, strict=True) if not trial.report.done]
        for trial, action in running:
            trial.require_legal(action)
        self._play({trial: trial.turn(action) for trial, action in running})
        return [trial.report for trial in self._trials]

    def _play(self, turns: Mapping[Trial, Turn]) -> None:
        self._error = "interrupted"
        try:
            take_turns(turns, self._trainer)
        except Exception as error:
            self._error = repr(error)
            raise
        self._error = ""
