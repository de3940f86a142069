"""Reports as packets: how Esper's own training tells a service what it knows."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from esper.leyline.actions import LifecycleOp
from esper.leyline.packets import HostDescription, LayerState, SeedState, SlotDescription, SlotState, SystemStatePacket
from esper.leyline.reports import SeedMetrics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from esper.leyline.masks import ActionMasks, GrowthLimits
    from esper.leyline.reports import SlotReport, TrialReport
    from esper.leyline.schemas import BlueprintSpec

_GATED = (LifecycleOp.ADVANCE, LifecycleOp.FOSSILIZE)
"""Operations that are legal only where the gate is open."""


def host_from_report(
    report: TrialReport, *, limits: GrowthLimits | None = None, blueprints: Iterable[BlueprintSpec] = ()
) -> HostDescription:
    """What a report says of its host that holds for the whole run."""
    return HostDescription(
        layers=tuple(layer.spec for layer in report.layers),
        slots=tuple(SlotDescription(s.slot_id, s.layer_index, s.channels, s.positions) for s in report.slots),
        max_epochs=report.max_epochs,
        blueprints=tuple(blueprints),
        limits=limits,
        num_parameters=report.host_params,
    )


def packet_from_report(report: TrialReport, *, training_run_id: str | None = None) -> SystemStatePacket:
    """Everything in a report that an observation is made of; what depends on a clock is told only where the report holds it."""
    metrics = {
        "loss": report.train_loss,
        "gradient_norm": report.gradient_norm,
        "samples_per_s": report.timings.samples_per_s,
        "hook_latency_ms": report.timings.hook_latency_ms,
        "learning_rate": report.learning_rate,
        "training_accuracy": report.train_accuracy,
        "committed_accuracy": report.committed_accuracy,
        "consecutive_anomalies": None if report.verdict is None else float(report.verdict.consecutive_anomalies),
        "seed_params": float(report.seed_params),
        "fossil_params": float(report.fossil_params),
    }
    layer_ids = [layer.spec.layer_id for layer in report.layers]
    return SystemStatePacket(
        current_epoch=report.epoch,
        validation_accuracy=report.val_accuracy,
        validation_loss=report.val_loss,
        training_metrics={name: value for name, value in metrics.items() if value is not None},
        seed_states=tuple(_seed_state(i, slot, report.masks, layer_ids) for i, slot in enumerate(report.slots) if slot.seed is not None),
        global_step=report.signals.global_step,
        training_loss=report.train_loss,
        training_run_id=training_run_id,
        max_epochs=report.max_epochs,
        layer_states=tuple(
            LayerState(x.spec.layer_id, *(getattr(x, f.name) for f in fields(LayerState) if f.name != "layer_id")) for x in report.layers
        ),
        slot_states=tuple(SlotState(*(getattr(s, f.name) for f in fields(SlotState))) for s in report.slots),
        signals=report.signals,
        optimizer=report.optimizer,
    )


def _seed_state(index: int, slot: SlotReport, masks: ActionMasks, layer_ids: list[str]) -> SeedState:
    seed = slot.seed
    assert seed is not None
    measured = {f.name: getattr(seed.metrics, f.name) for f in fields(SeedMetrics) if f.name != "gradient_norm"}
    return SeedState(
        seed_id=seed.seed_id,
        stage=seed.stage,
        gradient_norm=seed.metrics.gradient_norm,
        learning_rate=None if seed.traits is None else seed.traits.learning_rate,
        layer_depth=slot.layer_index,
        metrics={name: float(value) for name, value in measured.items() if value is not None},
        age_epochs=seed.age_epochs,
        risk_score=None if seed.traits is None else seed.traits.risk_score,
        slot_id=slot.slot_id,
        monitored_layers=tuple(layer_ids[i] for i in slot.monitored_layers),
        blueprint_id=seed.blueprint_id,
        blueprint_place=seed.blueprint_place,
        epochs_in_stage=seed.epochs_in_stage,
        num_parameters=seed.num_parameters,
        alpha=seed.alpha,
        alpha_target=seed.alpha_target,
        alpha_mode=seed.alpha_mode,
        alpha_progress=seed.alpha_progress,
        operator=seed.operator,
        tempo_epochs=seed.tempo_epochs,
        is_gate_open=any(bool(masks.op[0, op] and masks.slot[0, op, index]) for op in _GATED),
        traits=seed.traits,
    )
