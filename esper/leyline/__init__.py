"""The contracts by which the packages meet: stages, actions, signals, reports, commands, events, ports.

Nothing here trains, decides or stores anything, and nothing here needs torch to be imported.
"""

from __future__ import annotations

from esper.leyline.actions import (
    BlendStyle,
    FactoredAction,
    Head,
    LifecycleOp,
    build_action_enum,
)
from esper.leyline.alpha import (
    AlphaCurve,
    AlphaMode,
    BlendOperator,
)
from esper.leyline.graph import (
    GraphBatch,
)
from esper.leyline.host import (
    HostFamily,
    HostProtocol,
    InjectionSpec,
    LayerSpec,
)
from esper.leyline.load import (
    ConfigError,
)
from esper.leyline.masks import (
    ActionMasks,
    GrowthLimits,
    SlotView,
    compute_masks,
    explain_illegal,
)
from esper.leyline.packets import (
    HardwareContext,
    HostDescription,
    LayerState,
    PacketError,
    SeedState,
    SlotDescription,
    SlotState,
    SystemStatePacket,
)
from esper.leyline.ports import (
    Catalogue,
    Emitter,
    GraphEncoder,
    ScriptedPolicy,
    Sink,
    TrainablePolicy,
)
from esper.leyline.reports import (
    Counterfactuals,
    EpisodeOutcome,
    FieldOutcome,
    FieldReport,
    SeedLife,
    SeedMetrics,
    SeedStateReport,
    SlotReport,
    StageTransition,
    TrialReport,
)
from esper.leyline.reward import (
    RewardComponents,
)
from esper.leyline.rng import (
    SeedTree,
)
from esper.leyline.rollout import (
    ActMode,
    DecisionBatch,
    GroupId,
    StepBatch,
)
from esper.leyline.schemas import (
    AdaptationCommand,
    BlueprintSpec,
    CommandType,
    GateLevel,
    GateResult,
    GovernorVerdict,
    PanicReason,
    RiskLevel,
    SeedOperation,
)
from esper.leyline.signals import (
    TENSOR_SCHEMA_SIZE,
    TENSOR_SCHEMA_VERSION,
    FastTrainingSignals,
    SignalScale,
    TensorSchema,
    TrainingMetrics,
    TrainingSignals,
)
from esper.leyline.stages import (
    VALID_TRANSITIONS,
    SeedStage,
    is_active_stage,
    is_failure_stage,
    is_terminal_stage,
    is_valid_transition,
    parse_stage,
)
from esper.leyline.telemetry import (
    SeedTelemetry,
    SeedTelemetryRegistry,
    TelemetryEvent,
    TelemetryEventType,
)
from esper.leyline.traits import (
    OptimizerState,
    SeedTraits,
)

__all__ = [
    "TENSOR_SCHEMA_SIZE",
    "TENSOR_SCHEMA_VERSION",
    "VALID_TRANSITIONS",
    "ActMode",
    "ActionMasks",
    "AdaptationCommand",
    "AlphaCurve",
    "AlphaMode",
    "BlendOperator",
    "BlendStyle",
    "BlueprintSpec",
    "Catalogue",
    "CommandType",
    "ConfigError",
    "Counterfactuals",
    "DecisionBatch",
    "Emitter",
    "EpisodeOutcome",
    "FactoredAction",
    "FastTrainingSignals",
    "FieldOutcome",
    "FieldReport",
    "GateLevel",
    "GateResult",
    "GovernorVerdict",
    "GraphBatch",
    "GraphEncoder",
    "GroupId",
    "GrowthLimits",
    "HardwareContext",
    "Head",
    "HostDescription",
    "HostFamily",
    "HostProtocol",
    "InjectionSpec",
    "LayerSpec",
    "LayerState",
    "LifecycleOp",
    "OptimizerState",
    "PacketError",
    "PanicReason",
    "RewardComponents",
    "RiskLevel",
    "ScriptedPolicy",
    "SeedLife",
    "SeedMetrics",
    "SeedOperation",
    "SeedStage",
    "SeedState",
    "SeedStateReport",
    "SeedTelemetry",
    "SeedTelemetryRegistry",
    "SeedTraits",
    "SeedTree",
    "SignalScale",
    "Sink",
    "SlotDescription",
    "SlotReport",
    "SlotState",
    "SlotView",
    "StageTransition",
    "StepBatch",
    "SystemStatePacket",
    "TelemetryEvent",
    "TelemetryEventType",
    "TensorSchema",
    "TrainablePolicy",
    "TrainingMetrics",
    "TrainingSignals",
    "TrialReport",
    "build_action_enum",
    "compute_masks",
    "explain_illegal",
    "is_active_stage",
    "is_failure_stage",
    "is_terminal_stage",
    "is_valid_transition",
    "parse_stage",
]
