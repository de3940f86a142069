from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from esper.leyline.rng import SeedTree
from esper.leyline.telemetry.event import TelemetryEventType
from esper.simic.anomalies import (
    COLLAPSE_UPDATES,
    DRIFT_UPDATES,
    MIN_SPREAD_EPISODES,
    Anomaly,
    UpdateMonitor,
    anomaly_payload,
    update_anomalies,
)
from esper.simic.config import PPOConfig
from esper.simic.learner import Learner
from tests.fakes.policy import FakePolicy
from tests.simic.world import NUM_CHANNELS, NUM_SLOTS, World, play_round

if TYPE_CHECKING:
    from esper.simic.passes import PassReport
    from esper.simic.update_report import UpdateReport


@pytest.fixture(scope="module")
def healthy() -> UpdateReport:
    with SeedTree(0).torch_scope():
        learner = Learner(FakePolicy(NUM_CHANNELS, NUM_SLOTS), PPOConfig(epochs=2), SeedTree(0))
    play_round(World(0), learner, 0, groups=(0,))
    return replace(learner.update(), num_episodes=MIN_SPREAD_EPISODES)


def second_pass(report: UpdateReport, **changes: dict[str, Any]) -> UpdateReport:
    """The update with other figures in its second pass: of the pass, of its policy, of its gradients."""
    done = report.passes[1]
    parts: dict[str, Any] = {part: replace(getattr(done, part), **changes[part]) for part in ("policy", "gradients") if part in changes}
    sick: PassReport = replace(done, **parts, **changes.get("done", {}))
    return replace(report, passes=(report.passes[0], sick))


def kinds(found: tuple[Anomaly, ...]) -> set[tuple[str, str]]:
    return {(anomaly.event_type.name, anomaly.name) for anomaly in found}


def test_a_healthy_update_raises_no_alarm(healthy: UpdateReport) -> None:
    monitor = UpdateMonitor()
    assert [monitor.look(healthy) for _ in range(10)] == [()] * 10


@pytest.mark.parametrize(
    ("changes", "event_type", "name", "severity"),
    [
        ({"policy": {"ratio_p99": 5.1, "ratio_max": 30.0}}, "RATIO_EXPLOSION_DETECTED", "ratio_explosion", "warning"),
        ({"policy": {"ratio_max": float("inf")}}, "RATIO_EXPLOSION_DETECTED", "ratio_explosion", "error"),
        ({"policy": {"ratio_p01": 0.09, "ratio_min": 0.01}}, "RATIO_COLLAPSE_DETECTED", "ratio_collapse", "warning"),
        ({"policy": {"kl_divergence": 0.11}}, "RATIO_EXPLOSION_DETECTED", "kl_spike", "warning"),
        ({"policy": {"kl_divergence": 0.51}}, "RATIO_EXPLOSION_DETECTED", "kl_spike", "error"),
        ({"done": {"value_loss": 5.1}}, "VALUE_COLLAPSE_DETECTED", "value_collapse", "warning"),
        ({"gradients": {"nan_grad_count": 2}}, "NUMERICAL_INSTABILITY_DETECTED", "numerical_instability", "error"),
        ({"gradients": {"inf_grad_count": 1}}, "NUMERICAL_INSTABILITY_DETECTED", "numerical_instability", "error"),
        ({"done": {"policy_loss": float("nan")}}, "NUMERICAL_INSTABILITY_DETECTED", "numerical_instability", "error"),
        ({"policy": {"numerical_stability_score": 0.8}}, "NUMERICAL_INSTABILITY_DETECTED", "log_prob_underflow", "warning"),
        ({"gradients": {"pre_clip_grad_norm": 51.0}}, "GRADIENT_ANOMALY", "gradient_norm", "warning"),
        ({"gradients": {"pre_clip_grad_norm": 101.0}}, "GRADIENT_ANOMALY", "gradient_norm", "error"),
        ({"gradients": {"dead_layers": 99}}, "GRADIENT_PATHOLOGY_DETECTED", "gradient_pathology", "warning"),
        ({"gradients": {"exploding_layers": 99}}, "GRADIENT_PATHOLOGY_DETECTED", "gradient_pathology", "warning"),
        ({"gradients": {"grad_nan_layers": ("op.weight",)}}, "GRADIENT_PATHOLOGY_DETECTED", "gradient_pathology", "warning"),
        ({"policy": {"entropy": 0.09}}, "GRADIENT_ANOMALY", "entropy_collapse", "warning"),
    ],
)
def test_each_fault_is_named_with_its_pass_and_evidence(
    changes: dict[str, Any], event_type: str, name: str, severity: str, healthy: UpdateReport
) -> None:
    (found,) = update_anomalies(second_pass(healthy, **changes))
    assert (found.event_type.name, found.name, found.severity, found.pass_index) == (event_type, name, severity, 2)
    assert found.evidence
    assert found.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": {"ratio_max": 9.0, "ratio_min": 0.01}},
        {"policy": {"kl_divergence": 0.1}},
        {"done": {"value_loss": 5.0}},
        {"gradients": {"pre_clip_grad_norm": 50.0}},
        {"gradients": {"dead_layers": 1}},
    ],
)
def test_what_is_just_within_bounds_raises_no_alarm(changes: dict[str, Any], healthy: UpdateReport) -> None:
    assert update_anomalies(second_pass(healthy, **changes)) == ()


