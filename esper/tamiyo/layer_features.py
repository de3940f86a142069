"""What changes from epoch to epoch in a host's own nodes: its state as a whole, and the measurements of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.graph import NODE_WIDTHS, EdgeType
from esper.leyline.signals import SignalScale, features_of
from esper.leyline.stages import SeedStage
from esper.tamiyo.graph_spec import GRAPH_SPEC, STAGES
from esper.tamiyo.scaling import bounded, log_count, magnitude, measured_mask, points, relative_magnitude, share_of_graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.masks import ActionMasks, GrowthLimits
    from esper.leyline.reports import TrialReport

MAX_ANOMALIES = 5
"""Consecutive anomalies that fill their channel."""
LEARNING_RATE_FLOOR = 1e-8
_STAGE_INDEX: dict[SeedStage, int] = {stage: index for index, stage in enumerate(STAGES)}


@dataclass(frozen=True, slots=True)
class LayerMeasurements:
    """Measurements of N layers. NaN is unmeasured."""

    weight_norm: np.ndarray
    gradient_norm: np.ndarray
    gradient_variance: np.ndarray
    update_magnitude: np.ndarray
    saturation_rate: np.ndarray

    @classmethod
    def of(cls, reports: Sequence[TrialReport]) -> LayerMeasurements:
        """Collect from K reports, layer by layer."""
        rows = [
            (x.weight_norm, x.gradient_norm, x.gradient_variance, x.update_magnitude, x.saturation_rate) for r in reports for x in r.layers
        ]
        return cls(*np.array(rows, dtype=np.float64).reshape(-1, 5).T)


def host_wide(reports: Sequence[TrialReport], masks: ActionMasks, limits: GrowthLimits, *, steps_per_epoch: int) -> np.ndarray:
    """Channels [K, F] that every layer node of a graph carries alike."""
    raw = np.array([_host_row(r) for r in reports], dtype=np.float64)
    left, lead, gap, gradient, learning_rate, host, seeds, fossils, anomalies = raw.T
    stages = np.array([_stage_counts(r) for r in reports], dtype=np.float64)
    num_slots = max(len(reports[0].slots), 1)
    num_fossils = stages[:, _STAGE_INDEX[SeedStage.FOSSILIZED]]
    num_alive = num_slots - stages[:, _STAGE_INDEX[SeedStage.DORMANT]]
    rows = np.zeros((len(reports), NODE_WIDTHS["layer"]), dtype=np.float32)
    GRAPH_SPEC.write(
        "layer",
        rows,
        signals=_signals(reports, steps_per_epoch),
        epochs_left=left,
        accuracy_lead=points(lead),
        overfit_gap=points(gap),
        overfit_gap_mask=measured_mask(gap),
        host_gradient_norm=np.where(measured_mask(gradient), magnitude(gradient), 0.0),
        host_gradient_norm_mask=measured_mask(gradient),
        learning_rate=magnitude(learning_rate, floor=LEARNING_RATE_FLOOR),
        host_params=log_count(host),
        seed_growth=bounded(np.log1p(seeds / np.maximum(host, 1.0))),
        fossil_growth=bounded(np.log1p(fossils / np.maximum(host, 1.0))),
        fossils_left=np.clip(1.0 - num_fossils / max(limits.max_fossils, 1), 0.0, 1.0),
        seeds_left=np.clip(1.0 - num_alive / max(limits.max_seeds, 1), 0.0, 1.0),
        fossils=num_fossils / num_slots,
        stage_shares=stages / num_slots,
        legal_ops=masks.op,
        anomalies=np.minimum(anomalies, MAX_ANOMALIES) / MAX_ANOMALIES,
    )
    return rows


def write_measurements(
    nodes: dict[str, np.ndarray], measured: LayerMeasurements, graph: np.ndarray, learning_rate: np.ndarray
) -> dict[EdgeType, np.ndarray]:
    """Fill the changing channels of layer, activation and parameter nodes, of which there are N each.

    Args:
        nodes: Node type → rows, changed in place.
        measured: Measurements of the N layers.
        graph: [N] graph of each layer.
        learning_rate: [N] scaled learning rate.

    Returns:
        Changing edge attributes [N, 2] of the relations that join a layer to its activation and its parameters.
    """
    masks = {name: measured_mask(getattr(measured, name)) for name in LayerMeasurements.__dataclass_fields__}
    scaled = {
        "weight_norm": magnitude(measured.weight_norm, floor=1e-3, decades=1.0),
        "gradient_norm": magnitude(measured.gradient_norm),
        "gradient_variance": magnitude(measured.gradient_variance, floor=1e-16, decades=4.0),
        "update_magnitude": magnitude(measured.update_magnitude, floor=1e-6, decades=2.0),
        "saturation_rate": measured.saturation_rate,
    }
    values = {name: np.where(masks[name], bounded(scaled[name]), 0.0) for name in scaled}
    relative = relative_magnitude(measured.gradient_norm, graph)
    GRAPH_SPEC.write("layer", nodes["layer"], **values, measured_mask=np.stack(list(masks.values()), axis=1), relative_gradient=relative)
    GRAPH_SPEC.write(
        "activation",
        nodes["activation"],
        saturation_rate=values["saturation_rate"],
        saturation_rate_mask=masks["saturation_rate"],
        gradient_flow=values["gradient_norm"],
        gradient_flow_mask=masks["gradient_norm"],
    )
    told = ("gradient_variance", "weight_norm", "update_magnitude")
    GRAPH_SPEC.write(
        "parameter",
        nodes["parameter"],
        learning_rate=learning_rate,
        **{name: values[name] for name in told},
        **{f"{name}_mask": masks[name] for name in told},
    )
    active = np.where(masks["saturation_rate"], 1.0 - values["saturation_rate"], 0.0)
    return {
        ("layer", "feeds", "activation"): np.stack([active, values["saturation_rate"]], axis=1),
        ("activation", "influences", "layer"): np.stack([share_of_graph(measured.gradient_norm, graph), np.zeros(len(graph))], axis=1),
        ("parameter", "tunes", "layer"): np.stack([values["update_magnitude"], _convergence_rate(measured)], axis=1),
    }


def _convergence_rate(measured: LayerMeasurements) -> np.ndarray:
    """Signal over signal plus noise of the gradient, g²/(g² + v) in 0…1; 0 where unmeasured."""
    signal = np.square(measured.gradient_norm)
    rate = signal / np.maximum(signal + measured.gradient_variance, 1e-30)
    return np.where(np.isfinite(rate), rate, 0.0)


def _host_row(report: TrialReport) -> tuple[float | None, ...]:
    train = report.train_accuracy
    return (
        1.0 - report.epoch / max(report.max_epochs, 1),
        report.val_accuracy - report.committed_accuracy,
        None if train is None else train - report.val_accuracy,
        report.gradient_norm,
        report.learning_rate,
        report.host_params,
        report.seed_params,
        report.fossil_params,
        0 if report.verdict is None else report.verdict.consecutive_anomalies,
    )


def _stage_counts(report: TrialReport) -> list[int]:
    counts = [0] * len(STAGES)
    for slot in report.slots:
        counts[_STAGE_INDEX[SeedStage.DORMANT if slot.seed is None else slot.seed.stage]] += 1
    return counts


def _signals(reports: Sequence[TrialReport], steps_per_epoch: int) -> np.ndarray:
    parts = []
    for (max_epochs, num_slots), group in groupby(reports, key=lambda r: (r.max_epochs, len(r.slots))):
        scale = SignalScale(max(max_epochs, 1), max(max_epochs, 1) * steps_per_epoch, max(num_slots, 1))
        parts.append(features_of([r.signals for r in group], scale))
    return np.concatenate(parts)
