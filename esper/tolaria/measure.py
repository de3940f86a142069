"""From measurements to reports: what is known of layers, slots, gates and time after an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.kasmina.gates import GATE_OF_STAGE, evaluate_gate
from esper.leyline.reports import ClosedGate, EpochTimings, LayerReport, SlotReport
from esper.leyline.traits import OptimizerState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer

    from esper.kasmina.config import GrowthConfig
    from esper.kasmina.grad_probe import HostProbe
    from esper.kasmina.model import MorphogeneticModel
    from esper.leyline.reports import SeedStateReport
    from esper.tolaria.engine.base import EpochResult, Evaluation


def layer_reports(model: MorphogeneticModel, measured: HostProbe) -> tuple[LayerReport, ...]:
    """One report per host layer, in execution order."""
    return tuple(
        LayerReport(
            spec=spec,
            weight_norm=layer.weight_norm,
            gradient_norm=layer.gradient_norm,
            gradient_variance=layer.gradient_variance,
            update_magnitude=None,
            saturation_rate=layer.saturation_rate,
        )
        for spec, layer in zip(model.host.layer_specs(), measured.layers, strict=True)
    )


def optimizer_state(optimizer: Optimizer) -> OptimizerState:
    """Family and momentum of the optimizer of a host; the first beta counts as momentum."""
    settings = optimizer.param_groups[0]
    momentum = settings["betas"][0] if "betas" in settings else settings.get("momentum")
    return OptimizerState(type(optimizer).__name__.lower(), momentum)


def slot_reports(model: MorphogeneticModel, measured: HostProbe) -> tuple[SlotReport, ...]:
    """One report per slot, in slot order."""
    return tuple(
        SlotReport(
            slot_id=spec.slot_id,
            layer_index=layer_index,
            channels=spec.channels,
            positions=spec.positions,
            seed=seed,
            gradient_norm=slot.gradient_norm,
            activation_mean=slot.activation_mean,
            activation_std=slot.activation_std,
            spatial_std=slot.spatial_std,
        )
        for spec, layer_index, seed, slot in zip(model.specs, model.slot_layers(), model.seed_reports(), measured.slots, strict=True)
    )


def closed_gates(seeds: Sequence[SeedStateReport | None], config: GrowthConfig) -> tuple[ClosedGate, ...]:
    """Gates that keep seeds in their stages, in slot order."""
    asked = [seed for seed in seeds if seed is not None and seed.stage in GATE_OF_STAGE]
    results = [(seed, evaluate_gate(GATE_OF_STAGE[seed.stage], seed, config)) for seed in asked]
    return tuple(ClosedGate(seed.slot_id, seed.seed_id, result) for seed, result in results if not result.passed)


def timings(result: EpochResult | None, evaluation: Evaluation, test: Evaluation | None) -> EpochTimings:
    """Wall time of an epoch's parts, where they were measured."""
    steps = result.step_times if result else None
    return EpochTimings(
        host_epoch_time_ms=1e3 * result.wall_sec if result else None,
        evaluation_time_ms=1e3 * (evaluation.wall_sec + (test.wall_sec if test else 0.0)),
        forward_time_ms=1e3 * steps.forward_sec if steps else None,
        backward_time_ms=1e3 * steps.backward_sec if steps else None,
        optimizer_step_time_ms=1e3 * steps.optimizer_sec if steps else None,
        data_transfer_time_ms=1e3 * steps.transfer_sec if steps else None,
    )
