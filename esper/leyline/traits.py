"""What systems outside Esper's own training tell about seeds and optimizers. None is unknown."""

from __future__ import annotations

from dataclasses import dataclass

from esper.leyline.alpha import AlphaCurve


@dataclass(frozen=True, slots=True)
class SeedTraits:
    """Traits of one seed that its lifecycle does not know."""

    activity_level: float | None = None
    """0…1."""
    success_rate: float | None = None
    """Share of its adaptations that helped, 0…1."""
    risk_score: float | None = None
    """0…1."""
    risk_tolerance: float | None = None
    """0…1."""
    specialization: str | None = None
    """Name in the registry of specializations."""
    allowed_blending_methods: tuple[str, ...] | None = None
    """Of `BLENDING_METHODS`; None leaves it to the action masks."""
    quarantine_only: bool | None = None
    policy_version: str | None = None
    """Version of the policy that placed the seed."""
    alpha_schedule: AlphaCurve | None = None
    """Curve of the running blend."""
    monitoring_frequency: float | None = None
    """Share of steps in which it looks at its layers, 0…1."""
    adaptation_trigger_threshold: float | None = None
    """Change of loss that it answers to."""
    learning_rate: float | None = None


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """The host's optimizer."""

    family: str | None = None
    """Name in the registry of optimizer families."""
    momentum: float | None = None
    """Momentum, or the first beta of Adam and its kin."""
