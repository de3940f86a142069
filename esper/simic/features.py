"""Flat feature vectors of 27, 37, 54 or 64 numbers, for value-based learners, MLP baselines and comparisons.

All are in [-1, 1]; what was not measured is marked in a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from esper.leyline.gradient_health import gradient_health, is_exploding, is_vanishing, norm_share
from esper.leyline.signals import TENSOR_SCHEMA_SIZE
from esper.leyline.stages import SeedStage
from esper.leyline.telemetry.seed import SEED_FEATURE_DIM, SeedTelemetry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper.leyline.reports import SeedStateReport, TrialReport
    from esper.leyline.signals import SignalScale

FeatureSet = Literal["base", "seed", "model", "all"]
MODEL_FEATURE_DIM = 27
FEATURE_DIMS: Mapping[FeatureSet, int] = {
    "base": TENSOR_SCHEMA_SIZE,
    "seed": TENSOR_SCHEMA_SIZE + SEED_FEATURE_DIM,
    "model": TENSOR_SCHEMA_SIZE + MODEL_FEATURE_DIM,
    "all": TENSOR_SCHEMA_SIZE + MODEL_FEATURE_DIM + SEED_FEATURE_DIM,
}
NUM_CLASSES = 10
NUM_LAYERS = 7


@dataclass(frozen=True, slots=True)
class Features:
    """One observation."""

    values: np.ndarray
    """[F] float32 in [-1, 1]; 0, or −1 for an absent loss or accuracy, where not measured."""
    mask: np.ndarray
    """[F] bool: was it measured?"""


def features_of_report(report: TrialReport, which: FeatureSet, scale: SignalScale) -> Features:
    """Observe a trial.

    Args:
        report: The trial after an epoch.
        which: base; seed = base + 10 of the active seed; model = base + 27 of the whole network; all = base + model + seed.
        scale: What counts are divided by.
    """
    parts: list[tuple[list[float], list[bool]]] = [(report.signals.to_vector(scale), report.signals.feature_mask())]
    if which in ("model", "all"):
        parts.append(_model_features(report))
    if which in ("seed", "all"):
        parts.append(_seed_features(report))
    return Features(
        values=np.array([value for values, _ in parts for value in values], dtype=np.float32),
        mask=np.array([known for _, mask in parts for known in mask], dtype=bool),
    )


def feature_set_of(dim: int) -> FeatureSet:
    """The feature set that a model with `dim` inputs was trained on.

    Raises:
        ValueError: If no set has that many features.
    """
    for which, size in FEATURE_DIMS.items():
        if size == dim:
            return which
    raise ValueError(f"no feature set has {dim} features; there are {dict(FEATURE_DIMS)}")


def active_seed(report: TrialReport) -> SeedStateReport | None:
    """The seed that most needs attention: the furthest along that is no fossil yet, else the first fossil."""
    seeds = [slot.seed for slot in report.slots if slot.seed is not None]
    living = [seed for seed in seeds if seed.stage is not SeedStage.FOSSILIZED]
    return max(living, key=lambda seed: seed.stage) if living else next(iter(seeds), None)


def _seed_features(report: TrialReport) -> tuple[list[float], list[bool]]:
    seed = active_seed(report)
    if seed is None:
        return [0.0] * SEED_FEATURE_DIM, [False] * SEED_FEATURE_DIM
    telemetry = SeedTelemetry.from_report(seed, report.epoch, report.max_epochs)
    return [float(np.clip(value, -1.0, 1.0)) for value in telemetry.to_features()], telemetry.feature_mask()


def _model_features(report: TrialReport) -> tuple[list[float], list[bool]]:
    """The 27 features of the whole network; per-class accuracies and sharpness are not measured by trials.

    Gradient norm, variance of the layers' norms, shares of vanishing and exploding layers, health; ten classes, their
    variance, sharpness; seven layers' norms; three red flags.
    """
    norms = [layer.gradient_norm for layer in report.layers]
    known = [norm for norm in norms if norm is not None]
    vanishing = sum(map(is_vanishing, known)) / len(known) if known else None
    exploding = sum(map(is_exploding, known)) / len(known) if known else None
    health = gradient_health(known) if known else None
    has_issues = float(health < 1.0) if health is not None else None
    by_layer = [*norms[:NUM_LAYERS], *[None] * (NUM_LAYERS - len(norms))]
    values = [
        _share(report.gradient_norm),
        _share(float(np.var(known)) if known else None),
        vanishing,
        exploding,
        health,
        *[None] * NUM_CLASSES,
        None,
        None,
        *[_share(norm) for norm in by_layer],
        None,
        None,
        has_issues,
    ]
    return [0.0 if value is None else float(value) for value in values], [value is not None for value in values]


def _share(norm: float | None) -> float | None:
    return None if norm is None else norm_share(norm)
