"""Events: what may happen, which payload each kind carries, and the envelope around it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum, auto
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from esper.leyline.telemetry.infra import HeartbeatPayload, InfrastructureSnapshotPayload, MemoryWarningPayload
from esper.leyline.telemetry.kasmina import (
    SeedFossilizedPayload,
    SeedGateEvaluatedPayload,
    SeedGerminatedPayload,
    SeedPrunedPayload,
    SeedStageChangedPayload,
)
from esper.leyline.telemetry.legacy import LEGACY_NAMES, modernised
from esper.leyline.telemetry.run import CheckpointLoadedPayload, PartFaultPayload, RunFinishedPayload, TrainingStartedPayload
from esper.leyline.telemetry.simic import (
    AnalyticsSnapshotPayload,
    AnomalyDetectedPayload,
    CounterfactualMatrixPayload,
    EpisodeOutcomePayload,
    PerformanceDegradationPayload,
    RewardComputedPayload,
    RewardHackingSuspectedPayload,
    TrendDetectedPayload,
)
from esper.leyline.telemetry.tamiyo import (
    FieldReportPayload,
    PolicyUpdateRejectedPayload,
    TamiyoInitiatedPayload,
    TamiyoPolicyUpdatePayload,
    TamiyoStepEvaluatedPayload,
)
from esper.leyline.telemetry.tolaria import TolariaBatchPayload, TolariaEpochPayload, TolariaRollbackPayload

if TYPE_CHECKING:
    from collections.abc import Mapping

TelemetryPayload = (
    TamiyoPolicyUpdatePayload
    | TamiyoInitiatedPayload
    | PolicyUpdateRejectedPayload
    | TamiyoStepEvaluatedPayload
    | FieldReportPayload
    | TolariaEpochPayload
    | TolariaBatchPayload
    | TolariaRollbackPayload
    | SeedGerminatedPayload
    | SeedStageChangedPayload
    | SeedGateEvaluatedPayload
    | SeedFossilizedPayload
    | SeedPrunedPayload
    | TrendDetectedPayload
    | EpisodeOutcomePayload
    | CounterfactualMatrixPayload
    | AnomalyDetectedPayload
    | PerformanceDegradationPayload
    | RewardComputedPayload
    | RewardHackingSuspectedPayload
    | AnalyticsSnapshotPayload
    | TrainingStartedPayload
    | CheckpointLoadedPayload
    | PartFaultPayload
    | RunFinishedPayload
    | InfrastructureSnapshotPayload
    | HeartbeatPayload
    | MemoryWarningPayload
)


class TelemetryEventType(StrEnum):
    """What happened. The value is the name in lower case, which is also the name of its table."""

    TAMIYO_POLICY_UPDATE = auto()
    TAMIYO_INITIATED = auto()
    POLICY_UPDATE_REJECTED = auto()
    TAMIYO_STEP_EVALUATED = auto()
    FIELD_REPORT = auto()

    TOLARIA_EPOCH_COMPLETED = auto()
    TOLARIA_BATCH_COMPLETED = auto()
    TOLARIA_ROLLBACK = auto()

    SEED_GERMINATED = auto()
    SEED_STAGE_CHANGED = auto()
    SEED_GATE_EVALUATED = auto()
    SEED_FOSSILIZED = auto()
    SEED_PRUNED = auto()

    PLATEAU_DETECTED = auto()
    DEGRADATION_DETECTED = auto()
    IMPROVEMENT_DETECTED = auto()
    EPISODE_OUTCOME = auto()
    COUNTERFACTUAL_MATRIX_COMPUTED = auto()
    GRADIENT_ANOMALY = auto()
    RATIO_EXPLOSION_DETECTED = auto()
    RATIO_COLLAPSE_DETECTED = auto()
    VALUE_COLLAPSE_DETECTED = auto()
    GRADIENT_PATHOLOGY_DETECTED = auto()
    NUMERICAL_INSTABILITY_DETECTED = auto()
    PERFORMANCE_DEGRADATION = auto()
    REWARD_COMPUTED = auto()
    REWARD_HACKING_SUSPECTED = auto()
    ANALYTICS_SNAPSHOT = auto()

    TRAINING_STARTED = auto()
    CHECKPOINT_LOADED = auto()
    PART_LOST = auto()
    PART_RECOVERED = auto()
    RUN_FINISHED = auto()

    INFRASTRUCTURE_SNAPSHOT = auto()
    HEARTBEAT = auto()
    MEMORY_WARNING = auto()


PAYLOAD_CLASSES: Mapping[TelemetryEventType, type[TelemetryPayload]] = MappingProxyType(
    {
        TelemetryEventType.TAMIYO_POLICY_UPDATE: TamiyoPolicyUpdatePayload,
        TelemetryEventType.TAMIYO_INITIATED: TamiyoInitiatedPayload,
        TelemetryEventType.POLICY_UPDATE_REJECTED: PolicyUpdateRejectedPayload,
        TelemetryEventType.TAMIYO_STEP_EVALUATED: TamiyoStepEvaluatedPayload,
        TelemetryEventType.FIELD_REPORT: FieldReportPayload,
        TelemetryEventType.TOLARIA_EPOCH_COMPLETED: TolariaEpochPayload,
        TelemetryEventType.TOLARIA_BATCH_COMPLETED: TolariaBatchPayload,
        TelemetryEventType.TOLARIA_ROLLBACK: TolariaRollbackPayload,
        TelemetryEventType.SEED_GERMINATED: SeedGerminatedPayload,
        TelemetryEventType.SEED_STAGE_CHANGED: SeedStageChangedPayload,
        TelemetryEventType.SEED_GATE_EVALUATED: SeedGateEvaluatedPayload,
        TelemetryEventType.SEED_FOSSILIZED: SeedFossilizedPayload,
        TelemetryEventType.SEED_PRUNED: SeedPrunedPayload,
        TelemetryEventType.PLATEAU_DETECTED: TrendDetectedPayload,
        TelemetryEventType.DEGRADATION_DETECTED: TrendDetectedPayload,
        TelemetryEventType.IMPROVEMENT_DETECTED: TrendDetectedPayload,
        TelemetryEventType.EPISODE_OUTCOME: EpisodeOutcomePayload,
        TelemetryEventType.COUNTERFACTUAL_MATRIX_COMPUTED: CounterfactualMatrixPayload,
        TelemetryEventType.GRADIENT_ANOMALY: AnomalyDetectedPayload,
        TelemetryEventType.RATIO_EXPLOSION_DETECTED: AnomalyDetectedPayload,
        TelemetryEventType.RATIO_COLLAPSE_DETECTED: AnomalyDetectedPayload,
        TelemetryEventType.VALUE_COLLAPSE_DETECTED: AnomalyDetectedPayload,
        TelemetryEventType.GRADIENT_PATHOLOGY_DETECTED: AnomalyDetectedPayload,
        TelemetryEventType.NUMERICAL_INSTABILITY_DETECTED: AnomalyDetectedPayload,
        TelemetryEventType.PERFORMANCE_DEGRADATION: PerformanceDegradationPayload,
        TelemetryEventType.REWARD_COMPUTED: RewardComputedPayload,
        TelemetryEventType.REWARD_HACKING_SUSPECTED: RewardHackingSuspectedPayload,
        TelemetryEventType.ANALYTICS_SNAPSHOT: AnalyticsSnapshotPayload,
        TelemetryEventType.TRAINING_STARTED: TrainingStartedPayload,
        TelemetryEventType.CHECKPOINT_LOADED: CheckpointLoadedPayload,
        TelemetryEventType.PART_LOST: PartFaultPayload,
        TelemetryEventType.PART_RECOVERED: PartFaultPayload,
        TelemetryEventType.RUN_FINISHED: RunFinishedPayload,
        TelemetryEventType.INFRASTRUCTURE_SNAPSHOT: InfrastructureSnapshotPayload,
        TelemetryEventType.HEARTBEAT: HeartbeatPayload,
        TelemetryEventType.MEMORY_WARNING: MemoryWarningPayload,
    }
)

LEGACY_EVENT_NAMES: Mapping[str, TelemetryEventType] = MappingProxyType(
    {name: TelemetryEventType[legacy.current] for name, legacy in LEGACY_NAMES.items()}
)
"""Deprecated names, accepted on input."""

Severity = Literal["debug", "info", "warning", "error", "critical"]
_SEVERITIES = frozenset(get_args(Severity))
_CONTEXT_NAMES = frozenset({"seed_id", "slot_id", "epoch", "message"})


@dataclass(frozen=True, slots=True)
class TelemetryEvent:
    """One thing that happened.

    Where the payload has a field that the envelope has too, the two are one: the envelope takes the payload's value.
    """

    event_type: TelemetryEventType
    data: TelemetryPayload
    event_id: str = ""
    """Unique within a run; where none is given, the emitter makes it of producer, life, batch and place, e.g. `env-3/0/17/4`."""
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    seed_id: str | None = None
    slot_id: str | None = None
    epoch: int | None = None
    group_id: str = "default"
    message: str = ""
    severity: Severity = "info"

    def __post_init__(self) -> None:
        """Check that the parts belong together.

        Raises:
            TypeError: If the payload is not the one of this event type.
            ValueError: If the time has no zone, the severity is unknown, or envelope and payload contradict each other.
        """
        expected = PAYLOAD_CLASSES[self.event_type]
        if type(self.data) is not expected:
            raise TypeError(f"{self.event_type.name} carries {expected.__name__}, got {type(self.data).__name__}")
        if self.timestamp.tzinfo is None:
            raise ValueError(f"{self.event_type.name}: timestamp {self.timestamp} has no time zone")
        if self.severity not in _SEVERITIES:
            raise ValueError(f"severity {self.severity!r} is not one of {', '.join(get_args(Severity))}")
        for name in _shared_names(cast("Any", expected)):
            ours, theirs = getattr(self, name), getattr(self.data, name)
            if ours not in (None, "") and ours != theirs:
                raise ValueError(f"{self.event_type.name}: {name} is {ours!r} in the envelope and {theirs!r} in the payload")
            object.__setattr__(self, name, theirs)

    def to_dict(self) -> dict[str, Any]:
        """Turn into JSON-like values that `from_dict` accepts again."""
        envelope = {f.name: getattr(self, f.name) for f in fields(self)}
        envelope["event_type"] = self.event_type.name
        envelope["timestamp"] = self.timestamp.isoformat()
        envelope["data"] = self.data.to_dict()
        return envelope

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TelemetryEvent:
        """Read an event; event types by their current or legacy names, and what came under a legacy one as it was written then.

        Raises:
            KeyError: If `event_type`, `data` or a required field of the payload is missing.
            ValueError: If a key or the event type is unknown.
        """
        unknown = sorted(values.keys() - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"an event has no field {', '.join(map(repr, unknown))}")
        event_type = parse_event_type(values["event_type"])
        payload = modernised(values["event_type"].upper(), values["data"])
        arguments = dict(values, event_type=event_type, data=PAYLOAD_CLASSES[event_type].from_dict(payload))
        if isinstance(values.get("timestamp"), str):
            arguments["timestamp"] = datetime.fromisoformat(values["timestamp"])
        return cls(**arguments)


@cache
def _shared_names(payload_class: Any) -> tuple[str, ...]:
    """Fields that a payload has in common with the envelope."""
    return tuple(f.name for f in fields(payload_class) if f.name in _CONTEXT_NAMES)


def parse_payload_name(name: str) -> type[TelemetryPayload]:
    """Find a payload's class by its current or legacy name.

    Raises:
        ValueError: If no payload has that name.
    """
    known = {cls.__name__: cls for cls in PAYLOAD_CLASSES.values()}
    legacy = {old.payload: known[old.payload_class.__name__] for old in LEGACY_NAMES.values()}
    if name not in known and name not in legacy:
        raise ValueError(f"payload {name!r} is not one of {', '.join(known)}")
    return known.get(name) or legacy[name]


def parse_event_type(name: str) -> TelemetryEventType:
    """Read an event type from outside: current or legacy name, in any case.

    Raises:
        ValueError: If no event type has that name.
    """
    upper = name.upper()
    event_type = LEGACY_EVENT_NAMES.get(upper) or TelemetryEventType.__members__.get(upper)
    if event_type is None:
        raise ValueError(f"event type {name!r} is not one of {', '.join(TelemetryEventType.__members__)}")
    return event_type


def event_domain(event_type: TelemetryEventType) -> str:
    """Group of an event: the module its payload lives in (tamiyo, tolaria, kasmina, simic, infra or run)."""
    return PAYLOAD_CLASSES[event_type].__module__.rpartition(".")[2]
