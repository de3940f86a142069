"""From a probe to reports: what is known of every layer and every slot after an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.leyline.reports import LayerReport, SlotReport
from esper.leyline.traits import OptimizerState

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from esper.kasmina.grad_probe import HostProbe
    from esper.kasmina.model import MorphogeneticModel


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
