from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from esper.distributed.narrate import StepStory, tell_outcome, tell_step
from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.reports import ClosedGate, Counterfactuals, EpisodeOutcome, EpochTimings, GradientFlow, StageTransition, TrialReport
from esper.leyline.schemas import GateLevel, GateResult, GovernorVerdict, PanicReason
from esper.leyline.stages import VALID_TRANSITIONS, SeedStage
from esper.leyline.telemetry import PAYLOAD_CLASSES, TelemetryEvent
from esper.leyline.telemetry.schema import record_batch
from esper.simic.config import RewardConfig
from esper.simic.rewards import compute_reward
from tests.simic.reports import make_report, make_seed

ALWAYS = ["TOLARIA_EPOCH_COMPLETED", "REWARD_COMPUTED"]
EXTRA_EVENT = {SeedStage.GERMINATED: "SEED_GERMINATED", SeedStage.FOSSILIZED: "SEED_FOSSILIZED", SeedStage.PRUNED: "SEED_PRUNED"}
TRANSITIONS = [(before, after) for before, options in VALID_TRANSITIONS.items() for after in options]
GATE = GateResult(GateLevel.G2, True, 0.8, SeedStage.BLENDING, ("progress",), ())


def transition(before: SeedStage, after: SeedStage, **changes: Any) -> StageTransition:
    base: dict[str, Any] = {
        "slot_id": "r0c0",
        "slot_index": 0,
        "seed_id": "seed0",
        "blueprint_id": "conv",
        "from_stage": before,
        "to_stage": after,
        "initiator": "auto",
        "reason": "clock",
        "seed": make_seed(0, stage=after),
    }
    return StageTransition(**(base | changes))


def tell(report: TrialReport, action: FactoredAction | None = None, value: float | None = 0.5) -> list[TelemetryEvent]:
    taken = action or FactoredAction()
    reward = compute_reward(RewardConfig(), make_report(epoch=7), report, taken, gamma=0.99)
    return list(tell_step(StepStory("train/learned/0", report, taken, reward, value, 0.25, "cpu")))


def names(events: list[TelemetryEvent]) -> list[str]:
    return [event.event_type.name for event in events]


@pytest.mark.parametrize(("before", "after"), TRANSITIONS)
def test_every_transition_tells_its_stage_change_and_what_it_means(before: SeedStage, after: SeedStage) -> None:
    events = tell(make_report(make_seed(0, stage=after), transitions=(transition(before, after),)))
    extra = [EXTRA_EVENT[after]] if after in EXTRA_EVENT else []
    told = names(events)
    assert sorted(told) == sorted(["SEED_STAGE_CHANGED", *extra, *ALWAYS])
    changed: Any = events[told.index("SEED_STAGE_CHANGED")].data
    assert (changed.from_stage, changed.to_stage, changed.initiator, changed.reason) == (before.name, after.name, "auto", "clock")


def test_germination_is_told_before_its_stage_change_and_the_end_after() -> None:
    born = names(tell(make_report(transitions=(transition(SeedStage.DORMANT, SeedStage.GERMINATED),))))
    assert born.index("SEED_GERMINATED") < born.index("SEED_STAGE_CHANGED")
    kept = names(tell(make_report(transitions=(transition(SeedStage.HOLDING, SeedStage.FOSSILIZED),))))
    assert kept.index("SEED_STAGE_CHANGED") < kept.index("SEED_FOSSILIZED")


def test_a_gate_is_told_before_the_transition_it_allowed() -> None:
    events = tell(make_report(transitions=(transition(SeedStage.TRAINING, SeedStage.BLENDING, gate=GATE),)))
    assert names(events)[:2] == ["SEED_GATE_EVALUATED", "SEED_STAGE_CHANGED"]
    gate: Any = events[0].data
    assert (gate.gate, gate.passed, gate.target_stage, gate.score) == ("G2", True, "BLENDING", 0.8)


@pytest.mark.parametrize(("initiator", "is_auto"), [("policy", False), ("auto", True), ("governor", True)])
def test_a_pruning_says_who_wanted_it(initiator: str, is_auto: bool) -> None:
    told = tell(make_report(transitions=(transition(SeedStage.TRAINING, SeedStage.PRUNED, initiator=initiator),)))
    pruned: Any = next(event.data for event in told if event.event_type.name == "SEED_PRUNED")
    assert (pruned.initiator, pruned.auto_pruned) == (initiator, is_auto)


def test_events_of_a_seed_carry_its_id() -> None:
    events = tell(make_report(transitions=(transition(SeedStage.DORMANT, SeedStage.GERMINATED),)))
    assert [event.seed_id for event in events] == ["seed0", "seed0", None, None]


