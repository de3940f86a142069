"""The command ledger: every command until its outcome is known, and every seed until its life ends."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

from esper.leyline.actions import LifecycleOp
from esper.leyline.alpha import AlphaMode
from esper.leyline.reports import FieldOutcome, FieldReport, TrialReport
from esper.leyline.schemas import AdaptationCommand
from esper.leyline.stages import SeedStage, is_failure_stage
from esper.tamiyo.service.seed_lives import EndedLife, SeedLives

if TYPE_CHECKING:
    from esper.leyline.reports import SeedStateReport
    from esper.tamiyo.service.config import TamiyoServiceConfig


@dataclass(slots=True)
class _Entry:
    """A command that is being watched."""

    command: AdaptationCommand
    seed_id: str | None
    """Seed that it is about; None until a germination shows one."""
    before: TrialReport
    void: str = ""
    """Why it cannot be judged whatever comes; empty if it can."""
    is_fresh: bool = True
    """Whether no later report was seen yet."""
    follow_ups: dict[str, str] = field(default_factory=dict)
    """Command → operation."""

    @property
    def op(self) -> LifecycleOp:
        operation = self.command.seed_operation
        assert operation is not None
        return LifecycleOp[operation.operation]

    def seed_in(self, report: TrialReport) -> SeedStateReport | None:
        """Its seed, wherever that is now; before one is known, whatever stands in its slot."""
        if self.seed_id is None:
            return _seed_at(self.command.target_slot_id, report)
        return next((s.seed for s in report.slots if s.seed is not None and s.seed.seed_id == self.seed_id), None)


@dataclass(slots=True)
class _Run:
    """What is known of one training run."""

    first_epoch: int
    last: TrialReport
    """The newest report that was no late one."""
    open: list[_Entry] = field(default_factory=list)
    lives: SeedLives = field(default_factory=SeedLives)
    late_epoch: int | None = None
    """Epoch of the late report that came last, if none in time came after it."""

    def begins_again(self, epoch: int) -> bool:
        """Whether an epoch before the last one is another start, and not a packet that was long on its way."""
        return epoch in (0, self.first_epoch) or (self.late_epoch is not None and epoch > self.late_epoch)


class CommandLedger:
    """Judges commands by what was seen afterwards.

        for field_report in ledger.observe(run_id, report): ...    # first what earlier commands came to
        ledger.record(run_id, command, report)                     # then the next one

    A command is judged after `window_epochs`, or at the end of its run, by the change of validation accuracy: SUCCESS, REGRESSION,
    or NEUTRAL between. It is ABORTED if the next report shows that it was not carried out, if its seed is pruned within the window,
    or if its run is begun again or given up. The life of a seed that its run leaves undecided is ABORTED too.

    A report of the last epoch once more is a repetition: the command that is given on it takes the place of the one before, which is
    ABORTED, so that a run has at most one open command for every epoch of the window. A report of an earlier epoch is late: nothing
    is concluded from it, and the command that is given on it is ABORTED. But if the run's first epoch comes again, or epoch 0, or a
    second late report in a row that goes on from the first, then the run has begun again.
    """

    def __init__(self, config: TamiyoServiceConfig) -> None:
        self._config = config
        self._runs: dict[str, _Run] = {}
        self._reports: deque[FieldReport] = deque(maxlen=config.kept_reports)

    @property
    def reports(self) -> tuple[FieldReport, ...]:
        """The newest field reports, oldest first."""
        return tuple(self._reports)

    @property
    def pending(self) -> tuple[AdaptationCommand, ...]:
        """Commands without an outcome yet."""
        return tuple(entry.command for run in self._runs.values() for entry in run.open)

    def record(self, run_id: str, command: AdaptationCommand, report: TrialReport) -> None:
        """Remember a command that was decided on `report`."""
        run = self._runs.setdefault(run_id, _Run(report.epoch, report))
        slot_id = command.target_slot_id
        entry = _Entry(command, command.target_seed_id or _id_of(_seed_at(slot_id, report)), report)
        if report.epoch < run.last.epoch:
            entry.void = f"its packet was late: epoch {report.epoch} after {run.last.epoch}"
        elif slot_id is not None:
            for earlier in run.open:
                if earlier.command.target_slot_id == slot_id:
                    earlier.follow_ups[command.command_id] = entry.op.name
            if entry.op is LifecycleOp.GERMINATE:
                run.lives.germination_ordered(slot_id, command.policy_version, command.command_id)
            else:
                run.lives.command_given(slot_id, command.command_id)
        run.open.append(entry)

    def observe(self, run_id: str, report: TrialReport) -> list[FieldReport]:
        """Take a run's next report into account; returns the outcomes that it settles."""
        told: list[FieldReport] = []
        run = self._runs.get(run_id)
        if run is not None and report.epoch < run.last.epoch:
            if not run.begins_again(report.epoch):
                run.late_epoch = report.epoch
                return self._settle(run_id, run, [(e, (FieldOutcome.ABORTED, e.void) if e.void else None) for e in run.open])
            told += self.close(run_id, "the run began again")
            run = None
        if run is None:
            run = _Run(report.epoch, report)
        self._runs.pop(run_id, None)
        self._runs[run_id] = run
        self._withdraw_repeated(run, report.epoch)
        run.last, run.late_epoch = report, None
        told += self._forget_silent()
        told += self._keep([self._tell_life(run_id, ended) for ended in run.lives.observe(report)])
        told += self._settle(run_id, run, [(entry, self._judge(entry, report)) for entry in run.open])
        if report.done:
            told += self._keep([self._tell_life(run_id, left) for left in run.lives.close(report, "the run ended")])
        return told

    def close(self, run_id: str, why: str = "the run was given up") -> list[FieldReport]:
        """Stop watching a run; what is still open is ABORTED, and so are the lives of seeds that were neither kept nor pruned."""
        run = self._runs.pop(run_id, None)
        if run is None:
            return []
        told = self._settle(run_id, run, [(entry, (FieldOutcome.ABORTED, entry.void or why)) for entry in run.open])
        return told + self._keep([self._tell_life(run_id, left) for left in run.lives.close(run.last, why)])

    def _withdraw_repeated(self, run: _Run, epoch: int) -> None:
        """Make room for the command that a repeated report will get."""
        for entry in run.open:
            if entry.before.epoch == epoch and not entry.void:
                entry.void = "its epoch was told again, and another command took its place"
                run.lives.command_withdrawn(entry.command.command_id)
                for other in run.open:
                    other.follow_ups.pop(entry.command.command_id, None)

    def _settle(self, run_id: str, run: _Run, verdicts: list[tuple[_Entry, tuple[FieldOutcome, str] | None]]) -> list[FieldReport]:
        """Tell what came to an outcome, and keep the rest open."""
        run.open = [entry for entry, verdict in verdicts if verdict is None]
        settled = [(entry, verdict) for entry, verdict in verdicts if verdict is not None]
        for entry, (outcome, _) in settled:
            if outcome is FieldOutcome.ABORTED:
                run.lives.order_failed(entry.command.command_id)
        return self._keep([self._tell(run_id, entry, run.last, verdict) for entry, verdict in settled])

    def _forget_silent(self) -> list[FieldReport]:
        """Give up what was not heard of for longest; of runs that are over, as many are remembered as are watched."""
        told: list[FieldReport] = []
        for is_over in (False, True):
            runs = [run_id for run_id, run in self._runs.items() if run.last.done is is_over]
            for run_id in runs[: max(len(runs) - self._config.kept_runs, 0)]:
                told += self.close(run_id, "the run fell silent")
        return told

    def _judge(self, entry: _Entry, report: TrialReport) -> tuple[FieldOutcome, str] | None:
        """Outcome and a note; None while it is open."""
        is_first, entry.is_fresh = entry.is_fresh, False
        trouble = entry.void or _trouble(entry, report, is_first=is_first)
        if trouble:
            return FieldOutcome.ABORTED, trouble
        entry.seed_id = entry.seed_id or _id_of(entry.seed_in(report))
        if report.epoch - entry.before.epoch < self._config.window_epochs and not report.done:
            return None
        gained = report.val_accuracy - entry.before.val_accuracy
        return self._outcome(gained, is_success=gained >= self._config.success_points), ""

    def _outcome(self, gained: float, *, is_success: bool) -> FieldOutcome:
        """What a change of validation accuracy, in points, came to; a regression is never a success."""
        if gained <= -self._config.regression_points:
            return FieldOutcome.REGRESSION
        return FieldOutcome.SUCCESS if is_success else FieldOutcome.NEUTRAL

    def _tell(self, run_id: str, entry: _Entry, report: TrialReport, verdict: tuple[FieldOutcome, str]) -> FieldReport:
        outcome, note = verdict
        command, before, operation = entry.command, entry.before, entry.command.seed_operation
        return FieldReport(
            report_id=str(uuid4()),
            outcome=outcome,
            tamiyo_policy_version=command.policy_version,
            observation_window_epochs=report.epoch - before.epoch,
            metrics=_measured(
                accuracy_before=before.val_accuracy,
                accuracy_after=report.val_accuracy,
                accuracy_delta=report.val_accuracy - before.val_accuracy,
                loss_delta=report.val_loss - before.val_loss,
                confidence=command.confidence,
            ),
            command_id=command.command_id,
            training_run_id=run_id,
            seed_id=entry.seed_id,
            slot_id=command.target_slot_id,
            blueprint_id=operation.blueprint_id if operation is not None else None,
            follow_up_actions=tuple(entry.follow_ups.values()),
            notes=note,
        )

    def _tell_life(self, run_id: str, ended: EndedLife) -> FieldReport:
        life = ended.life
        gained = life.total_improvement
        return FieldReport(
            report_id=str(uuid4()),
            outcome=FieldOutcome.ABORTED if ended.is_undecided else self._outcome(gained, is_success=life.success),
            tamiyo_policy_version=ended.policy_version,
            observation_window_epochs=life.completed_epoch - life.germinated_epoch,
            metrics=_measured(
                accuracy_at_germination=life.accuracy_at_germination,
                accuracy_at_completion=life.accuracy_at_completion,
                best_accuracy=life.best_accuracy,
                total_improvement=gained,
            ),
            training_run_id=run_id,
            seed_id=ended.seed_id,
            slot_id=ended.slot_id,
            blueprint_id=ended.blueprint_id,
            notes=life.failure_reason or "",
            life=life,
        )

    def _keep(self, reports: list[FieldReport]) -> list[FieldReport]:
        self._reports.extend(reports)
        return reports


