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
    parse_payload_name,
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
    LEGACY_NAME_OF,
    TWIN_MESSAGE,
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
    PartFaultPayload,
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
    FieldReportPayload,
    PolicyUpdateRejectedPayload,
    TamiyoInitiatedPayload,
    TamiyoPolicyUpdatePayload,
    TamiyoStepEvaluatedPayload,
)
from esper.leyline.telemetry.tolaria import (
    TolariaBatchPayload,
    TolariaEpochPayload,
    TolariaRollbackPayload,
)

__all__ = [
    "ENVELOPE_COLUMNS",
    "LEGACY_EVENT_NAMES",
    "LEGACY_NAME_OF",
    "PAYLOAD_CLASSES",
    "SEED_FEATURE_DIM",
    "SEED_TELEMETRY_SCHEMA_VERSION",
    "TWIN_MESSAGE",
    "ActionAlternative",
    "AnalyticsSnapshotPayload",
    "AnomalyDetectedPayload",
    "BatchEpochCompletedPayload",
    "CheckpointLoadedPayload",
    "CounterfactualConfig",
    "CounterfactualMatrixPayload",
    "EpisodeOutcomePayload",
    "EpochCompletedPayload",
    "FieldReportPayload",
    "GovernorRollbackPayload",
    "HeartbeatPayload",
    "InfrastructureSnapshotPayload",
    "MemoryWarningPayload",
    "PPOUpdatePayload",
    "PartFaultPayload",
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
    "TamiyoStepEvaluatedPayload",
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
    "parse_payload_name",
    "record_batch",
    "table_name",
]