def test_a_panic_is_told_as_a_rollback() -> None:
    verdict = GovernorVerdict(PanicReason.DIVERGENCE, loss=9.0, loss_threshold=3.0, consecutive_anomalies=2)
    events = tell(make_report(verdict=verdict, done=True, test_accuracy=10.0))
    rollback: Any = next(event.data for event in events if event.event_type.name == "TOLARIA_ROLLBACK")
    assert (rollback.panic_reason, rollback.loss_at_panic, rollback.loss_threshold) == ("governor_divergence", 9.0, 3.0)


def test_a_rollback_says_what_failed_in_a_seed() -> None:
    verdict = GovernorVerdict(PanicReason.BLUEPRINT, float("nan"), None, 0, "blueprint 'mine' in slot r0c0 failed")
    events = tell(make_report(verdict=verdict, done=True, test_accuracy=10.0))
    rollback: Any = next(event.data for event in events if event.event_type.name == "TOLARIA_ROLLBACK")
    assert (rollback.panic_reason, rollback.reason) == ("governor_blueprint", "blueprint 'mine' in slot r0c0 failed")


def test_a_healthy_verdict_tells_no_rollback() -> None:
    assert names(tell(make_report(verdict=GovernorVerdict(None, 1.0, None, 0)))) == ALWAYS


def test_counterfactuals_are_told_by_slot_id() -> None:
    table = Counterfactuals(((0, 1), (0,), ()), (50.0, 45.0, 40.0))
    events = tell(make_report(counterfactuals=table))
    assert "COUNTERFACTUAL_MATRIX_COMPUTED" in names(events)
    matrix: Any = next(event.data for event in events if event.event_type.name == "COUNTERFACTUAL_MATRIX_COMPUTED")
    assert [(config.slots_on, config.accuracy) for config in matrix.configs] == [
        (("r0c0", "r0c1"), 50.0),
        (("r0c0",), 45.0),
        ((), 40.0),
    ]
    assert "COUNTERFACTUAL_MATRIX_COMPUTED" not in names(tell(make_report(counterfactuals=Counterfactuals(((),), (40.0,)))))


def test_the_reward_names_the_slot_only_where_something_was_done_to_it() -> None:
    waited: Any = tell(make_report())[-1].data
    assert (waited.action_name, waited.action_slot) == ("WAIT", None)
    grown: Any = tell(make_report(), FactoredAction(op=LifecycleOp.GERMINATE, slot=1))[-1].data
    assert (grown.action_name, grown.action_slot) == ("GERMINATE", "r0c1")


def test_unmeasured_values_stay_unmeasured() -> None:
    events = tell(make_report(train_loss=None, train_accuracy=None), value=None)
    epoch: Any = events[0].data
    reward: Any = events[-1].data
    assert epoch.train_loss is None
    assert epoch.host_grad_norm_pre_clip is None
    assert reward.value_estimate is None


def test_an_outcome_is_told_as_it_was_measured() -> None:
    outcome = EpisodeOutcome(
        env_id=3,
        episode_idx=2,
        context="digits8/atten@1",
        split="eval",
        final_accuracy=61.5,
        param_ratio=1.2,
        utility=58.0,
        stability_score=0.9,
        num_fossilized=1,
        num_contributing_fossilized=1,
        episode_reward=2.5,
        episode_length=12,
        outcome_type="completed",
        germinate_count=2,
        prune_count=1,
        fossilize_count=1,
        kept=("r0c0:conv",),
    )
    event = tell_outcome("eval/wait/2", outcome, policy="wait", reward_mode="shaped")
    payload: Any = event.data
    assert event.group_id == "eval/wait/2"
    assert (payload.policy, payload.reward_mode) == ("wait", "shaped")
    assert all(getattr(payload, name) == getattr(outcome, name) for name in ("env_id", "context", "split", "utility", "kept"))


def test_everything_told_fits_its_table() -> None:
    stages = tuple(transition(before, after, gate=GATE) for before, after in TRANSITIONS)
    table = Counterfactuals(((0, 1), ()), (50.0, 40.0))
    verdict = GovernorVerdict(PanicReason.NAN, float("nan"), None, 1)
    for event in tell(make_report(transitions=stages, counterfactuals=table, verdict=verdict)):
        assert isinstance(event.data, PAYLOAD_CLASSES[event.event_type])
        assert record_batch([event]).num_rows == 1


def story(report: TrialReport, **changes: Any) -> StepStory:
    reward = compute_reward(RewardConfig(), make_report(epoch=7), report, FactoredAction(), gamma=0.99)
    return replace(StepStory("train/learned/0", report, FactoredAction(), reward, 0.5, 0.25, "cpu"), **changes)


