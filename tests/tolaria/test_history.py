from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.alpha import AlphaMode, BlendOperator
from esper.leyline.reports import SeedMetrics, SeedStateReport, SlotReport
from esper.leyline.stages import SeedStage
from esper.tolaria.history import PLATEAU_TOLERANCE, SignalHistory


def slot(seed: SeedStateReport | None = None) -> SlotReport:
    return SlotReport("r0c0", 0, 4, 16, seed, gradient_norm=None, activation_mean=None, activation_std=None, spatial_std=None)


def seed(stage: SeedStage, *, age_epochs: int = 1, alpha: float = 0.0, gained: float = 0.0) -> SeedStateReport:
    return SeedStateReport(
        seed_id=f"r0c0@{age_epochs}",
        slot_id="r0c0",
        blueprint_id="norm",
        blueprint_place=3,
        stage=stage,
        epochs_in_stage=1,
        age_epochs=age_epochs,
        num_parameters=9,
        alpha=alpha,
        alpha_target=1.0,
        alpha_mode=AlphaMode.HOLD,
        alpha_progress=1.0,
        operator=BlendOperator.ADD,
        tempo_epochs=3,
        metrics=SeedMetrics(20.0, 30.0, 30.0 + gained, 30.0 + gained),
    )


def validated(*accuracies: float) -> SignalHistory:
    history = SignalHistory()
    for accuracy in accuracies:
        history.record_validation(2.0 - accuracy / 100.0, accuracy)
    return history


def test_before_training_only_validation_is_known() -> None:
    signals = validated(10.0).signals(0, [slot(), slot()])
    assert (signals.val_accuracy, signals.best_val_accuracy) == (10.0, 10.0)
    assert {signals.train_loss, signals.train_accuracy, signals.loss_delta, signals.accuracy_delta} == {None}
    assert signals.loss_history[:4] == (None,) * 4
    assert signals.loss_history[4] == pytest.approx(1.9)
    assert signals.available_slots == 2
    assert not signals.has_active_seed


def test_differences_are_positive_where_things_get_better() -> None:
    history = validated(10.0, 30.0)
    history.record_training(1.5, 25.0, 7)
    signals = history.signals(1, [slot()])
    assert signals.accuracy_delta == 20.0
    assert signals.loss_delta == pytest.approx(0.2)
    assert (signals.train_loss, signals.train_accuracy, signals.global_step) == (1.5, 25.0, 7)


def test_batches_add_up() -> None:
    history = validated(10.0)
    for _ in range(3):
        history.record_training(1.0, 50.0, 5)
    assert history.signals(3, []).global_step == 15


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=12))
def test_best_values_and_the_last_five_are_kept(accuracies: list[float]) -> None:
    history = validated(*accuracies)
    signals = history.signals(len(accuracies), [])
    assert signals.best_val_accuracy == max(accuracies)
    assert signals.best_val_loss == pytest.approx(2.0 - max(accuracies) / 100.0)
    assert [a for a in signals.accuracy_history if a is not None] == accuracies[-5:]
    assert history.last_validation == (accuracies[-1], 2.0 - accuracies[-1] / 100.0)


def test_an_epoch_that_gains_less_than_the_tolerance_is_a_plateau() -> None:
    small, large = 0.9 * PLATEAU_TOLERANCE, 1.1 * PLATEAU_TOLERANCE
    assert validated(10.0).signals(0, []).plateau_epochs == 0
    assert validated(10.0, 10.0 + small, 10.0 + small).signals(0, []).plateau_epochs == 2
    assert validated(10.0, 10.0 + small, 10.0 + small + large).signals(0, []).plateau_epochs == 0
    assert validated(30.0, 10.0, 20.0).signals(0, []).plateau_epochs == 2


def test_the_youngest_unfinished_seed_is_shown() -> None:
    slots = [
        slot(seed(SeedStage.FOSSILIZED, age_epochs=1, alpha=1.0)),
        slot(seed(SeedStage.HOLDING, age_epochs=9, alpha=1.0)),
        slot(seed(SeedStage.BLENDING, age_epochs=4, alpha=0.5, gained=3.0)),
        slot(seed(SeedStage.EMBARGOED, age_epochs=0)),
        slot(),
    ]
    signals = validated(10.0).signals(3, slots)
    assert signals.has_active_seed
    assert (signals.seed_stage, signals.seed_alpha, signals.seed_improvement) == (SeedStage.BLENDING, 0.5, 3.0)
    assert signals.available_slots == 1


def test_a_fossil_is_shown_where_nothing_else_lives() -> None:
    signals = validated(10.0).signals(3, [slot(seed(SeedStage.FOSSILIZED, alpha=1.0)), slot(seed(SeedStage.PRUNED))])
    assert signals.seed_stage == SeedStage.FOSSILIZED


def test_seeds_that_do_not_compute_are_not_active() -> None:
    signals = validated(10.0).signals(3, [slot(seed(stage)) for stage in (SeedStage.GERMINATED, SeedStage.PRUNED, SeedStage.EMBARGOED)])
    assert (signals.has_active_seed, signals.seed_stage, signals.seed_improvement) == (False, 0, None)
