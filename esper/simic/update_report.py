"""What an update did, and its telemetry."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from esper.leyline.telemetry.tamiyo import TamiyoPolicyUpdatePayload
from esper.simic.diagnostics import ChoiceDiagnostics, ValueDiagnostics
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
    settings: PassSettings
    passes: tuple[PassReport, ...]
    early_stop_epoch: int | None
    """Pass in which KL exceeded its target; None if it did not."""
    update_time_ms: float

    @property
    def is_skipped(self) -> bool:
        """Whether the actor learned nothing, because every step was forced."""
        return self.num_forced == self.num_transitions


def to_payloads(report: UpdateReport) -> tuple[TamiyoPolicyUpdatePayload, ...]:
    """One payload per pass, `ppo_update_idx` counting from 1; what concerns the round is repeated in each."""
    shared = _fields_of(report.values) | _fields_of(report.choices)
    return tuple(
        TamiyoPolicyUpdatePayload(
            policy_loss=done.policy_loss,
            value_loss=done.value_loss,
            entropy_loss=done.entropy_loss,
            ppo_update_idx=index,
            policy_update_magnitude=done.policy_update_magnitude,
            lr=report.settings.learning_rate,
            entropy_coef=report.settings.entropy_coef,
            early_stop_epoch=report.early_stop_epoch,
            update_time_ms=report.update_time_ms,
            batch=report.version,
            policy_version=report.version,
            skipped=report.is_skipped,
            **shared,
            **_policy_fields(done),
            **_fields_of(done.gradients),
        )
        for index, done in enumerate(report.passes, start=1)
    )


def _policy_fields(done: PassReport) -> dict[str, Any]:
    found = _fields_of(done.policy)
    heads = found.pop("heads")
    return found | {f"head_{name}_{metric}": value for name, head in heads.items() for metric, value in _fields_of(head).items()}


def _fields_of(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}
