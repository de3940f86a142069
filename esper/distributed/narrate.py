"""Turns what a trial reports into telemetry events. Pure: reports in, events out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.leyline.actions import STYLE_MEANING, BlendStyle, FactoredAction, LifecycleOp
from esper.leyline.reports import TrialReport
from esper.leyline.reward import PARTS, RewardComponents
from esper.leyline.stages import SeedStage
from esper.leyline.telemetry import (
    ActionAlternative,
    CounterfactualConfig,
    CounterfactualMatrixPayload,
    EpisodeOutcomePayload,
    RewardComputedPayload,
    SeedFossilizedPayload,
    SeedGateEvaluatedPayload,
    SeedGerminatedPayload,
    SeedPrunedPayload,
    SeedSnapshot,
    SeedStageChangedPayload,
    TelemetryEvent,
    TelemetryEventType,
    TelemetryPayload,
    TolariaEpochPayload,
    TolariaRollbackPayload,
)
from esper.simic.attribution import MAX_EXACT_PLAYERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper.leyline.reports import Counterfactuals, EpisodeOutcome, StageTransition
    from esper.leyline.schemas import GateResult

_EVIDENCE = (
    "val_acc",
    "utility",
    "seed_contribution",
    "progress_since_germination",
    "attribution_discount",
    "timing_discount",
    "growth_ratio",
)


@dataclass(frozen=True, slots=True)
class StepStory:
    """One trial's step, as it is told."""

    group_id: str
    """Round or evaluation the step belongs to, e.g. `train/7`."""
    report: TrialReport
    action: FactoredAction
    reward: RewardComponents
    value_estimate: float | None
    """In reward units as the learner sees them; None for a policy without values."""
    confidence: float
    """Joint probability of the action, 0…1."""
    device: str
    before: TrialReport | None = None
    """The report that the action rests on; None leaves untold what changed since."""
    op_prob: Sequence[float] | None = None
    """Probability of every operation, in the order of `LifecycleOp`; None for a policy without probabilities."""
    reward_scale: float | None = None
    """Factor between rewards and what the learner sees; None leaves scaled ones untold."""
    is_full: bool = True
    """Whether to tell counterfactuals before the episode's end, and with the reward how all seeds stood."""


def tell_step(story: StepStory) -> Iterator[TelemetryEvent]:
    """Events of one step, in the order in which things happened."""
    report = story.report
    for transition in report.transitions:
        yield from _tell_transition(story, transition)
    for closed in report.closed_gates:
        payload = _gate(report, closed.slot_id, closed.gate)
        yield _event(story.group_id, TelemetryEventType.SEED_GATE_EVALUATED, payload, closed.seed_id)
    if report.is_rolled_back:
        yield _event(story.group_id, TelemetryEventType.TOLARIA_ROLLBACK, _rollback(story))
    yield _event(story.group_id, TelemetryEventType.TOLARIA_EPOCH_COMPLETED, _epoch(report))
    if report.counterfactuals is not None and len(report.counterfactuals.configurations) > 1 and (story.is_full or report.done):
        yield _event(story.group_id, TelemetryEventType.COUNTERFACTUAL_MATRIX_COMPUTED, _matrix(report))
    yield _event(story.group_id, TelemetryEventType.REWARD_COMPUTED, _reward(story))


def tell_outcome(group_id: str, outcome: EpisodeOutcome, *, policy: str, reward_mode: str) -> TelemetryEvent:
    """The event that ends an episode."""
    payload = EpisodeOutcomePayload(
        env_id=outcome.env_id,
        episode_idx=outcome.episode_idx,
        final_accuracy=outcome.final_accuracy,
        param_ratio=outcome.param_ratio,
        num_fossilized=outcome.num_fossilized,
        num_contributing_fossilized=outcome.num_contributing_fossilized,
        episode_reward=outcome.episode_reward,
        stability_score=outcome.stability_score,
        context=outcome.context,
        split=outcome.split,
        utility=outcome.utility,
        reward_mode=reward_mode,
        episode_length=outcome.episode_length,
        outcome_type=outcome.outcome_type,
        germinate_count=outcome.germinate_count,
        prune_count=outcome.prune_count,
        fossilize_count=outcome.fossilize_count,
        kept=outcome.kept,
        test_accuracy=outcome.final_accuracy,
        policy=policy,
    )
    return _event(group_id, TelemetryEventType.EPISODE_OUTCOME, payload)


def _event(group_id: str, event_type: TelemetryEventType, payload: TelemetryPayload, seed_id: str | None = None) -> TelemetryEvent:
    return TelemetryEvent(event_type, payload, group_id=group_id, seed_id=seed_id)


