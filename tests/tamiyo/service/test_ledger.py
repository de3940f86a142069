from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
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


def in_slot(index: int, stage: SeedStage, seed_id: str, **changes: object) -> SeedStateReport:
    return make_seed(index, stage, seed_id=seed_id, age_epochs=3, **changes)


def of_slots(epoch: int, *slot_ids: str, seeds: tuple[SeedStateReport, ...]) -> TrialReport:
    """A report in which only the slots named are seen, in this order."""
    report = make_report(seeds, epoch=epoch)
    return replace(report, slots=tuple(replace(s, slot_id=slot_id) for s, slot_id in zip(report.slots, slot_ids, strict=True)))


def test_a_command_follows_its_slot_and_seed_wherever_they_stand_in_a_report() -> None:
    ledger = CommandLedger(CONFIG)
    a, b = in_slot(0, SeedStage.TRAINING, "a"), in_slot(1, SeedStage.TRAINING, "b")
    before = of_slots(1, "A", "B", seeds=(a, b))
    ledger.observe("run", before)
    advance = replace(order("ADVANCE"), target_slot_id="B", target_seed_id="b")
    ledger.record("run", advance, before)
    only_b = of_slots(2, "B", seeds=(replace(b, stage=SeedStage.BLENDING),))
    assert [told.seed_id for told in ledger.observe("run", only_b)] == ["a"]
    assert ledger.pending == (advance,)
    elsewhere = of_slots(3, "A", "C", seeds=(a, replace(b, stage=SeedStage.BLENDING)))
    assert ledger.observe("run", elsewhere) == []
    (told,) = ledger.observe("run", of_slots(4, "B", "C", seeds=(a, replace(b, stage=SeedStage.BLENDING))))
    assert (told.command_id, told.outcome, told.seed_id) == (advance.command_id, FieldOutcome.NEUTRAL, "b")


def test_another_seed_in_the_slot_is_not_the_one_that_was_ordered_about() -> None:
    ledger = CommandLedger(CONFIG)
    ledger.observe("run", at(1, seed=TRAINING))
    advance = replace(order("ADVANCE"), target_seed_id="seed0")
    ledger.record("run", advance, at(1, seed=TRAINING))
    told = ledger.observe("run", at(2, seed=in_slot(0, SeedStage.BLENDING, "other")))
    assert [(r.outcome, r.notes) for r in told if r.command_id] == [(FieldOutcome.ABORTED, "its seed was pruned within the window")]


def test_the_next_report_decides_even_if_epochs_are_left_out() -> None:
    assert outcome("GERMINATE", [at(1), at(3)]) == (FieldOutcome.ABORTED, "not carried out: no seed appeared")


def play(ledger: CommandLedger, *reports: TrialReport) -> list[FieldReport]:
    return [told for report in reports for told in ledger.observe("run", report)]


def test_the_last_packet_once_more_tells_nothing_again() -> None:
    ledger = CommandLedger(CONFIG)
    fossil = seed(SeedStage.FOSSILIZED)
    last = at(12, 60.0, fossil, done=True)
    told = play(ledger, at(10, 60.0, fossil), at(11, 60.0, fossil), last)
    assert [report.seed_id for report in told] == ["seed0"]
    assert play(ledger, last, last, replace(last, epoch=13)) == []
    assert ledger.pending == ()
    again = play(ledger, at(0, 10.0), at(1, 12.0, fossil))
    assert [(report.seed_id, report.life.completed_epoch) for report in again if report.life] == [("seed0", 1)]


def test_runs_that_are_over_are_remembered_up_to_a_bound_and_push_no_other_out() -> None:
    ledger = CommandLedger(replace(CONFIG, kept_runs=2))
    ledger.observe("living", at(3))
    ledger.record("living", order("WAIT", slot=None), at(3))
    last = at(12, 60.0, seed(SeedStage.FOSSILIZED), done=True)
    told = [report for number in range(5) for report in ledger.observe(f"over{number}", last)]
    assert [report.training_run_id for report in told] == [f"over{number}" for number in range(5)]
    assert len(ledger.pending) == 1
    assert ledger.observe("over4", last) == []
    assert len(ledger.observe("over0", last)) == 1


def test_a_germination_that_came_to_nothing_is_credited_with_no_later_seed() -> None:
    ledger = CommandLedger(CONFIG)
    ledger.observe("run", at(0))
    ledger.record("run", order("GERMINATE"), at(0))
    (aborted,) = ledger.observe("run", at(1))
    assert aborted.outcome is FieldOutcome.ABORTED
    (life,) = play(ledger, at(4), at(5, seed=seed(SeedStage.GERMINATED, age=0)), at(6, seed=seed(SeedStage.FOSSILIZED)))
    assert life.life is not None
    assert (life.tamiyo_policy_version, life.life.commands_received) == ("", ())


def test_a_run_that_ends_tells_the_lives_that_it_leaves_undecided() -> None:
    ledger = CommandLedger(CONFIG)
    alive, last = at(11, 55.0, TRAINING), at(12, 60.0, seed(SeedStage.BLENDING), done=True)
    (told,) = play(ledger, alive, last)
    assert told.life is not None
    assert (told.outcome, told.life.final_stage, told.life.success) == (FieldOutcome.ABORTED, SeedStage.BLENDING, False)
    assert told.notes == "the run ended in BLENDING"
    assert told.life.epochs_per_stage == {SeedStage.TRAINING: 1, SeedStage.BLENDING: 1}
    assert play(ledger, last) == []


