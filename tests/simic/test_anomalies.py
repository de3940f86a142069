from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from esper.leyline.reports import Counterfactuals
from esper.leyline.rng import SeedTree
from esper.leyline.telemetry.event import TelemetryEventType
from esper.simic.anomalies import suspected_reward_hacking, update_anomalies
from esper.simic.config import PPOConfig
from esper.simic.learner import Learner
from tests.fakes.policy import FakePolicy
from tests.simic.reports import make_report, make_seed
from tests.simic.world import NUM_CHANNELS, NUM_SLOTS, World, play_round

if TYPE_CHECKING:
    from esper.simic.update_report import UpdateReport


def make_update() -> UpdateReport:
    with SeedTree(0).torch_scope():
        learner = Learner(FakePolicy(NUM_CHANNELS, NUM_SLOTS), PPOConfig(epochs=2), SeedTree(0))
    play_round(World(0), learner, 0, groups=(0,))
    return learner.update()


def test_a_healthy_update_raises_no_alarm() -> None:
    assert update_anomalies(make_update()) == ()


def test_every_fault_is_named_with_its_pass_and_evidence() -> None:
    report = make_update()
    sick = replace(
        report.passes[1],
        value_loss=9.0,
        policy=replace(report.passes[1].policy, ratio_min=0.01, ratio_max=30.0),
        gradients=replace(report.passes[1].gradients, nan_grad_count=2, pre_clip_grad_norm=500.0),
    )
    found = update_anomalies(replace(report, passes=(report.passes[0], sick)))
    assert {anomaly.event_type for anomaly in found} == {
        TelemetryEventType.RATIO_EXPLOSION_DETECTED,
        TelemetryEventType.RATIO_COLLAPSE_DETECTED,
        TelemetryEventType.VALUE_COLLAPSE_DETECTED,
        TelemetryEventType.NUMERICAL_INSTABILITY_DETECTED,
        TelemetryEventType.GRADIENT_ANOMALY,
    }
    assert {anomaly.pass_index for anomaly in found} == {2}
    assert all(anomaly.evidence for anomaly in found)


@pytest.mark.parametrize(
    ("contribution", "all_off", "pattern"),
    [(2.0, 51.0, "ransomware"), (12.0, 48.0, "attribution_ratio"), (2.0, 48.0, None), (None, 51.0, None), (0.05, 51.0, None)],
)
def test_credit_that_the_gain_does_not_explain_is_suspected(contribution: float | None, all_off: float, pattern: str | None) -> None:
    table = Counterfactuals(((),), (all_off,))
    found = suspected_reward_hacking(make_report(make_seed(contribution=contribution), val_accuracy=50.0, counterfactuals=table))
    assert [payload.pattern for payload in found] == ([pattern] if pattern else [])


def test_nothing_is_suspected_without_counterfactuals() -> None:
    assert suspected_reward_hacking(make_report(make_seed(contribution=50.0))) == ()