def test_a_bellman_error_is_judged_by_the_spread_of_the_returns(healthy: UpdateReport) -> None:
    wild = replace(healthy.values, bellman_error=5.1, return_std=1.0)
    assert kinds(update_anomalies(replace(healthy, values=wild))) == {("VALUE_COLLAPSE_DETECTED", "bellman_error")}
    assert update_anomalies(replace(healthy, values=replace(wild, return_std=2.0))) == ()
    assert update_anomalies(replace(healthy, values=wild, is_std_floored=True)) == ()


def test_the_critic_is_not_judged_by_the_spread_of_two_episodes(healthy: UpdateReport) -> None:
    sick = second_pass(healthy, done={"value_loss": 12.3})
    wild = replace(sick, values=replace(healthy.values, bellman_error=20.3, return_std=1.0))
    assert {anomaly.name for anomaly in update_anomalies(wild)} == {"value_collapse", "bellman_error"}
    for num_episodes in (1, 2, MIN_SPREAD_EPISODES - 1):
        assert update_anomalies(replace(wild, num_episodes=num_episodes)) == ()


def collapsed(report: UpdateReport, entropy: float | None) -> UpdateReport:
    heads = report.passes[1].policy.heads
    return second_pass(report, policy={"heads": {**heads, "blueprint": replace(heads["blueprint"], entropy=entropy)}})


def test_a_head_is_told_once_when_it_stays_collapsed_and_again_after_it_recovered(healthy: UpdateReport) -> None:
    monitor = UpdateMonitor()
    low, middling, well = (collapsed(healthy, entropy) for entropy in (0.04, 0.06, 0.08))
    told = [
        kinds(monitor.look(report)) for report in (*[low] * (COLLAPSE_UPDATES + 2), middling, low, low, well, *[low] * COLLAPSE_UPDATES)
    ]
    alarm = {("GRADIENT_ANOMALY", "head_collapse")}
    assert [index for index, found in enumerate(told) if found == alarm] == [2, len(told) - 1]
    assert sum(map(len, told)) == 2


def test_a_monitor_goes_on_from_what_was_saved(healthy: UpdateReport) -> None:
    low, monitor = collapsed(healthy, 0.04), UpdateMonitor()
    told = []
    for _ in range(COLLAPSE_UPDATES):
        saved, monitor = monitor.to_json(), UpdateMonitor()
        monitor.load_json(json.loads(json.dumps(saved)))
        told.append(kinds(monitor.look(low)))
    assert told == [set()] * (COLLAPSE_UPDATES - 1) + [{("GRADIENT_ANOMALY", "head_collapse")}]


def test_a_head_without_choices_never_collapses(healthy: UpdateReport) -> None:
    monitor = UpdateMonitor()
    assert all(monitor.look(collapsed(healthy, None)) == () for _ in range(5))


def test_a_gradient_far_from_what_is_usual_is_told(healthy: UpdateReport) -> None:
    def with_norm(norm: float) -> UpdateReport:
        return replace(healthy, passes=tuple(replace(p, gradients=replace(p.gradients, pre_clip_grad_norm=norm)) for p in healthy.passes))

    monitor = UpdateMonitor()
    assert all(monitor.look(with_norm(2.0)) == () for _ in range(DRIFT_UPDATES))
    assert monitor.look(with_norm(6.0)) == ()
    assert kinds(monitor.look(with_norm(20.0))) == {("GRADIENT_ANOMALY", "gradient_drift")}
    young = UpdateMonitor()
    assert [young.look(with_norm(norm)) for norm in (20.0, 1.0)] == [(), ()]


@pytest.mark.parametrize(("kind", "column"), [("gradient", "gradient_stats"), ("stability", "stability"), ("ratio", "ratio_diagnostic")])
def test_evidence_is_told_under_what_it_is_about(kind: Any, column: str) -> None:
    anomaly = Anomaly(TelemetryEventType.GRADIENT_ANOMALY, "gradient_norm", 3, "too large", kind, {"x": 1.0})
    payload = anomaly_payload(anomaly, batch=7, episode=112, total_episodes=160)
    assert (payload.anomaly_type, payload.batch, payload.episode, payload.inner_epoch) == ("gradient_norm", 7, 112, 3)
    told = {name: getattr(payload, name) for name in ("gradient_stats", "stability", "ratio_diagnostic")}
    assert told == dict.fromkeys(told) | {column: {"x": 1.0}}
