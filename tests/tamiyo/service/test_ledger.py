from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from esper.leyline.alpha import AlphaMode
from esper.leyline.reports import FieldOutcome, FieldReport, SeedStateReport, TrialReport
from esper.leyline.schemas import AdaptationCommand, CommandType, SeedOperation
from esper.leyline.stages import SeedStage
from esper.tamiyo.service.config import TamiyoServiceConfig
from esper.tamiyo.service.ledger import CommandLedger
from tests.tamiyo.reports import make_report, make_seed

CONFIG = TamiyoServiceConfig(window_epochs=3, success_points=1.0, regression_points=2.0)
NUMBERS = count()


def order(op: str, slot: int | None = 0, version: str = "v1") -> AdaptationCommand:
    slot_id = None if slot is None else f"r0c{slot}"
    operation = SeedOperation(op, "conv_light" if op == "GERMINATE" else None)
    return AdaptationCommand(f"c{next(NUMBERS)}", CommandType.SEED, None, slot_id, operation, confidence=0.5, policy_version=version)


def at(epoch: int, accuracy: float = 50.0, seed: SeedStateReport | None = None, **changes: Any) -> TrialReport:
    return make_report((seed, None, None), epoch=epoch, val_accuracy=accuracy, **changes)


def seed(stage: SeedStage, age: int = 1, **changes: object) -> SeedStateReport:
    return make_seed(0, stage, age_epochs=age, **changes)


def outcome(op: str, reports: list[TrialReport]) -> tuple[FieldOutcome, str] | None:
    """What a command given on the first report comes to."""
    ledger = CommandLedger(CONFIG)
    ledger.observe("run", reports[0])
    command = order(op)
    ledger.record("run", command, reports[0])
    told = [told for report in reports[1:] for told in ledger.observe("run", report) if told.command_id == command.command_id]
    assert len(told) <= 1
    assert (len(told) == 0) == (command in ledger.pending)
    return (told[0].outcome, told[0].notes) if told else None


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [(51.0, FieldOutcome.SUCCESS), (50.9, FieldOutcome.NEUTRAL), (48.1, FieldOutcome.NEUTRAL), (48.0, FieldOutcome.REGRESSION)],
)
def test_a_command_is_judged_by_accuracy_at_the_end_of_its_window(accuracy: float, expected: FieldOutcome) -> None:
    reports = [at(3), at(4, 99.0), at(5, 1.0), at(6, accuracy), at(7, 99.0)]
    assert outcome("WAIT", reports) == (expected, "")
    assert outcome("WAIT", reports[:3]) is None


def test_a_run_that_ends_settles_what_is_open() -> None:
    assert outcome("WAIT", [at(3), at(4, 55.0, done=True)]) == (FieldOutcome.SUCCESS, "")


TRAINING = seed(SeedStage.TRAINING)


@pytest.mark.parametrize(
    ("op", "before", "after", "note"),
    [
        ("GERMINATE", None, None, "no seed appeared"),
        ("ADVANCE", TRAINING, TRAINING, "still TRAINING"),
        ("FOSSILIZE", seed(SeedStage.HOLDING), seed(SeedStage.HOLDING), "the seed is HOLDING"),
        ("PRUNE", TRAINING, TRAINING, "still there"),
        ("ADVANCE", TRAINING, seed(SeedStage.PRUNED), "pruned within the window"),
        ("SET_ALPHA_TARGET", seed(SeedStage.BLENDING), None, "pruned within the window"),
    ],
)
def test_what_is_not_carried_out_is_aborted(op: str, before: SeedStateReport | None, after: SeedStateReport | None, note: str) -> None:
    verdict = outcome(op, [at(3, seed=before), at(4, 99.0, seed=after)])
    assert verdict is not None
    assert verdict[0] is FieldOutcome.ABORTED
    assert note in verdict[1]


@pytest.mark.parametrize(
    ("op", "before", "after"),
    [
        ("GERMINATE", None, seed(SeedStage.GERMINATED)),
        ("ADVANCE", TRAINING, seed(SeedStage.BLENDING)),
        ("FOSSILIZE", seed(SeedStage.HOLDING), seed(SeedStage.FOSSILIZED)),
        ("PRUNE", TRAINING, seed(SeedStage.PRUNED)),
        ("PRUNE", TRAINING, None),
        ("PRUNE", seed(SeedStage.BLENDING), seed(SeedStage.BLENDING, alpha_mode=AlphaMode.DOWN)),
    ],
)
def test_what_is_carried_out_is_watched_on(op: str, before: SeedStateReport | None, after: SeedStateReport | None) -> None:
    reports = [at(3, seed=before), at(4, seed=after)]
    assert outcome(op, reports) is None
    assert outcome(op, [*reports, at(5, seed=after), at(6, 60.0, seed=after)]) == (FieldOutcome.SUCCESS, "")


