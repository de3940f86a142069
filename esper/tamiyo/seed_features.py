"""The seed nodes: one per slot, in slot order, empty or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.actions import TEMPO_EPOCHS
from esper.leyline.alpha import AlphaMode, BlendOperator
from esper.leyline.graph import NODE_WIDTHS, EdgeType
from esper.leyline.stages import SeedStage
from esper.leyline.telemetry.seed import SeedTelemetry
from esper.tamiyo.graph_spec import GRAPH_SPEC, INDEX_SCALE, SLOT_OPS, STAGES
from esper.tamiyo.scaling import bounded, magnitude, measured_mask, points, relative_magnitude, signed_log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.masks import ActionMasks
    from esper.leyline.reports import SeedStateReport, TrialReport

STAT_FLOOR = 1e-3
_STAGE_INDEX: dict[SeedStage, int] = {stage: index for index, stage in enumerate(STAGES)}
_MASKED_TELEMETRY = slice(0, GRAPH_SPEC.channels["seed"]["telemetry_mask"].stop - GRAPH_SPEC.channels["seed"]["telemetry_mask"].start)


def write_seeds(rows: np.ndarray, reports: Sequence[TrialReport], masks: ActionMasks, graph: np.ndarray) -> dict[EdgeType, np.ndarray]:
    """Fill the changing channels of K·S seed nodes.

    Args:
        rows: [K·S, F], changed in place.
        reports: K reports with S slots each.
        masks: Their legal choices.
        graph: [K·S] graph of each node.

    Returns:
        Changing edge attributes of the seeds' relations.
    """
    slots = [slot for report in reports for slot in report.slots]
    stats = [(s.gradient_norm, s.activation_mean, s.activation_std, s.spatial_std) for s in slots]
    raw = np.array(stats, dtype=np.float64).reshape(-1, 4)
    measured = measured_mask(raw)
    gradient, mean, std, spatial = raw.T
    spreads = [magnitude(x, floor=STAT_FLOOR, decades=1.0) for x in (std, spatial)]
    scaled = np.stack([magnitude(gradient), signed_log(mean), *spreads], axis=1)
    ops = list(SLOT_OPS)
    legal = (masks.op[:, ops, None] & masks.slot[:, ops]).transpose(0, 2, 1).reshape(-1, len(ops))
    GRAPH_SPEC.write(
        "seed",
        rows,
        slot_stats=np.where(measured, scaled, 0.0),
        slot_stats_mask=measured,
        relative_gradient=relative_magnitude(gradient, graph),
        legal_ops=legal,
    )
    stages = [SeedStage.DORMANT if s.seed is None else s.seed.stage for s in slots]
    rows[np.arange(len(slots)), GRAPH_SPEC.channel("seed", "stage") + np.array([_STAGE_INDEX[s] for s in stages], dtype=np.int64)] = 1.0
    alpha = np.array([0.0 if s.seed is None else s.seed.alpha for s in slots])
    occupied = [(i, slots[i].seed, reports[graph[i]]) for i in range(len(slots))]
    _write_occupied(rows, [(i, seed, report) for i, seed, report in occupied if seed is not None])
    return {
        ("seed", "monitors", "layer"): np.stack([measured[:, 0], alpha], axis=1),
        ("seed", "allowed", "parameter"): legal.any(axis=1)[:, None],
    }


def _write_occupied(rows: np.ndarray, seeds: Sequence[tuple[int, SeedStateReport, TrialReport]]) -> None:
    if not seeds:
        return
    raw = np.array([_seed_row(seed, report) for _, seed, report in seeds], dtype=np.float64)
    target, progress, tempo, contribution, solo, ratio, age, gained, parameters = raw.T
    pictures = [SeedTelemetry.from_report(seed, report.epoch, report.max_epochs) for _, seed, report in seeds]
    features = np.zeros((len(seeds), NODE_WIDTHS["seed"]), dtype=np.float32)
    GRAPH_SPEC.write(
        "seed",
        features,
        telemetry=bounded(np.array([p.to_features() for p in pictures], dtype=np.float64)),
        telemetry_mask=np.array([p.feature_mask()[_MASKED_TELEMETRY] for p in pictures]),
        blueprint=np.array([seed.blueprint_place + 1 for _, seed, _ in seeds]) / INDEX_SCALE,
        occupied=np.ones(len(seeds)),
        alpha_target=target,
        alpha_progress=progress,
        alpha_mode=np.eye(len(AlphaMode))[[seed.alpha_mode for _, seed, _ in seeds]],
        operator=np.eye(len(BlendOperator))[[seed.operator for _, seed, _ in seeds]],
        tempo=tempo,
        contribution=points(contribution),
        contribution_mask=measured_mask(contribution),
        solo=points(solo),
        solo_mask=measured_mask(solo),
        gradient_ratio=np.where(measured_mask(ratio), magnitude(ratio, floor=1e-4), 0.0),
        gradient_ratio_mask=measured_mask(ratio),
        age=age,
        total_improvement=points(gained),
        relative_parameters=magnitude(parameters, floor=1e-4),
    )
    rows[[index for index, _, _ in seeds]] += features


def _seed_row(seed: SeedStateReport, report: TrialReport) -> tuple[float | None, ...]:
    metrics = seed.metrics
    return (
        seed.alpha_target,
        seed.alpha_progress,
        seed.tempo_epochs / max(TEMPO_EPOCHS),
        metrics.contribution,
        metrics.solo_contribution,
        metrics.gradient_ratio,
        seed.age_epochs / max(report.max_epochs, 1),
        metrics.total_improvement,
        seed.num_parameters / max(report.host_params, 1),
    )
