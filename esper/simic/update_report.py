"""What an update did, and its telemetry."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from esper.leyline.telemetry.tamiyo import PolicyUpdateRejectedPayload, TamiyoPolicyUpdatePayload
from esper.simic.diagnostics import ChoiceDiagnostics, OperationDiagnostics, ValueDiagnostics
from esper.simic.passes import PassReport, PassSettings


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """One update: a round's data and the passes over it."""

    version: int
    """Updates so far, this one included."""
    num_transitions: int
    num_forced: int
    """Steps with one legal joint action."""
    num_episodes: int
    mean_episode_return: float
    """Undiscounted, in scaled reward units."""
    values: ValueDiagnostics
    choices: ChoiceDiagnostics
    operations: OperationDiagnostics
    is_std_floored: bool
    """Advantages were divided by the floor, because their own spread is smaller."""
    settings: PassSettings
    passes: tuple[PassReport, ...]
    early_stop_epoch: int | None
    """Pass in which KL exceeded its target; None if it did not."""
    update_time_ms: float

    @property
    def is_skipped(self) -> bool:
        """Whether the actor learned nothing, because every step was forced."""
        return self.num_forced == self.num_transitions


def to_payloads(
    report: UpdateReport, *, env_steps: int | None = None, num_rollbacks: int | None = None
) -> tuple[TamiyoPolicyUpdatePayload, ...]:
    """One payload per pass, `ppo_update_idx` counting from 1; what concerns the round is repeated in each.

    Args:
        report: The update.
        env_steps: Taken in the run so far.
        num_rollbacks: Episodes of the round that the governor ended.
    """
    shared = _fields_of(report.values) | _fields_of(report.choices) | _fields_of(report.operations)
    return tuple(
        TamiyoPolicyUpdatePayload(
            policy_loss=done.policy_loss,
            value_loss=done.value_loss,
            entropy_loss=done.entropy_loss,
            risk_loss=done.risk_loss,
            ppo_update_idx=index,
            policy_update_magnitude=done.policy_update_magnitude,
            lr=report.settings.learning_rate,
            entropy_coef=report.settings.entropy_coef,
            early_stop_epoch=report.early_stop_epoch,
            update_time_ms=report.update_time_ms,
            batch=report.version,
            policy_version=report.version,
            skipped=report.is_skipped,
            env_steps=env_steps,
            rollback_count=num_rollbacks,
            advantage_std_floored=report.is_std_floored,
            **shared,
            **_policy_fields(done),
            **_fields_of(done.risk),
            **_gradient_fields(done, is_last=index == len(report.passes)),
        )
        for index, done in enumerate(report.passes, start=1)
    )


def rejections(report: UpdateReport) -> tuple[PolicyUpdateRejectedPayload, ...]:
    """Passes in which no gradient was finite, so that the optimizer took no step."""
    return tuple(
        PolicyUpdateRejectedPayload(
            reason="no gradient was finite",
            batch=report.version,
            ppo_update_idx=index,
            nan_grad_count=done.gradients.nan_grad_count,
            kl_divergence=done.policy.kl_divergence,
            pre_clip_grad_norm=done.gradients.pre_clip_grad_norm,
            policy_version=report.version,
        )
        for index, done in enumerate(report.passes, start=1)
        if done.gradients.update_skipped
    )


def _policy_fields(done: PassReport) -> dict[str, Any]:
    found = _fields_of(done.policy)
    heads = found.pop("heads")
    by_head = {f"head_{name}_{metric}": value for name, head in heads.items() for metric, value in _fields_of(head).items()}
    return found | by_head | {f"head_{name}_grad_norm": norm for name, norm in done.head_grad_norms.items()}


def _gradient_fields(done: PassReport, *, is_last: bool) -> dict[str, Any]:
    """What is told of each layer is told of an update's last pass."""
    by_layer = {} if is_last else {"layer_gradient_health": None, "grad_norm_per_layer": None}
    return _fields_of(done.gradients) | by_layer


def _fields_of(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}
