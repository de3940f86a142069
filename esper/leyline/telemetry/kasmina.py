"""Payloads about seeds: their lives, their gates, and how they stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.leyline.telemetry.payload import Payload

if TYPE_CHECKING:
    from esper.leyline.reports import SeedStateReport


@dataclass(frozen=True, slots=True)
class SeedSnapshot(Payload):
    """How one seed stands at the end of an epoch. None is unmeasured; accuracies in points."""

    seed_id: str
    blueprint_id: str
    stage: str
    alpha: float
    epochs_in_stage: int
    age_epochs: int | None = None
    num_parameters: int | None = None
    gradient_norm: float | None = None
    gradient_health: float | None = None
    has_vanishing: bool | None = None
    has_exploding: bool | None = None
    grad_ratio: float | None = None
    accuracy_delta: float | None = None
    """Gained since the stage began."""
    contribution: float | None = None
    """Accuracy minus accuracy without this seed."""
    solo_contribution: float | None = None
    """Accuracy with this seed alone minus accuracy with none."""

    @staticmethod
    def from_report(report: SeedStateReport) -> SeedSnapshot:
        """Reduce a seed's report to what telemetry keeps."""
        metrics = report.metrics
        return SeedSnapshot(
            seed_id=report.seed_id,
            blueprint_id=report.blueprint_id,
            stage=report.stage.name,
            alpha=report.alpha,
            epochs_in_stage=report.epochs_in_stage,
            age_epochs=report.age_epochs,
            num_parameters=report.num_parameters,
            gradient_norm=metrics.gradient_norm,
            gradient_health=metrics.gradient_health,
            has_vanishing=metrics.has_vanishing,
            has_exploding=metrics.has_exploding,
            grad_ratio=metrics.gradient_ratio,
            accuracy_delta=metrics.improvement_since_stage_start,
            contribution=metrics.contribution,
            solo_contribution=metrics.solo_contribution,
        )


@dataclass(frozen=True, slots=True)
class SeedGerminatedPayload(Payload):
    """A seed was planted."""

    slot_id: str
    env_id: int
    blueprint_id: str
    params: int
    alpha: float = 0.0
    grad_ratio: float | None = None
    has_vanishing: bool | None = None
    has_exploding: bool | None = None
    epochs_in_stage: int = 0
    blend_tempo_epochs: int = 5
    alpha_curve: str | None = None
    episode_idx: int | None = None


@dataclass(frozen=True, slots=True)
class SeedStageChangedPayload(Payload):
    """A seed passed from one stage to another."""

    slot_id: str
    env_id: int
    from_stage: str
    to_stage: str
    alpha: float | None = None
    accuracy_delta: float | None = None
    """Points gained since the stage began; None is unmeasured, as for the gradient below."""
    epochs_in_stage: int = 0
    grad_ratio: float | None = None
    has_vanishing: bool | None = None
    has_exploding: bool | None = None
    blueprint_id: str | None = None
    initiator: str = "policy"
    """`policy`, `auto` or `governor`."""
    reason: str = ""
    episode_idx: int | None = None


@dataclass(frozen=True, slots=True)
class SeedGateEvaluatedPayload(Payload):
    """A quality gate was asked about a seed."""

    slot_id: str
    env_id: int
    gate: str
    passed: bool
    target_stage: str
    checks_passed: tuple[str, ...]
    checks_failed: tuple[str, ...]
    message: str = ""
    score: float | None = None
    episode_idx: int | None = None


@dataclass(frozen=True, slots=True)
class SeedFossilizedPayload(Payload):
    """A seed became part of its host."""

    slot_id: str
    env_id: int
    blueprint_id: str
    improvement: float
    """Points gained since germination."""
    params_added: int
    alpha: float = 1.0
    epochs_total: int = 0
    counterfactual: float | None = None
    """Leave-one-out contribution in points; None is unmeasured."""
    episode_idx: int | None = None


@dataclass(frozen=True, slots=True)
class SeedPrunedPayload(Payload):
    """A seed was removed."""

    slot_id: str
    env_id: int
    reason: str
    blueprint_id: str | None = None
    improvement: float | None = None
    """Points gained since germination; None is unmeasured."""
    auto_pruned: bool = False
    epochs_total: int = 0
    counterfactual: float | None = None
    initiator: str = "policy"
    episode_idx: int | None = None