def reward_told(report: TrialReport, **changes: Any) -> Any:
    return list(tell_step(story(report, **changes)))[-1].data


def test_a_decision_is_told_with_what_else_was_possible() -> None:
    told = reward_told(make_report(), op_prob=(0.5, 0.125, 0.0, 0.25, 0.125, 0.0))
    assert [(other.action_name, other.probability) for other in told.alternatives] == [
        ("PRUNE", 0.25),
        ("FOSSILIZE", 0.125),
        ("GERMINATE", 0.125),
    ]
    assert told.decision_entropy == pytest.approx(1.75 * math.log(2.0))
    silent = reward_told(make_report())
    assert silent.alternatives is None
    assert silent.decision_entropy is None


def test_a_step_is_told_with_what_it_changed_and_what_the_host_does_alone() -> None:
    table = Counterfactuals(((0,), ()), (50.0, 42.0))
    told = reward_told(make_report(make_seed(0), val_accuracy=50.0, counterfactuals=table), before=make_report(val_accuracy=50.0))
    assert told.base_acc_delta == 0.0
    assert told.host_accuracy == 42.0
    assert set(told.slot_states) == {"r0c0"}
    assert reward_told(make_report(), is_full=False).slot_states is None


def test_counterfactuals_before_the_end_are_for_study_alone() -> None:
    table = Counterfactuals(((0, 1), (0,), ()), (50.0, 45.0, 40.0))
    running, ended = make_report(counterfactuals=table), make_report(counterfactuals=table, epoch=12, done=True, test_accuracy=1.0)
    assert "COUNTERFACTUAL_MATRIX_COMPUTED" not in names(list(tell_step(story(running, is_full=False))))
    assert "COUNTERFACTUAL_MATRIX_COMPUTED" in names(list(tell_step(story(ended, is_full=False))))


@pytest.mark.parametrize(("num_slots", "epoch", "strategy"), [(2, 8, "ablation"), (2, 12, "factorial"), (5, 12, "shapley")])
def test_a_matrix_says_how_its_configurations_were_chosen(num_slots: int, epoch: int, strategy: str) -> None:
    everything = tuple(range(num_slots))
    report = make_report(*[None] * num_slots, counterfactuals=Counterfactuals((everything, ()), (50.0, 40.0)), epoch=epoch)
    matrix: Any = next(e.data for e in tell_step(story(report)) if e.event_type.name == "COUNTERFACTUAL_MATRIX_COMPUTED")
    assert matrix.strategy == strategy


def test_a_closed_gate_is_told_with_what_failed() -> None:
    closed = ClosedGate("r0c0", "seed0", GateResult(GateLevel.G2, False, 0.1, SeedStage.BLENDING, ("training",), ("trained for 3 epochs",)))
    event = tell(make_report(closed_gates=(closed,)))[0]
    gate: Any = event.data
    assert (event.event_type.name, event.seed_id) == ("SEED_GATE_EVALUATED", "seed0")
    assert (gate.passed, gate.checks_failed, gate.message) == (False, ("trained for 3 epochs",), "failed: trained for 3 epochs")


def test_gradients_and_times_are_told_where_they_were_measured() -> None:
    flow = GradientFlow({"host.a": 2.0, "host.b": 0.0}, 0.5, None, ())
    timings = EpochTimings(9.0, 1.0, 2.0, 4.0, 1.0, data_transfer_time_ms=0.5)
    epoch: Any = tell(make_report(gradient_flow=flow, timings=timings))[0].data
    assert (epoch.grad_norm_per_layer, epoch.grad_zero_fraction, epoch.grad_nan_layers) == ({"host.a": 2.0, "host.b": 0.0}, 0.5, ())
    assert (epoch.forward_time_ms, epoch.backward_time_ms, epoch.optimizer_step_time_ms, epoch.data_transfer_time_ms) == (2, 4, 1, 0.5)
    bare: Any = tell(make_report())[0].data
    assert bare.grad_norm_per_layer is bare.grad_zero_fraction is bare.forward_time_ms is None


def test_a_rollback_tells_its_penalty_in_both_units() -> None:
    verdict = GovernorVerdict(PanicReason.DIVERGENCE, loss=9.0, loss_threshold=3.0, consecutive_anomalies=2)
    told = list(tell_step(story(make_report(verdict=verdict, done=True, test_accuracy=10.0), reward_scale=0.1)))
    rollback: Any = next(event.data for event in told if event.event_type.name == "TOLARIA_ROLLBACK")
    assert rollback.penalty == -10.0
    assert rollback.penalty_normalised == pytest.approx(-1.0)
