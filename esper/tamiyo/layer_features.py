"""What changes from epoch to epoch in a host's own nodes: its state as a whole, and the measurements of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.graph import NODE_WIDTHS, EdgeType
from esper.leyline.signals import SignalScale, features_of
from esper.leyline.stages import SeedStage
from esper.leyline.traits import OptimizerState
from esper.tamiyo.features import LAYER_MASK, METRICS, STAGE_CODES
from esper.tamiyo.graph_spec import GRAPH_SPEC, INDEX_SCALE, METRIC_LIMIT
from esper.tamiyo.norms import GRADIENT_VARIANCE, LEARNING_RATE, MOMENTUM
from esper.tamiyo.scaling import (
    bounded,
    log_count,
    magnitude,
    measured_mask,
    over_largest,
    points,
    relative_magnitude,
    share_of_graph,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.masks import ActionMasks, GrowthLimits
    from esper.leyline.reports import TrialReport
    from esper.tamiyo.registries import Registries

MAX_ANOMALIES = 5
"""Consecutive anomalies that fill their channel."""
LEARNING_RATE_FLOOR = 1e-8


@dataclass(frozen=True, slots=True)
class LayerMeasurements:
    """Measurements of N layers. NaN is unmeasured."""

    weight_norm: np.ndarray
    gradient_norm: np.ndarray
    gradient_variance: np.ndarray
    update_magnitude: np.ndarray
    saturation_rate: np.ndarray
    update_frequency: np.ndarray
    latency_ms: np.ndarray

    @classmethod
    def of(cls, reports: Sequence[TrialReport]) -> LayerMeasurements:
        """Collect from K reports, layer by layer."""
        read = attrgetter(*cls.__dataclass_fields__)
        rows = [read(layer) for report in reports for layer in report.layers]
        return cls(*np.array(rows, dtype=np.float64).reshape(-1, len(cls.__dataclass_fields__)).T)


def host_wide(reports: Sequence[TrialReport], masks: ActionMasks, limits: GrowthLimits, *, steps_per_epoch: int) -> np.ndarray:
    """Channels [K, F] that every layer node of a graph carries alike."""
    raw = np.array([_host_row(r) for r in reports], dtype=np.float64)
    left, lead, gap, gradient, learning_rate, host, seeds, fossils, anomalies = raw.T[: -len(METRICS)]
    metrics = raw[:, -len(METRICS) :]
    stages = np.array([_stage_counts(r) for r in reports], dtype=np.float64)
    num_slots = max(len(reports[0].slots), 1)
    num_fossils = stages[:, STAGE_CODES[SeedStage.FOSSILIZED]]
    num_alive = num_slots - stages[:, STAGE_CODES[SeedStage.DORMANT]]
    rows = np.zeros((len(reports), NODE_WIDTHS["layer"]), dtype=np.float32)
    GRAPH_SPEC.write(
        "layer",
        rows,
        signals=_signals(reports, steps_per_epoch),
        epochs_left=left,
        signals_mask=np.array([r.signals.feature_mask() for r in reports]),
        accuracy_lead=points(lead),
        accuracy_lead_mask=measured_mask(lead),
        overfit_gap=points(gap),
        overfit_gap_mask=measured_mask(gap),
        host_gradient_norm=np.where(measured_mask(gradient), magnitude(gradient), 0.0),
        host_gradient_norm_mask=measured_mask(gradient),
        learning_rate=magnitude(learning_rate, floor=LEARNING_RATE_FLOOR),
        learning_rate_mask=measured_mask(learning_rate),
        host_params=log_count(host),
        seed_growth=bounded(np.log1p(seeds / np.maximum(host, 1.0))),
        fossil_growth=bounded(np.log1p(fossils / np.maximum(host, 1.0))),
        fossils_left=np.clip(1.0 - num_fossils / max(limits.max_fossils, 1), 0.0, 1.0),
        seeds_left=np.clip(1.0 - num_alive / max(limits.max_seeds, 1), 0.0, 1.0),
        fossils=num_fossils / num_slots,
        stage_shares=stages / num_slots,
        legal_ops=masks.op,
        anomalies=np.minimum(anomalies, MAX_ANOMALIES) / MAX_ANOMALIES,
        **dict(zip(METRICS, np.clip(np.nan_to_num(metrics, nan=0.0, posinf=0.0, neginf=0.0), -METRIC_LIMIT, METRIC_LIMIT).T, strict=True)),
        **{f"{name}_mask": mask for name, mask in zip(METRICS, measured_mask(metrics).T, strict=True)},
    )
    return rows


def write_measurements(nodes: dict[str, np.ndarray], measured: LayerMeasurements, graph: np.ndarray) -> dict[EdgeType, np.ndarray]:
    """Fill the changing channels of layer, activation and parameter nodes, of which there are N each.

    Args:
        nodes: Node type → rows, changed in place.
        measured: Measurements of the N layers.
        graph: [N] graph of each layer.

    Returns:
        Changing edge attributes [N, A] of the relations that join a layer to its activation and its parameters.
    """
    names = (*LAYER_MASK, "update_frequency")
    masks = {name: measured_mask(getattr(measured, name)) for name in names}
    scaled = {
        "weight_norm": magnitude(measured.weight_norm, floor=1e-3, decades=1.0),
        "gradient_norm": magnitude(measured.gradient_norm),
        "gradient_variance": magnitude(measured.gradient_variance, floor=1e-16, decades=4.0),
        "update_magnitude": magnitude(measured.update_magnitude, floor=1e-6, decades=2.0),
        "saturation_rate": measured.saturation_rate,
        "update_frequency": measured.update_frequency,
    }
    values = {name: np.where(masks[name], bounded(scaled[name]), 0.0) for name in names}
    GRAPH_SPEC.write(
        "layer",
        nodes["layer"],
        **values,
        measured_mask=np.stack([masks[name] for name in LAYER_MASK], axis=1),
        update_frequency_mask=masks["update_frequency"],
        relative_gradient=relative_magnitude(measured.gradient_norm, graph),
    )
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
        gradient_variance_score=np.where(masks["gradient_variance"], GRADIENT_VARIANCE.score(measured.gradient_variance), 0.0),
        **{name: values[name] for name in told},
        **{f"{name}_mask": masks[name] for name in told},
    )
    return _layer_edges(measured, values, masks, graph)


def _layer_edges(
    measured: LayerMeasurements, values: dict[str, np.ndarray], masks: dict[str, np.ndarray], graph: np.ndarray
) -> dict[EdgeType, np.ndarray]:
    saturation, zero = masks["saturation_rate"], np.zeros(len(graph))
    active = np.where(saturation, 1.0 - values["saturation_rate"], 0.0)
    contribution = share_of_graph(measured.gradient_norm, graph)
    rate = _convergence_rate(measured)
    tunes = [values["update_magnitude"], masks["update_magnitude"], np.nan_to_num(rate), measured_mask(rate)]
    return {
        ("layer", "feeds", "activation"): np.stack([active, values["saturation_rate"], saturation], axis=1),
        ("activation", "influences", "layer"): np.stack([contribution, zero, masks["gradient_norm"]], axis=1),
        ("parameter", "tunes", "layer"): np.stack(tunes, axis=1),
    }


def write_optimizers(rows: np.ndarray, reports: Sequence[TrialReport], graph: np.ndarray, registries: Registries) -> None:
    """Fill what the parameter nodes [N, F] of a graph carry alike: the state of the optimizer.

    Args:
        rows: Changed in place.
        reports: K reports.
        graph: [N] graph of each node.
        registries: Optimizer families by index.
    """
    states = [r.optimizer or OptimizerState() for r in reports]
    raw = np.array([(r.learning_rate, o.momentum) for r, o in zip(reports, states, strict=True)], dtype=np.float64)
    learning_rate, momentum = raw.T
    family = np.array([registries.optimizer_families.index(o.family) for o in states]) / INDEX_SCALE
    GRAPH_SPEC.write(
        "parameter",
        rows,
        learning_rate=magnitude(learning_rate, floor=LEARNING_RATE_FLOOR)[graph],
        learning_rate_score=bounded(LEARNING_RATE.score(learning_rate))[graph],
        momentum=np.where(measured_mask(momentum), MOMENTUM.score(momentum), 0.0)[graph],
        momentum_mask=measured_mask(momentum)[graph],
        optimizer_family=family[graph],
    )


def layer_latency(measured: LayerMeasurements, graph: np.ndarray) -> dict[str, np.ndarray]:
    """Time of each layer [N] over the largest of its graph, and whether it was measured, by attribute."""
    return {"latency_ms": over_largest(measured.latency_ms, graph), "latency_ms_mask": measured_mask(measured.latency_ms)}


def _convergence_rate(measured: LayerMeasurements) -> np.ndarray:
    """Signal over signal plus noise of the gradient, g²/(g² + v) in 0…1; NaN where unmeasured."""
    signal = np.square(measured.gradient_norm)
    rate: np.ndarray = signal / np.maximum(signal + measured.gradient_variance, 1e-30)
    return np.where(np.isfinite(rate), rate, np.nan)


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
        report.train_loss,
        report.gradient_norm,
        report.timings.samples_per_s,
        report.timings.hook_latency_ms,
    )


def _stage_counts(report: TrialReport) -> list[int]:
    counts = [0] * len(STAGE_CODES)
    for slot in report.slots:
        counts[STAGE_CODES[SeedStage.DORMANT if slot.seed is None else slot.seed.stage]] += 1
    return counts


def _signals(reports: Sequence[TrialReport], steps_per_epoch: int) -> np.ndarray:
    parts = []
    for (max_epochs, num_slots), group in groupby(reports, key=lambda r: (r.max_epochs, len(r.slots))):
        scale = SignalScale(max(max_epochs, 1), max(max_epochs, 1) * steps_per_epoch, max(num_slots, 1))
        parts.append(features_of([r.signals for r in group], scale))
    return np.concatenate(parts)