@pytest.mark.parametrize(("end", "why"), [("close", "the run was given up"), ("again", "the run began again")])
def test_a_run_that_is_lost_tells_the_lives_that_it_leaves_undecided(end: str, why: str) -> None:
    ledger = CommandLedger(CONFIG)
    play(ledger, at(5, seed=seed(SeedStage.FOSSILIZED)), at(6, seed=in_slot(0, SeedStage.TRAINING, "young")))
    (told,) = ledger.close("run") if end == "close" else ledger.observe("run", at(0))
    assert (told.seed_id, told.outcome, told.notes) == ("young", FieldOutcome.ABORTED, f"{why} in TRAINING")


def test_a_repeated_report_replaces_the_command_of_its_epoch() -> None:
    ledger = CommandLedger(CONFIG)
    youth = seed(SeedStage.GERMINATED, age=0)
    first, commands = order("WAIT", slot=0), [order("ADVANCE") for _ in range(50)]
    ledger.observe("run", at(2, seed=youth))
    ledger.record("run", first, at(2, seed=youth))
    told = []
    for command in commands:
        told += ledger.observe("run", at(3, seed=youth))
        ledger.record("run", command, at(3, seed=youth))
    assert ledger.pending == (first, commands[-1])
    assert [(report.command_id, report.outcome) for report in told] == [(c.command_id, FieldOutcome.ABORTED) for c in commands[:-1]]
    assert "took its place" in told[0].notes
    told = play(ledger, at(4, seed=TRAINING), at(5, seed=TRAINING), at(6, seed=seed(SeedStage.FOSSILIZED)))
    outcomes = {report.command_id: report for report in told}
    assert outcomes[first.command_id].follow_up_actions == ("ADVANCE",)
    assert outcomes[commands[-1].command_id].outcome is FieldOutcome.NEUTRAL
    life = outcomes[None].life
    assert life is not None
    assert life.epochs_per_stage == {SeedStage.GERMINATED: 2, SeedStage.TRAINING: 2, SeedStage.FOSSILIZED: 1}
    assert life.commands_received == (first.command_id, commands[-1].command_id)


def test_a_germination_that_was_ordered_twice_is_credited_to_the_second_order() -> None:
    ledger = CommandLedger(CONFIG)
    orders = [order("GERMINATE", version=version) for version in ("v1", "v2")]
    for command in orders:
        ledger.observe("run", at(1))
        ledger.record("run", command, at(1))
    told = play(ledger, at(2, seed=seed(SeedStage.GERMINATED, age=0)), at(3, seed=seed(SeedStage.FOSSILIZED)))
    assert [(r.tamiyo_policy_version, r.life.commands_received) for r in told if r.life] == [("v2", (orders[1].command_id,))]


def test_a_late_report_changes_nothing_and_its_command_is_aborted() -> None:
    ledger = CommandLedger(CONFIG)
    commands = [order("WAIT", slot=None) for _ in range(3)]
    for epoch, command in enumerate(commands, start=1):
        ledger.observe("run", at(epoch))
        ledger.record("run", command, at(epoch))
    late = order("GERMINATE")
    assert play(ledger, at(2)) == []
    ledger.record("run", late, at(2))
    assert play(ledger, at(2)) != []
    ledger.record("run", order("WAIT", slot=None), at(2))
    told = play(ledger, at(4, 60.0))
    assert {r.command_id: r.outcome for r in ledger.reports}[late.command_id] is FieldOutcome.ABORTED
    assert {r.command_id: r.outcome for r in told}[commands[0].command_id] is FieldOutcome.SUCCESS
    assert ledger.pending == tuple(commands[1:])
    assert any(r.notes == "its packet was late: epoch 2 after 3" for r in told)


def test_late_reports_that_go_on_are_a_run_that_was_set_back() -> None:
    ledger = CommandLedger(CONFIG)
    for epoch in (1, 7, 8):
        ledger.observe("run", at(epoch))
        ledger.record("run", order("WAIT", slot=None), at(epoch))
    assert play(ledger, at(5)) == []
    told = play(ledger, at(6))
    assert {report.notes for report in told} == {"the run began again"}
    assert ledger.pending == ()
    command = order("WAIT", slot=None)
    ledger.record("run", command, at(6))
    assert [r.command_id for r in play(ledger, at(7), at(8), at(9))] == [command.command_id]


def test_what_is_pending_is_bounded_whatever_comes() -> None:
    ledger = CommandLedger(CONFIG)
    rng = np.random.default_rng(0)
    given = set()
    for _ in range(500):
        report = at(int(rng.integers(0, 12)), seed=None if rng.random() < 0.5 else TRAINING)
        ledger.observe("run", report)
        command = order(str(rng.choice(["WAIT", "ADVANCE", "GERMINATE", "PRUNE"])))
        given.add(command.command_id)
        ledger.record("run", command, report)
        assert len(ledger.pending) <= CONFIG.window_epochs + 1
    ledger.close("run")
    told = [report.command_id for report in ledger.reports if report.command_id is not None]
    assert len(told) == len(set(told)) == len(given)
