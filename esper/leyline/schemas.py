"""Shared value types: blueprints, risk levels, gates, governor verdicts and adaptation commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, IntEnum

from esper.leyline.host import HostFamily
from esper.leyline.stages import SeedStage


class RiskLevel(IntEnum):
    """The five classes of the policy's risk head, mildest first."""

    GREEN = 1
    YELLOW = 2
    ORANGE = 3
    RED = 4
    CRITICAL = 5


RISK_LEVELS = tuple(sorted(RiskLevel))
"""Classes of the risk head in the order of its logits, mildest first."""


@dataclass(frozen=True, slots=True)
class BlueprintSpec:
    """A blueprint at a given width: what it is and what it costs."""

    blueprint_id: str
    family: HostFamily
    place: int
    """Index in the 32-way blueprint head; the same in every family."""
    channels: int
    positions: int
    num_parameters: int
    flops: int
    """Multiply-accumulates for one sample."""
    risk: RiskLevel


class GateLevel(IntEnum):
    """Quality gates on a seed's way."""

    G0 = 0
    """Identity: ids present."""
    G1 = 1
    """GERMINATED → TRAINING."""
    G2 = 2
    """TRAINING → BLENDING."""
    G3 = 3
    """BLENDING → HOLDING."""
    G4 = 4
    """Retired with shadowing; always passes."""
    G5 = 5
    """HOLDING → FOSSILIZED."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """Outcome of one gate."""

    gate: GateLevel
    passed: bool
    score: float
    """0…1; how clearly the seed deserves the next stage."""
    target_stage: SeedStage
    checks_passed: tuple[str, ...]
    checks_failed: tuple[str, ...]


class PanicReason(Enum):
    """Why the governor stopped a trial."""

    NAN = "governor_nan"
    LOBOTOMY = "governor_lobotomy"
    DIVERGENCE = "governor_divergence"
    BLUEPRINT = "governor_blueprint"
    """A seed failed where it was built, ran, was evaluated or measured."""


@dataclass(frozen=True, slots=True)
class GovernorVerdict:
    """What the governor thinks of one epoch's loss."""

    panic: PanicReason | None
    """None while the trial is healthy."""
    loss: float
    """NaN where a seed failed before there was one."""
    loss_threshold: float | None
    """Loss above which divergence would be called; None before enough history."""
    consecutive_anomalies: int
    failure: str | None = None
    """What a seed that failed said; None where the loss tells all."""

    @property
    def is_healthy(self) -> bool:
        """Whether the epoch may enter the history and be snapshotted."""
        return self.panic is None and self.consecutive_anomalies == 0


class CommandType(Enum):
    """Kinds of adaptation command."""

    SEED = "seed"
    ROLLBACK = "rollback"
    OPTIMIZER = "optimizer"
    CIRCUIT_BREAKER = "circuit_breaker"
    PAUSE = "pause"
    EMERGENCY = "emergency"
    STRUCTURAL_PRUNING = "structural_pruning"


@dataclass(frozen=True, slots=True)
class SeedOperation:
    """What is to happen to one seed."""

    operation: str
    """Name of a `LifecycleOp`."""
    blueprint_id: str | None
    parameters: Mapping[str, float | int | str] = field(default_factory=dict)
    """What the operation needs to be carried out; includes `blending_method` where alpha is to move."""


@dataclass(frozen=True, slots=True)
class AdaptationCommand:
    """A decision of the policy, addressed to the lifecycle."""

    command_id: str
    command_type: CommandType
    target_seed_id: str | None
    target_slot_id: str | None
    seed_operation: SeedOperation | None
    confidence: float
    """Probability of the operation, and of the slot where it names one, 0…1."""
    risk_level: RiskLevel | None = None
    policy_version: str = ""
    """The one policy that decided."""
    training_run_id: str | None = None
    execution_deadline_ms: int | None = None
    """Time from `issued_at` after which the command should no longer be carried out; None has no limit."""
    reason: str = ""
    issued_by: str = "tamiyo"
    issued_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    annotations: Mapping[str, str] = field(default_factory=dict)
    """What the policy saw and how sure it was; numbers and maps as JSON."""
