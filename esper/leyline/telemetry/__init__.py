"""Telemetry contracts: events with typed payloads, their Arrow schemas, and snapshots of seeds."""

from __future__ import annotations

from esper.leyline.telemetry.event import (
    LEGACY_EVENT_NAMES,
    PAYLOAD_CLASSES,
    TelemetryEvent,
    TelemetryEventType,
    TelemetryPayload,
    event_domain,
    parse_event_type,
)
from esper.leyline.telemetry.infra import (
    HeartbeatPayload,
    InfrastructureSnapshotPayload,
    MemoryWarningPayload,
)
from esper.leyline.telemetry.kasmina import (
    SeedFossilizedPayload,
    SeedGateEvaluatedPayload,
    SeedGerminatedPayload,
    SeedPrunedPayload,
    SeedSnapshot,
    SeedStageChangedPayload,
)
from esper.leyline.telemetry.legacy import (
    BatchEpochCompletedPayload,
    EpochCompletedPayload,
    GovernorRollbackPayload,
    PPOUpdatePayload,
)
from esper.leyline.telemetry.payload import (
    Payload,
)
from esper.leyline.telemetry.run import (
    CheckpointLoadedPayload,
    RunFinishedPayload,
    TrainingStartedPayload,
)
from esper.leyline.telemetry.schema import (
    ENVELOPE_COLUMNS,
    event_schema,
    events_of,
    record_batch,
    table_name,
)
from esper.leyline.telemetry.seed import (
    SEED_FEATURE_DIM,
    SEED_TELEMETRY_SCHEMA_VERSION,
    SeedTelemetry,
    SeedTelemetryRegistry,
)
from esper.leyline.telemetry.simic import (
    ActionAlternative,
    AnalyticsSnapshotPayload,
    AnomalyDetectedPayload,
    CounterfactualConfig,
    CounterfactualMatrixPayload,
    EpisodeOutcomePayload,
    PerformanceDegradationPayload,
    RewardComputedPayload,
    RewardHackingSuspectedPayload,
    TrendDetectedPayload,
)
from esper.leyline.telemetry.tamiyo import (
    PolicyUpdateRejectedPayload,
    TamiyoInitiatedPayload,
    TamiyoPolicyUpdatePayload,
)
from esper.leyline.telemetry.tolaria import (
    TolariaBatchPayload,
    TolariaEpochPayload,
    TolariaRollbackPayload,
)

__all__ = [
    "ENVELOPE_COLUMNS",
    "LEGACY_EVENT_NAMES",
    "PAYLOAD_CLASSES",
    "SEED_FEATURE_DIM",
    "SEED_TELEMETRY_SCHEMA_VERSION",
    "ActionAlternative",
    "AnalyticsSnapshotPayload",
    "AnomalyDetectedPayload",
    "BatchEpochCompletedPayload",
    "CheckpointLoadedPayload",
    "CounterfactualConfig",
    "CounterfactualMatrixPayload",
    "EpisodeOutcomePayload",
    "EpochCompletedPayload",
    "GovernorRollbackPayload",
    "HeartbeatPayload",
    "InfrastructureSnapshotPayload",
    "MemoryWarningPayload",
    "PPOUpdatePayload",
    "Payload",
    "PerformanceDegradationPayload",
    "PolicyUpdateRejectedPayload",
    "RewardComputedPayload",
    "RewardHackingSuspectedPayload",
    "RunFinishedPayload",
    "SeedFossilizedPayload",
    "SeedGateEvaluatedPayload",
    "SeedGerminatedPayload",
    "SeedPrunedPayload",
    "SeedSnapshot",
    "SeedStageChangedPayload",
    "SeedTelemetry",
    "SeedTelemetryRegistry",
    "TamiyoInitiatedPayload",
    "TamiyoPolicyUpdatePayload",
    "TelemetryEvent",
    "TelemetryEventType",
    "TelemetryPayload",
    "TolariaBatchPayload",
    "TolariaEpochPayload",
    "TolariaRollbackPayload",
    "TrainingStartedPayload",
    "TrendDetectedPayload",
    "event_domain",
    "event_schema",
    "events_of",
    "parse_event_type",
    "record_batch",
    "table_name",
]
