"""The seed nodes: one per slot, in slot order, empty or not."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from esper.leyline.actions import TEMPO_EPOCHS
from esper.leyline.alpha import BLENDING_METHODS, METHOD_OF_CURVE, AlphaCurve
from esper.leyline.graph import NODE_WIDTHS
from esper.leyline.stages import SeedStage
from esper.leyline.telemetry.seed import SeedTelemetry
from esper.leyline.traits import SeedTraits
from esper.tamiyo.features import SLOT_OPS, STAGE_CODES
from esper.tamiyo.graph_spec import GRAPH_SPEC, INDEX_SCALE
from esper.tamiyo.scaling import bounded, magnitude, measured_mask, over_largest, points, relative_magnitude, signed_log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.masks import ActionMasks
    from esper.leyline.reports import SeedStateReport, TrialReport
    from esper.tamiyo.registries import Registries

    Occupied = Sequence[tuple[int, SeedStateReport, TrialReport]]
    """Node, seed and report of every slot that is not empty."""

STAT_FLOOR = 1e-3
UNKNOWN_TRAIT = 0.5
"""Value of a trait that nobody told, beside a mask of 0."""
_MASKED_TELEMETRY = slice(0, GRAPH_SPEC.channels["seed"]["telemetry_mask"].stop - GRAPH_SPEC.channels["seed"]["telemetry_mask"].start)
_METHOD_COLUMNS = {method: column for column, method in enumerate(BLENDING_METHODS)}
_IS_METHOD_OF_CURVE = np.array([[METHOD_OF_CURVE[curve] == method for method in BLENDING_METHODS] for curve in AlphaCurve])
_NO_TRAITS = SeedTraits()
_MASKED_TRAITS = ("activity_level", "success_rate", "risk_score")
_READ_TRAITS = attrgetter(*_MASKED_TRAITS, "risk_tolerance")


class SeedNodes:
    """Writes seed nodes for one policy, which knows some seeds by name and its own version."""

    def __init__(self, registries: Registries, policy_version: str | None) -> None:
        """Write for a policy of that version, if it has one."""
        self._registries = registries
        self._version = policy_version

    def write(self, rows: np.ndarray, reports: Sequence[TrialReport], masks: ActionMasks, graph: np.ndarray) -> dict[str, np.ndarray]:
        """Fill the changing channels of K·S seed nodes.

        Args:
            rows: [K·S, F], changed in place.
            reports: K reports with S slots each.
            masks: Their legal choices.
            graph: [K·S] graph of each node.

        Returns:
            Changing attributes [K·S] that the edges of each seed carry, by name.
        """
        slots = [slot for report in reports for slot in report.slots]
        raw = np.array([(s.gradient_norm, s.activation_mean, s.activation_std, s.spatial_std) for s in slots], dtype=np.float64).reshape(
            -1, 4
        )
        measured = measured_mask(raw)
        gradient, mean, std, spatial = raw.T
        spreads = [magnitude(x, floor=STAT_FLOOR, decades=1.0) for x in (std, spatial)]
        scaled = np.stack([magnitude(gradient), signed_log(mean), *spreads], axis=1)
        ops = list(SLOT_OPS)
        legal = (masks.op[:, ops, None] & masks.slot[:, ops]).transpose(0, 2, 1).reshape(-1, len(ops))
        stages = [STAGE_CODES[SeedStage.DORMANT if s.seed is None else s.seed.stage] for s in slots]
        GRAPH_SPEC.write(
            "seed",
            rows,
            slot_stats=np.where(measured, scaled, 0.0),
            slot_stats_mask=measured,
            relative_gradient=relative_magnitude(gradient, graph),
            legal_ops=legal,
            stage=np.array(stages) / INDEX_SCALE,
        )
        seeds = [(i, slot.seed, reports[graph[i]]) for i, slot in enumerate(slots) if slot.seed is not None]
        attributes = _edge_attributes(seeds, measured[:, 0], graph) | {"may_act": legal.any(axis=1)}
        if seeds:
            features = np.zeros((len(seeds), NODE_WIDTHS["seed"]), dtype=np.float32)
            _write_life(features, seeds)
            self._write_traits(features, seeds, masks.alpha_curve[graph[[i for i, _, _ in seeds]]])
            rows[[i for i, _, _ in seeds]] += features
        return attributes

    def _write_traits(self, features: np.ndarray, seeds: Occupied, legal_curves: np.ndarray) -> None:
        traits = [seed.traits or _NO_TRAITS for _, seed, _ in seeds]
        raw = np.array([_READ_TRAITS(t) for t in traits], dtype=np.float64)
        known = measured_mask(raw)
        levels = np.where(known, np.clip(np.where(known, raw, 0.0), 0.0, 1.0), UNKNOWN_TRAIT)
        registries = self._registries
        GRAPH_SPEC.write(
            "seed",
            features,
            **{name: levels[:, i] for i, name in enumerate(_MASKED_TRAITS)},
            **{f"{name}_mask": known[:, i] for i, name in enumerate(_MASKED_TRAITS)},
            risk_tolerance=2.0 * levels[:, -1] - 1.0,
            seed_id=np.array([registries.seeds.index(seed.seed_id) for _, seed, _ in seeds]) / INDEX_SCALE,
            specialization=np.array([registries.specializations.index(t.specialization) for t in traits]) / INDEX_SCALE,
            allowed_blending_methods=_methods(traits, legal_curves),
            quarantine_only=np.array([_yes_no(t.quarantine_only) for t in traits]),
            policy_version=np.array([_yes_no(self._is_own(t.policy_version)) for t in traits]),
            alpha_schedule=np.array([0 if t.alpha_schedule is None else t.alpha_schedule + 1 for t in traits]) / INDEX_SCALE,
        )

    def _is_own(self, version: str | None) -> bool | None:
        return None if version is None or self._version is None else version == self._version


def _yes_no(value: bool | None) -> int:
    return 0 if value is None else 1 if value else -1


def _methods(traits: Sequence[SeedTraits], legal_curves: np.ndarray) -> np.ndarray:
    methods: np.ndarray = (legal_curves @ _IS_METHOD_OF_CURVE).astype(np.float64)
    for row, trait in enumerate(traits):
        if trait.allowed_blending_methods is not None:
            columns = [_METHOD_COLUMNS[m] for m in trait.allowed_blending_methods if m in _METHOD_COLUMNS]
            allowed = np.zeros(len(BLENDING_METHODS))
            allowed[columns] = 1.0
            methods[row] *= allowed
    return methods


def _edge_attributes(seeds: Occupied, is_measured: np.ndarray, graph: np.ndarray) -> dict[str, np.ndarray]:
    alpha, frequency, threshold = np.zeros(len(graph)), is_measured.astype(np.float64), np.full(len(graph), np.nan)
    for node, seed, _ in seeds:
        alpha[node] = seed.alpha
        if seed.traits is not None:
            told = seed.traits.monitoring_frequency
            frequency[node] = frequency[node] if told is None else told
            threshold[node] = np.nan if seed.traits.adaptation_trigger_threshold is None else seed.traits.adaptation_trigger_threshold
    return {
        "monitoring_frequency": frequency,
        "alpha": alpha,
        "adaptation_trigger_threshold": over_largest(threshold, graph),
        "adaptation_trigger_threshold_mask": measured_mask(threshold),
    }


def _write_life(features: np.ndarray, seeds: Occupied) -> None:
    raw = np.array([_seed_row(seed, report) for _, seed, report in seeds], dtype=np.float64)
    target, progress, tempo, contribution, solo, ratio, age, gained, parameters = raw.T
    pictures = [SeedTelemetry.from_report(seed, report.epoch, report.max_epochs) for _, seed, report in seeds]
    GRAPH_SPEC.write(
        "seed",
        features,
        telemetry=bounded(np.array([p.to_features() for p in pictures], dtype=np.float64)),
        telemetry_mask=np.array([p.feature_mask()[_MASKED_TELEMETRY] for p in pictures]),
        blueprint=np.array([seed.blueprint_place + 1 for _, seed, _ in seeds]) / INDEX_SCALE,
        alpha_target=target,
        alpha_progress=progress,
        alpha_mode=np.array([seed.alpha_mode + 1 for _, seed, _ in seeds]) / INDEX_SCALE,
        operator=np.array([seed.operator + 1 for _, seed, _ in seeds]) / INDEX_SCALE,
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