def test_a_report_names_the_command_its_policy_and_what_followed() -> None:
    ledger = CommandLedger(CONFIG)
    first, second = order("GERMINATE", version="v1"), order("ADVANCE", version="v2")
    germinated = seed(SeedStage.GERMINATED)
    for report, command in ((at(3), first), (at(4, 51.0, germinated), second)):
        ledger.observe("run", report)
        ledger.record("run", command, report)
    assert ledger.pending == (first, second)
    ledger.observe("run", at(5, 53.0, TRAINING))
    told = ledger.observe("run", replace(at(6, 54.0, TRAINING), val_loss=1.0))
    assert [(r.command_id, r.tamiyo_policy_version, r.follow_up_actions) for r in told] == [(first.command_id, "v1", ("ADVANCE",))]
    assert (told[0].training_run_id, told[0].slot_id, told[0].seed_id, told[0].blueprint_id) == ("run", "r0c0", "seed0", "conv_light")
    assert told[0].observation_window_epochs == 3
    assert told[0].metrics["accuracy_delta"] == pytest.approx(4.0)
    assert told[0].metrics["loss_delta"] == pytest.approx(-0.2)
    assert ledger.reports == tuple(told)


def lives(reports: list[FieldReport]) -> list[FieldReport]:
    return [report for report in reports if report.life is not None]


def test_a_seed_that_is_kept_tells_its_life_once() -> None:
    ledger = CommandLedger(CONFIG)
    command = order("GERMINATE", version="v7")
    ledger.observe("run", at(0))
    ledger.record("run", command, at(0))
    stages = [SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.TRAINING, SeedStage.FOSSILIZED, SeedStage.FOSSILIZED]
    told = []
    for epoch, stage in enumerate(stages, start=1):
        told += lives(ledger.observe("run", at(epoch, 50.0 + epoch, seed(stage, age=epoch - 1))))
        if stage is SeedStage.TRAINING:
            ledger.record("run", order("WAIT", slot=None), at(epoch))
    assert len(told) == 1
    life = told[0].life
    assert life is not None
    assert (life.final_stage, life.success, life.germinated_epoch, life.completed_epoch) == (SeedStage.FOSSILIZED, True, 1, 4)
    assert life.epochs_per_stage == {SeedStage.GERMINATED: 1, SeedStage.TRAINING: 2, SeedStage.FOSSILIZED: 1}
    assert life.commands_received == (command.command_id,)
    assert (told[0].tamiyo_policy_version, told[0].outcome) == ("v7", FieldOutcome.SUCCESS)
    assert life.total_improvement == pytest.approx(54.0 - 50.0)


@pytest.mark.parametrize(("last", "reason"), [(seed(SeedStage.PRUNED), "pruned"), (None, "vanished in TRAINING")])
def test_a_seed_that_is_lost_says_why(last: SeedStateReport | None, reason: str) -> None:
    ledger = CommandLedger(CONFIG)
    ledger.observe("run", at(3, 50.0, TRAINING))
    (told,) = ledger.observe("run", at(4, 40.0, last))
    assert told.life is not None
    assert (told.life.final_stage, told.life.success, told.life.failure_reason) == (SeedStage.PRUNED, False, reason)
    assert told.outcome is FieldOutcome.REGRESSION
    assert ledger.observe("run", at(5, 40.0, last)) == []


def test_a_run_that_begins_again_aborts_what_was_open() -> None:
    ledger = CommandLedger(CONFIG)
    ledger.observe("run", at(8))
    ledger.record("run", order("WAIT", slot=None), at(8))
    (told,) = ledger.observe("run", at(0))
    assert (told.outcome, told.notes) == (FieldOutcome.ABORTED, "the run began again")
    assert ledger.pending == ()


def test_runs_are_kept_apart_and_silent_ones_given_up() -> None:
    ledger = CommandLedger(replace(CONFIG, kept_runs=2))
    for run in ("a", "b"):
        ledger.observe(run, at(3))
        ledger.record(run, order("WAIT", slot=None), at(3))
    assert [r.training_run_id for r in ledger.observe("b", at(6, 60.0))] == ["b"]
    (told,) = ledger.observe("c", at(3))
    assert (told.training_run_id, told.outcome, told.notes) == ("a", FieldOutcome.ABORTED, "the run fell silent")


def test_only_the_newest_reports_are_kept() -> None:
    ledger = CommandLedger(replace(CONFIG, kept_reports=2, window_epochs=1))
    for epoch in range(5):
        ledger.observe("run", at(epoch))
        ledger.record("run", order("WAIT", slot=None), at(epoch))
    assert len(ledger.reports) == 2
