"""A seed's local picture and the collection of such pictures."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta

import pytest

from esper.leyline.alpha import AlphaMode, BlendOperator
from esper.leyline.reports import SeedMetrics, SeedStateReport
from esper.leyline.stages import SeedStage
from esper.leyline.telemetry.seed import SeedTelemetry, SeedTelemetryRegistry

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def make_report(stage: SeedStage = SeedStage.BLENDING, gradient_norm: float | None = None) -> SeedStateReport:
    metrics = SeedMetrics(
        accuracy_at_germination=40.0,
        accuracy_at_stage_start=50.0,
        current_val_accuracy=54.0,
        best_val_accuracy=55.0,
        gradient_norm=gradient_norm,
    )
    return SeedStateReport(
        seed_id="s1",
        slot_id="r0c1",
        blueprint_id="norm",
        blueprint_place=1,
        stage=stage,
        epochs_in_stage=5,
        age_epochs=9,
        num_parameters=16,
        alpha=0.3,
        alpha_target=1.0,
        alpha_mode=AlphaMode.UP,
        alpha_progress=0.3,
        operator=BlendOperator.ADD,
        tempo_epochs=5,
        metrics=metrics,
    )


def test_features_match_their_formulas() -> None:
    seed = SeedTelemetry(
        seed_id="s",
        gradient_norm=2.0,
        gradient_health=0.75,
        has_vanishing=True,
        has_exploding=False,
        accuracy=62.0,
        accuracy_delta=-4.0,
        epochs_in_stage=10,
        stage=4,
        alpha=0.3,
        epoch=5,
        max_epochs=20,
    )
    assert seed.to_features() == pytest.approx([0.2, 0.75, 1.0, 0.0, 0.2, 0.62, -0.4, 0.5, 0.3, 0.25])
    assert len(seed.to_features()) == len(seed.feature_mask()) == SeedTelemetry.feature_dim() == 10


def test_extremes_are_clipped() -> None:
    seed = SeedTelemetry("s", gradient_norm=math.inf, accuracy_delta=-1000.0, epochs_in_stage=999, stage=10, max_epochs=0)
    features = seed.to_features()
    assert (features[0], features[4], features[6], features[7], features[9]) == (1.0, 1.0, -1.0, 1.0, 0.0)
    assert SeedTelemetry("s", gradient_norm=math.nan).to_features()[0] == 1.0
    assert SeedTelemetry("s", stage=0).to_features()[7] == 0.0


def test_an_unmeasured_gradient_is_masked_and_not_called_healthy() -> None:
    seed = SeedTelemetry.from_report(make_report(), epoch=3, max_epochs=12)
    assert seed.feature_mask() == [False] * 4 + [True] * 6
    assert seed.to_features()[:4] == [0.0] * 4
    measured = SeedTelemetry("s", gradient_norm=0.0, gradient_health=0.0)
    assert all(measured.feature_mask())


def test_a_report_becomes_a_snapshot() -> None:
    seed = SeedTelemetry.from_report(make_report(gradient_norm=0.5), epoch=3, max_epochs=12)
    assert (seed.seed_id, seed.blueprint_id, seed.layer_id, seed.stage) == ("s1", "norm", "r0c1", 4)
    assert (seed.accuracy, seed.accuracy_delta, seed.alpha, seed.gradient_norm) == (54.0, 4.0, 0.3, 0.5)
    assert seed.to_features()[9] == 0.25


def test_a_snapshot_goes_stale_after_its_threshold() -> None:
    seed = SeedTelemetry("s", captured_at=NOON)
    assert not seed.is_stale(now=NOON + timedelta(seconds=60))
    assert seed.is_stale(now=NOON + timedelta(seconds=61))
    assert seed.is_stale(5.0, now=NOON + timedelta(seconds=6))
    assert not SeedTelemetry("s").is_stale()
    assert seed.is_stale()


def test_a_snapshot_reads_back_through_json() -> None:
    seed = SeedTelemetry("s", "conv", "r0c0", gradient_norm=None, has_vanishing=None, accuracy=3.0, captured_at=NOON)
    assert SeedTelemetry.from_dict(json.loads(json.dumps(seed.to_dict()))) == seed


def test_reading_is_strict() -> None:
    values = SeedTelemetry("s").to_dict()
    with pytest.raises(KeyError, match=r"SeedTelemetry\.alpha"):
        SeedTelemetry.from_dict({k: v for k, v in values.items() if k != "alpha"})
    with pytest.raises(KeyError, match="schema_version"):
        SeedTelemetry.from_dict({k: v for k, v in values.items() if k != "schema_version"})
    with pytest.raises(ValueError, match="'colour'"):
        SeedTelemetry.from_dict({**values, "colour": 1})
    with pytest.raises(ValueError, match="version 99"):
        SeedTelemetry.from_dict({**values, "schema_version": 99})


@pytest.fixture
def registry() -> SeedTelemetryRegistry:
    seeds = SeedTelemetryRegistry()
    for seed_id, blueprint, layer in (("a", "conv", "r0c0"), ("b", "norm", "r0c0"), ("c", "conv", "r0c1")):
        seeds.register(seed_id, blueprint, layer)
    return seeds


def ids(seeds: list[SeedTelemetry]) -> list[str]:
    return [seed.seed_id for seed in seeds]


def test_seeds_are_found_by_blueprint_layer_and_stage(registry: SeedTelemetryRegistry) -> None:
    registry.update("c", stage=int(SeedStage.BLENDING))
    assert ids(registry.all()) == ["a", "b", "c"]
    assert ids(registry.by_blueprint("conv")) == ["a", "c"]
    assert ids(registry.by_layer("r0c0")) == ["a", "b"]
    assert ids(registry.by_stage(SeedStage.BLENDING)) == ["c"]


def test_an_update_changes_the_seed_and_its_time(registry: SeedTelemetryRegistry) -> None:
    registry.update("a", captured_at=NOON)
    registry.update("a", accuracy=12.0, alpha=0.5)
    seed = registry.get("a")
    assert seed is not None
    assert (seed.accuracy, seed.alpha) == (12.0, 0.5)
    assert seed.captured_at > NOON


def test_mistakes_are_named(registry: SeedTelemetryRegistry) -> None:
    with pytest.raises(ValueError, match="'a' is registered"):
        registry.register("a", "conv", "r0c0")
    with pytest.raises(ValueError, match="'acuracy'"):
        registry.update("a", acuracy=1.0)
    with pytest.raises(KeyError, match="zz"):
        registry.update("zz", alpha=1.0)
    with pytest.raises(KeyError, match="zz"):
        registry.remove("zz")


def test_a_removed_seed_is_gone(registry: SeedTelemetryRegistry) -> None:
    registry.remove("b")
    assert registry.get("b") is None
    assert ids(registry.all()) == ["a", "c"]


def test_a_group_is_summed_up_over_what_was_measured(registry: SeedTelemetryRegistry) -> None:
    registry.update("a", gradient_norm=1.0, gradient_health=0.5, has_vanishing=True, accuracy=10.0)
    registry.update("b", gradient_norm=None, gradient_health=None, has_vanishing=None, accuracy=20.0)
    registry.update("c", gradient_norm=3.0, gradient_health=1.0, accuracy=30.0)
    summary = registry.aggregate(registry.all())
    assert summary["num_seeds"] == 3.0
    assert summary["mean_gradient_norm"] == 2.0
    assert summary["vanishing_frac"] == 0.5
    assert summary["min_gradient_health"] == 0.5
    assert summary["mean_accuracy"] == 20.0


def test_an_empty_or_unmeasured_group_claims_nothing(registry: SeedTelemetryRegistry) -> None:
    assert registry.aggregate([]) == {"num_seeds": 0.0}
    registry.update("b", gradient_health=None)
    assert "mean_gradient_health" not in registry.aggregate(registry.by_blueprint("norm"))