def _tell_transition(story: StepStory, transition: StageTransition) -> Iterator[TelemetryEvent]:
    group_id, report = story.group_id, story.report
    told: list[tuple[TelemetryEventType, TelemetryPayload]] = []
    if transition.gate is not None:
        told.append((TelemetryEventType.SEED_GATE_EVALUATED, _gate(report, transition.slot_id, transition.gate)))
    if transition.to_stage is SeedStage.GERMINATED:
        told.append((TelemetryEventType.SEED_GERMINATED, _germinated(story, transition)))
    told.append((TelemetryEventType.SEED_STAGE_CHANGED, _stage_changed(report, transition)))
    if transition.to_stage is SeedStage.FOSSILIZED:
        told.append((TelemetryEventType.SEED_FOSSILIZED, _fossilized(report, transition)))
    if transition.to_stage is SeedStage.PRUNED:
        told.append((TelemetryEventType.SEED_PRUNED, _pruned(report, transition)))
    for event_type, payload in told:
        yield _event(group_id, event_type, payload, transition.seed_id)


def _gate(report: TrialReport, slot_id: str, gate: GateResult) -> SeedGateEvaluatedPayload:
    return SeedGateEvaluatedPayload(
        slot_id=slot_id,
        env_id=report.env_id,
        gate=gate.gate.name,
        passed=gate.passed,
        target_stage=gate.target_stage.name,
        checks_passed=gate.checks_passed,
        checks_failed=gate.checks_failed,
        message=f"failed: {', '.join(gate.checks_failed)}" if gate.checks_failed else "passed",
        score=gate.score,
        episode_idx=report.episode_idx,
    )


def _germinated(story: StepStory, transition: StageTransition) -> SeedGerminatedPayload:
    report, seed = story.report, transition.seed
    is_chosen = story.action.op is LifecycleOp.GERMINATE
    return SeedGerminatedPayload(
        slot_id=transition.slot_id,
        env_id=report.env_id,
        blueprint_id=transition.blueprint_id,
        params=seed.num_parameters,
        alpha=seed.alpha,
        epochs_in_stage=seed.epochs_in_stage,
        blend_tempo_epochs=seed.tempo_epochs,
        alpha_curve=STYLE_MEANING[BlendStyle(story.action.style)][0].name if is_chosen else None,
        episode_idx=report.episode_idx,
    )


def _stage_changed(report: TrialReport, transition: StageTransition) -> SeedStageChangedPayload:
    seed, metrics = transition.seed, transition.seed.metrics
    return SeedStageChangedPayload(
        slot_id=transition.slot_id,
        env_id=report.env_id,
        from_stage=transition.from_stage.name,
        to_stage=transition.to_stage.name,
        alpha=seed.alpha,
        accuracy_delta=metrics.improvement_since_stage_start,
        epochs_in_stage=seed.epochs_in_stage,
        grad_ratio=metrics.gradient_ratio,
        has_vanishing=metrics.has_vanishing,
        has_exploding=metrics.has_exploding,
        blueprint_id=transition.blueprint_id,
        initiator=transition.initiator,
        reason=transition.reason,
        episode_idx=report.episode_idx,
    )


def _fossilized(report: TrialReport, transition: StageTransition) -> SeedFossilizedPayload:
    seed, metrics = transition.seed, transition.seed.metrics
    return SeedFossilizedPayload(
        slot_id=transition.slot_id,
        env_id=report.env_id,
        blueprint_id=transition.blueprint_id,
        improvement=metrics.total_improvement,
        params_added=seed.num_parameters,
        alpha=seed.alpha,
        epochs_total=seed.age_epochs,
        counterfactual=metrics.contribution,
        episode_idx=report.episode_idx,
    )


def _pruned(report: TrialReport, transition: StageTransition) -> SeedPrunedPayload:
    seed, metrics = transition.seed, transition.seed.metrics
    return SeedPrunedPayload(
        slot_id=transition.slot_id,
        env_id=report.env_id,
        reason=transition.reason,
        blueprint_id=transition.blueprint_id,
        improvement=metrics.total_improvement,
        auto_pruned=transition.initiator != "policy",
        epochs_total=seed.age_epochs,
        counterfactual=metrics.contribution,
        initiator=transition.initiator,
        episode_idx=report.episode_idx,
    )