def _trouble(entry: _Entry, report: TrialReport, *, is_first: bool) -> str:
    """Why a command cannot be judged; empty if it can."""
    if entry.op is LifecycleOp.WAIT:
        return ""
    seed, before = entry.seed_in(report), entry.seed_in(entry.before)
    is_gone = seed is None or is_failure_stage(seed.stage)
    if entry.op is LifecycleOp.PRUNE:
        is_fading = seed is not None and (seed.alpha_mode is AlphaMode.DOWN or seed.alpha_target == 0.0)
        return "not carried out: the seed is still there" if is_first and not (is_gone or is_fading) else ""
    if is_gone:
        missing = is_first and entry.op is LifecycleOp.GERMINATE and seed is None
        return "not carried out: no seed appeared" if missing else "its seed was pruned within the window"
    assert seed is not None
    if entry.op is LifecycleOp.FOSSILIZE and is_first and seed.stage is not SeedStage.FOSSILIZED:
        return f"not carried out: the seed is {seed.stage.name}"
    if entry.op is LifecycleOp.ADVANCE and is_first and before is not None and seed.stage is before.stage:
        return f"not carried out: the seed is still {seed.stage.name}"
    return ""


def _measured(**metrics: float) -> dict[str, float]:
    """What is a number; the rest was not measured."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _id_of(seed: SeedStateReport | None) -> str | None:
    return None if seed is None else seed.seed_id


def _seed_at(slot_id: str | None, report: TrialReport) -> SeedStateReport | None:
    return next((slot.seed for slot in report.slots if slot.slot_id == slot_id), None)
