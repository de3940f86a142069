from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from esper.kasmina.config import GrowthConfig
from esper.kasmina.gates import evaluate_gate
from esper.leyline.alpha import AlphaMode, BlendOperator
from esper.leyline.reports import SeedMetrics, SeedStateReport
from esper.leyline.schemas import GateLevel
from esper.leyline.stages import SeedStage

PERMISSIVE = GrowthConfig()
STRICT = GrowthConfig(gates="strict")
METRICS = SeedMetrics(
    accuracy_at_germination=40.0,
    accuracy_at_stage_start=50.0,
    current_val_accuracy=52.0,
    best_val_accuracy=52.0,
    gradient_norm=0.5,
    gradient_health=0.9,
    has_vanishing=False,
    has_exploding=False,
    gradient_ratio=0.2,
    contribution=3.0,
)
SEED = SeedStateReport(
    seed_id="r0c0@0",
    slot_id="r0c0",
    blueprint_id="conv",
    blueprint_place=0,
    stage=SeedStage.TRAINING,
    epochs_in_stage=10,
    age_epochs=11,
    num_parameters=10,
    alpha=0.0,
    alpha_target=1.0,
    alpha_mode=AlphaMode.HOLD,
    alpha_progress=1.0,
    operator=BlendOperator.ADD,
    tempo_epochs=3,
    metrics=METRICS,
)
BLENDING = replace(SEED, stage=SeedStage.BLENDING, alpha=1.0)
HOLDING = replace(SEED, stage=SeedStage.HOLDING, alpha=1.0, epochs_in_stage=1)


def measured(seed: SeedStateReport, **metrics: Any) -> SeedStateReport:
    return replace(seed, metrics=replace(seed.metrics, **metrics))


def passes(gate: GateLevel, seed: SeedStateReport, config: GrowthConfig = PERMISSIVE) -> bool:
    return evaluate_gate(gate, seed, config).passed


@pytest.mark.parametrize("config", [PERMISSIVE, STRICT])
@pytest.mark.parametrize(
    ("gate", "seed", "target"),
    [
        (GateLevel.G0, SEED, SeedStage.GERMINATED),
        (GateLevel.G1, replace(SEED, stage=SeedStage.GERMINATED), SeedStage.TRAINING),
        (GateLevel.G2, SEED, SeedStage.BLENDING),
        (GateLevel.G3, BLENDING, SeedStage.HOLDING),
        (GateLevel.G4, SEED, SeedStage.HOLDING),
        (GateLevel.G5, HOLDING, SeedStage.FOSSILIZED),
    ],
)
def test_a_good_seed_passes(gate: GateLevel, seed: SeedStateReport, target: SeedStage, config: GrowthConfig) -> None:
    result = evaluate_gate(gate, seed, config)
    assert result.passed
    assert result.target_stage is target
    assert not result.checks_failed


@pytest.mark.parametrize(
    "seed",
    [
        replace(SEED, epochs_in_stage=9),
        replace(SEED, stage=SeedStage.BLENDING),
        measured(SEED, gradient_health=0.69),
        measured(SEED, has_exploding=True),
        measured(SEED, gradient_health=None, has_exploding=None),
    ],
)
def test_g2_refuses_young_unhealthy_and_unmeasured_seeds(seed: SeedStateReport) -> None:
    assert not passes(GateLevel.G2, seed)


@pytest.mark.parametrize(
    "seed",
    [
        measured(SEED, current_val_accuracy=50.4),
        measured(SEED, gradient_ratio=0.09),
        measured(SEED, gradient_ratio=None),
        measured(SEED, current_val_accuracy=math.nan),
    ],
)
def test_strict_g2_asks_for_improvement_and_gradient_share(seed: SeedStateReport) -> None:
    assert passes(GateLevel.G2, seed)
    assert not passes(GateLevel.G2, seed, STRICT)


@pytest.mark.parametrize(
    "seed",
    [
        replace(BLENDING, alpha=0.7, alpha_target=0.7),
        replace(BLENDING, alpha=0.9, alpha_mode=AlphaMode.UP),
        replace(BLENDING, alpha=1.0, alpha_target=0.0, alpha_mode=AlphaMode.DOWN),
        replace(BLENDING, stage=SeedStage.HOLDING),
    ],
)
def test_g3_asks_for_a_full_and_settled_blend(seed: SeedStateReport) -> None:
    assert not passes(GateLevel.G3, seed)


def test_strict_g3_asks_for_time() -> None:
    young = replace(BLENDING, epochs_in_stage=9)
    assert passes(GateLevel.G3, young)
    assert not passes(GateLevel.G3, young, STRICT)


@pytest.mark.parametrize(
    "seed",
    [
        measured(HOLDING, contribution=None),
        measured(HOLDING, contribution=math.nan),
        measured(HOLDING, contribution=math.inf),
        replace(HOLDING, epochs_in_stage=0),
        replace(HOLDING, stage=SeedStage.BLENDING),
    ],
)
@pytest.mark.parametrize("config", [PERMISSIVE, STRICT])
def test_g5_asks_for_a_measured_contribution(seed: SeedStateReport, config: GrowthConfig) -> None:
    assert not passes(GateLevel.G5, seed, config)


def test_strict_g5_asks_for_a_good_contribution() -> None:
    harmful = measured(HOLDING, contribution=-4.0)
    assert passes(GateLevel.G5, harmful)
    assert not passes(GateLevel.G5, harmful, STRICT)


@pytest.mark.parametrize(
    ("gate", "seed", "score"),
    [
        (GateLevel.G2, SEED, 0.4),
        (GateLevel.G2, measured(SEED, current_val_accuracy=90.0), 1.0),
        (GateLevel.G5, HOLDING, 0.3),
        (GateLevel.G5, measured(HOLDING, contribution=-4.0), 0.0),
        (GateLevel.G5, measured(HOLDING, contribution=None), 0.0),
        (GateLevel.G5, measured(HOLDING, contribution=math.nan), 0.0),
    ],
)
def test_scores(gate: GateLevel, seed: SeedStateReport, score: float) -> None:
    assert evaluate_gate(gate, seed, PERMISSIVE).score == pytest.approx(score)


def test_a_failed_check_is_named() -> None:
    result = evaluate_gate(GateLevel.G2, replace(SEED, epochs_in_stage=3), PERMISSIVE)
    assert result.checks_failed == ("trained for 10 epochs",)
    assert not evaluate_gate(GateLevel.G0, replace(SEED, blueprint_id=""), PERMISSIVE).passed