def _epoch(report: TrialReport) -> TolariaEpochPayload:
    flow = report.gradient_flow
    return TolariaEpochPayload(
        env_id=report.env_id,
        val_accuracy=report.val_accuracy,
        val_loss=report.val_loss,
        inner_epoch=report.epoch,
        seeds=_seeds(report),
        episode_idx=report.episode_idx,
        max_epochs=report.max_epochs,
        train_loss=report.train_loss,
        train_accuracy=report.train_accuracy,
        committed_accuracy=report.committed_accuracy,
        host_grad_norm_pre_clip=report.gradient_norm,
        host_lr=report.learning_rate,
        host_params=report.host_params,
        seed_params=report.seed_params,
        fossil_params=report.fossil_params,
        num_fossils=report.num_fossils,
        host_epoch_time_ms=report.timings.host_epoch_time_ms,
        evaluation_time_ms=report.timings.evaluation_time_ms,
        forward_time_ms=report.timings.forward_time_ms,
        backward_time_ms=report.timings.backward_time_ms,
        optimizer_step_time_ms=report.timings.optimizer_step_time_ms,
        data_transfer_time_ms=report.timings.data_transfer_time_ms,
        grad_norm_per_layer=flow.norm_per_layer if flow else None,
        grad_zero_fraction=flow.zero_fraction if flow else None,
        grad_norm_ratio=flow.norm_ratio if flow else None,
        grad_nan_layers=flow.nan_layers if flow else None,
    )


def _matrix(report: TrialReport) -> CounterfactualMatrixPayload:
    table = report.counterfactuals
    assert table is not None
    slot_ids = tuple(slot.slot_id for slot in report.slots)
    return CounterfactualMatrixPayload(
        env_id=report.env_id,
        slot_ids=slot_ids,
        configs=tuple(
            CounterfactualConfig(tuple(slot_ids[i] for i in slots_on), accuracy)
            for slots_on, accuracy in zip(table.configurations, table.accuracies, strict=True)
        ),
        strategy=_strategy(report, table),
        compute_time_ms=report.timings.evaluation_time_ms,
        episode_idx=report.episode_idx,
        inner_epoch=report.epoch,
    )


def _strategy(report: TrialReport, table: Counterfactuals) -> str:
    if report.epoch != report.max_epochs:
        return "ablation"
    return "factorial" if len(table.configurations[0]) <= MAX_EXACT_PLAYERS else "shapley"


def _rollback(story: StepStory) -> TolariaRollbackPayload:
    verdict = story.report.verdict
    assert verdict is not None and verdict.panic is not None
    return TolariaRollbackPayload(
        env_id=story.report.env_id,
        device=story.device,
        reason=verdict.failure or f"loss {verdict.loss:g}",
        loss_at_panic=verdict.loss,
        loss_threshold=verdict.loss_threshold,
        consecutive_panics=verdict.consecutive_anomalies,
        panic_reason=verdict.panic.value,
        penalty=story.reward.governor_penalty,
        penalty_normalised=None if story.reward_scale is None else story.reward_scale * story.reward.governor_penalty,
        episode_idx=story.report.episode_idx,
    )


def _reward(story: StepStory) -> RewardComputedPayload:
    report, reward = story.report, story.reward
    return RewardComputedPayload(
        env_id=report.env_id,
        total_reward=reward.total_reward,
        action_name=reward.action_name,
        value_estimate=story.value_estimate,
        action_confidence=story.confidence,
        base_acc_delta=None if story.before is None else report.val_accuracy - story.before.val_accuracy,
        host_accuracy=_host_accuracy(report),
        slot_states=_seeds(report) if story.is_full else None,
        alternatives=_alternatives(story),
        decision_entropy=None if story.op_prob is None else _entropy(story.op_prob),
        action_slot=report.slots[story.action.slot].slot_id if reward.action_name != "WAIT" else None,
        episode_idx=report.episode_idx,
        inner_epoch=report.epoch,
        **{name: getattr(reward, name) for name in (*PARTS, *_EVIDENCE)},
    )


def _seeds(report: TrialReport) -> dict[str, SeedSnapshot]:
    return {slot.slot_id: SeedSnapshot.from_report(slot.seed) for slot in report.slots if slot.seed is not None}


def _host_accuracy(report: TrialReport) -> float | None:
    """Validation accuracy with every seed off, in percent."""
    table = report.counterfactuals
    return table.accuracy_of(()) if table is not None and () in table.configurations else None


def _alternatives(story: StepStory) -> tuple[ActionAlternative, ...] | None:
    """Operations that were possible and not taken, the likeliest first."""
    if story.op_prob is None:
        return None
    others = [(p, op) for op, p in zip(LifecycleOp, story.op_prob, strict=True) if op is not story.action.op and p > 0.0]
    return tuple(ActionAlternative(op.name, p) for p, op in sorted(others, reverse=True))


def _entropy(probabilities: Sequence[float]) -> float:
    return -sum(p * math.log(p) for p in probabilities if p > 0.0)
