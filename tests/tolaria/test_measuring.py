"""What trials measure for the record: at its cadence, and without moving anything else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.stages import SeedStage
from esper.tolaria import EngineConfig, GovernorConfig, SequentialEngine, TolariaGovernor, Trial
from esper.tolaria.measure import closed_gates
from esper.tolaria.trial import Measuring, is_due
from tests.simic.reports import make_seed
from tests.tolaria.trials import act, make_trial, reports_agree

if TYPE_CHECKING:
    from esper.leyline.reports import TrialReport


def make(measuring: Measuring | None = None, engine: EngineConfig | None = None, **growth: Any) -> Trial:
    plain = make_trial(max_epochs=6, **growth)
    used = plain.engine
    if engine is not None:
        used = SequentialEngine(plain.model, used.dataset, engine, plan=used.plan, seeds=used.seeds)
    judge = TolariaGovernor(GovernorConfig(), used.dataset.num_classes)
    return Trial(plain.request, plain.context, used, judge, max_epochs=6, measuring=measuring)


def play(trial: Trial) -> list[TrialReport]:
    reports = [trial.reset()]
    while not reports[-1].done:
        first = reports[-1].epoch == 0
        reports.append(trial.step(act(LifecycleOp.GERMINATE) if first else FactoredAction()))
    return reports


@pytest.mark.parametrize(("every", "due"), [(0, []), (1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4]), (5, [0, 5])])
def test_a_period_begins_with_the_first_epoch(every: int, due: list[int]) -> None:
    assert [epoch for epoch in range(6) if is_due(epoch, every)] == due


def test_times_and_gradients_are_measured_at_their_cadence_alone() -> None:
    reports = play(make(Measuring(timing_epochs=2, gradient_flow_epochs=3)))[1:]
    assert [report.epoch for report in reports if report.timings.forward_time_ms is not None] == [1, 3, 5]
    assert [report.epoch for report in reports if report.gradient_flow is not None] == [1, 4]
    timed = reports[0].timings
    parts = (timed.forward_time_ms, timed.backward_time_ms, timed.optimizer_step_time_ms, timed.data_transfer_time_ms)
    assert all(part is not None and part > 0.0 for part in parts)
    assert timed.host_epoch_time_ms is not None
    assert sum(part for part in parts if part is not None) < timed.host_epoch_time_ms


def test_measuring_moves_nothing() -> None:
    def sample(slots: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return ((0,),)

    plain, measured = play(make()), play(make(Measuring(1, 1, sample)))
    assert all(reports_agree(a, replace(b, gradient_flow=a.gradient_flow)) for a, b in zip(plain, measured, strict=True))


@pytest.mark.parametrize("limit", [None, 1e-3, 1e3])
def test_the_flow_is_that_before_clipping(limit: float | None) -> None:
    report = play(make(Measuring(0, 1), EngineConfig(max_grad_norm=limit)))[1]
    assert report.gradient_flow is not None
    assert report.gradient_norm is not None
    total = float(np.linalg.norm(list(report.gradient_flow.norm_per_layer.values())))
    assert total == pytest.approx(report.gradient_norm, rel=1e-3)
    assert any(name.startswith("host.") for name in report.gradient_flow.norm_per_layer)


def test_a_closed_gate_is_told_when_it_is_first_asked_and_when_other_checks_fail() -> None:
    trial = make(auto_advance=False, min_training_epochs=3)
    trial.reset()
    reports = [trial.step(act(LifecycleOp.GERMINATE)), trial.step(act(LifecycleOp.ADVANCE)), trial.step(FactoredAction())]
    told = [[closed.gate.checks_failed for closed in report.closed_gates] for report in reports]
    assert told == [[], [("trained for 3 epochs",)], []]
    assert reports[1].closed_gates[0].slot_id == reports[1].slots[0].slot_id
    while trial.report.slots[0].seed is not None and not trial.report.masks.op[0, LifecycleOp.ADVANCE]:
        assert trial.step(FactoredAction()).closed_gates == ()
    blending = trial.step(act(LifecycleOp.ADVANCE))
    assert [closed.gate.checks_failed for closed in blending.closed_gates] == [("target reached",)]


def test_what_an_open_gate_lets_through_is_not_told_as_closed() -> None:
    config = make_trial(min_holding_epochs=0).model.config
    held = make_seed(stage=SeedStage.HOLDING, contribution=1.0)
    assert closed_gates([held, None], config) == ()
    (closed,) = closed_gates([replace(held, metrics=replace(held.metrics, contribution=None)), None], config)
    assert closed.gate.checks_failed == ("contribution measured",)
    assert closed_gates([make_seed(stage=SeedStage.FOSSILIZED)], config) == ()
