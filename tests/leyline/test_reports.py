"""What reports derive from what they hold."""

from __future__ import annotations

from dataclasses import fields

import pytest

from esper.leyline.reports import Counterfactuals, EpisodeOutcome, FieldOutcome, FieldReport, SeedLife, SeedMetrics
from esper.leyline.schemas import GovernorVerdict, PanicReason
from esper.leyline.stages import SeedStage
from esper.leyline.telemetry import EpisodeOutcomePayload
from tests.simic.reports import make_report


def test_improvement_counts_from_germination_and_from_the_stage() -> None:
    metrics = SeedMetrics(accuracy_at_germination=40.0, accuracy_at_stage_start=52.0, current_val_accuracy=50.0, best_val_accuracy=55.0)
    assert metrics.total_improvement == 10.0
    assert metrics.improvement_since_stage_start == -2.0
    assert metrics.gradient_norm is metrics.contribution is metrics.has_vanishing is None


def test_counterfactuals_answer_for_what_was_evaluated() -> None:
    matrix = Counterfactuals(configurations=((), (0,), (0, 2)), accuracies=(40.0, 0.0, 60.0))
    assert matrix.accuracy_of((0, 2)) == 60.0
    assert matrix.accuracy_of((0,)) == 0.0
    with pytest.raises(KeyError, match=r"\(2,\)"):
        matrix.accuracy_of((2,))


def test_only_a_panic_rolls_a_trial_back() -> None:
    assert not make_report().is_rolled_back
    assert not make_report(verdict=GovernorVerdict(None, 1.0, None, 2)).is_rolled_back
    assert make_report(verdict=GovernorVerdict(PanicReason.DIVERGENCE, 20.0, 12.0, 3)).is_rolled_back


def test_a_life_tells_what_it_gained() -> None:
    life = SeedLife(
        final_stage=SeedStage.PRUNED,
        success=False,
        germinated_epoch=1,
        completed_epoch=8,
        epochs_per_stage={SeedStage.TRAINING: 5},
        accuracy_at_germination=50.0,
        accuracy_at_completion=48.5,
        best_accuracy=51.0,
    )
    assert life.total_improvement == -1.5
    report = FieldReport("r", FieldOutcome.REGRESSION, "gnn_v1", 8, {}, seed_id="s", slot_id="r0c0", life=life)
    assert report.command_id is None
    assert report.issued_at.tzinfo is not None


def test_an_outcome_is_told_without_renaming() -> None:
    told = {f.name for f in fields(EpisodeOutcomePayload)}
    assert {f.name for f in fields(EpisodeOutcome)} <= told
