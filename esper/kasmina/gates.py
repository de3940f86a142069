"""Quality gates: has a seed earned its next stage? Pure; what was not measured never passes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from esper.leyline.alpha import AlphaMode
from esper.leyline.schemas import GateLevel, GateResult
from esper.leyline.stages import SeedStage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from esper.kasmina.config import GrowthConfig
    from esper.leyline.reports import SeedStateReport

GATE_OF_STAGE = {
    SeedStage.GERMINATED: GateLevel.G1,
    SeedStage.TRAINING: GateLevel.G2,
    SeedStage.BLENDING: GateLevel.G3,
    SeedStage.HOLDING: GateLevel.G5,
}
"""The gate that leads out of a stage."""
TARGET_OF_GATE = {
    GateLevel.G0: SeedStage.GERMINATED,
    GateLevel.G1: SeedStage.TRAINING,
    GateLevel.G2: SeedStage.BLENDING,
    GateLevel.G3: SeedStage.HOLDING,
    GateLevel.G4: SeedStage.HOLDING,
    GateLevel.G5: SeedStage.FOSSILIZED,
}
FULL_IMPROVEMENT = 5.0
"""Accuracy points gained in training that score 1 at G2."""
FULL_CONTRIBUTION = 10.0
"""Accuracy points contributed that score 1 at G5."""

Check = tuple[str, bool]


def evaluate_gate(gate: GateLevel, seed: SeedStateReport, config: GrowthConfig) -> GateResult:
    """Judge `seed` at `gate`.

    Returns:
        The checks by name, and a score in 0…1 that says how clearly the seed deserves the next stage.
    """
    match gate:
        case GateLevel.G0:
            return _result(gate, 1.0, [("ids present", bool(seed.seed_id and seed.slot_id and seed.blueprint_id))])
        case GateLevel.G1:
            return _result(gate, 1.0, [("germinated", seed.stage is SeedStage.GERMINATED)])
        case GateLevel.G2:
            gained = seed.metrics.improvement_since_stage_start
            return _result(gate, gained / FULL_IMPROVEMENT, _training_checks(seed, config))
        case GateLevel.G3:
            return _result(gate, seed.alpha, _blending_checks(seed, config))
        case GateLevel.G4:
            return _result(gate, 1.0, [])
        case GateLevel.G5:
            contribution = seed.metrics.contribution
            return _result(gate, (contribution or 0.0) / FULL_CONTRIBUTION, _holding_checks(seed, config))


def _training_checks(seed: SeedStateReport, config: GrowthConfig) -> list[Check]:
    metrics = seed.metrics
    health, ratio = metrics.gradient_health, metrics.gradient_ratio
    checks = [
        ("training", seed.stage is SeedStage.TRAINING),
        (f"trained for {config.min_training_epochs} epochs", seed.epochs_in_stage >= config.min_training_epochs),
        ("gradients measured", health is not None),
        ("gradients not exploding", metrics.has_exploding is False),
        (f"gradient health at least {config.min_gradient_health}", health is not None and health >= config.min_gradient_health),
    ]
    if config.gates == "strict":
        checks += [
            (f"improved by {config.strict_improvement} points", metrics.improvement_since_stage_start >= config.strict_improvement),
            (f"gradient ratio at least {config.strict_gradient_ratio}", ratio is not None and ratio >= config.strict_gradient_ratio),
        ]
    return checks


def _blending_checks(seed: SeedStateReport, config: GrowthConfig) -> list[Check]:
    checks = [
        ("blending", seed.stage is SeedStage.BLENDING),
        ("target is full", seed.alpha_target == 1.0),
        ("target reached", seed.alpha == seed.alpha_target and seed.alpha_mode is AlphaMode.HOLD),
    ]
    if config.gates == "strict":
        checks.append((f"blended for {config.strict_blending_epochs} epochs", seed.epochs_in_stage >= config.strict_blending_epochs))
    return checks


def _holding_checks(seed: SeedStateReport, config: GrowthConfig) -> list[Check]:
    contribution = seed.metrics.contribution
    is_measured = contribution is not None and math.isfinite(contribution)
    checks = [
        ("holding", seed.stage is SeedStage.HOLDING),
        (f"held for {config.min_holding_epochs} epochs", seed.epochs_in_stage >= config.min_holding_epochs),
        ("contribution measured", is_measured),
    ]
    if config.gates == "strict":
        enough = contribution is not None and is_measured and contribution >= config.strict_contribution
        checks.append((f"contributes {config.strict_contribution} points", enough))
    return checks


def _result(gate: GateLevel, score: float, checks: Iterable[Check]) -> GateResult:
    named = list(checks)
    return GateResult(
        gate=gate,
        passed=all(passed for _, passed in named),
        score=min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0,
        target_stage=TARGET_OF_GATE[gate],
        checks_passed=tuple(name for name, passed in named if passed),
        checks_failed=tuple(name for name, passed in named if not passed),
    )
