"""What a service tells telemetry: its steps, what commands came to, and which policies it took or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline.telemetry import (
    CheckpointLoadedPayload,
    FieldReportPayload,
    PolicyUpdateRejectedPayload,
    TamiyoStepEvaluatedPayload,
    TelemetryEvent,
    TelemetryEventType,
)
from esper.tamiyo.service.manifest import ARCHITECTURE_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from esper.leyline.packets import SystemStatePacket
    from esper.leyline.reports import FieldReport
    from esper.leyline.schemas import AdaptationCommand
    from esper.tamiyo.coverage import Coverage
    from esper.tamiyo.service.errors import PolicyRejectedError

SOURCE = "tamiyo_service"


def step_evaluated(
    packet: SystemStatePacket,
    command: AdaptationCommand,
    coverage: Coverage,
    *,
    latency_ms: tuple[float, float, float],
    is_compiled: bool,
    compile_warm_ms: float | None,
) -> TamiyoStepEvaluatedPayload:
    """A step was answered; `latency_ms` is its own, then the median and the 95th percentile of the last ones."""
    operation = command.seed_operation
    assert operation is not None
    assert command.risk_level is not None
    method = operation.parameters.get("blending_method")
    own, median, high = latency_ms
    return TamiyoStepEvaluatedPayload(
        epoch=int(packet.current_epoch),
        packet_id=packet.packet_id,
        command_id=command.command_id,
        operation=operation.operation,
        confidence=command.confidence,
        risk_level=command.risk_level.name,
        tamiyo_policy_version=command.policy_version,
        architecture_version=ARCHITECTURE_VERSION,
        gnn_inference_latency_ms=own,
        gnn_inference_latency_p50_ms=median,
        gnn_inference_latency_p95_ms=high,
        gnn_compile_enabled=is_compiled,
        gnn_compile_warm_ms=compile_warm_ms,
        gnn_feature_coverage=coverage.average,
        gnn_feature_coverage_types=coverage.by_family,
        health_indicators=health_indicators(is_compiled=is_compiled),
        blending_method=None if method is None else str(method),
        training_run_id=command.training_run_id,
        slot_id=command.target_slot_id,
        seed_id=command.target_seed_id,
    )


def tell_outcomes(reports: Sequence[FieldReport]) -> list[TelemetryEvent]:
    """What commands and seeds came to."""
    return [TelemetryEvent(TelemetryEventType.FIELD_REPORT, _field_report(report)) for report in reports]


def tell_rejected(error: PolicyRejectedError, kept: str | None) -> TelemetryEvent:
    """A policy was refused, and `kept` is served on."""
    payload = PolicyUpdateRejectedPayload(reason=error.detail, rejection=error.kind.value, path=str(error.path), tamiyo_policy_version=kept)
    return TelemetryEvent(TelemetryEventType.POLICY_UPDATE_REJECTED, payload, severity="warning")


def tell_loaded(path: Path, version: str) -> TelemetryEvent:
    """A policy is served from now on."""
    payload = CheckpointLoadedPayload(path=str(path), start_episode=0, source=SOURCE)
    return TelemetryEvent(TelemetryEventType.CHECKPOINT_LOADED, payload, message=version)


def health_indicators(*, is_compiled: bool) -> dict[str, str]:
    """`policy`: the architecture; `gnn_compile`: 1 if the network runs compiled, else 0."""
    return {"policy": ARCHITECTURE_VERSION, "gnn_compile": str(int(is_compiled))}


def _field_report(report: FieldReport) -> FieldReportPayload:
    return FieldReportPayload(
        report_id=report.report_id,
        outcome=report.outcome.name,
        tamiyo_policy_version=report.tamiyo_policy_version,
        observation_window_epochs=report.observation_window_epochs,
        metrics=report.metrics,
        command_id=report.command_id,
        training_run_id=report.training_run_id,
        seed_id=report.seed_id,
        slot_id=report.slot_id,
        blueprint_id=report.blueprint_id,
        final_stage=None if report.life is None else report.life.final_stage.name,
        follow_up_actions=report.follow_up_actions,
        notes=report.notes,
    )
