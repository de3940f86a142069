from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.load import ConfigError
from esper.leyline.reports import Counterfactuals, TrialReport
from esper.leyline.rng import SeedTree
from esper.simic.config import PPOConfig
from esper.simic.learner import Learner
from esper.simic.risk import (
    CRITICAL,
    RISK_NAMES,
    calibration_error,
    growth_regression,
    risk_diagnostics,
    risk_labels,
    risk_loss,
)
from tests.fakes.policy import FakePolicy
from tests.simic.reports import make_report
from tests.simic.world import NUM_CHANNELS, NUM_SLOTS, World, play_round

THRESHOLDS = (2.0, 5.0, 10.0)


def epoch(accuracy: float, *, slots_on: tuple[int, ...] = (), without: float | None = None) -> TrialReport:
    """A report whose full network has `slots_on` and whose host alone reaches `without`."""
    configurations = (slots_on, ()) if slots_on else ((),)
    accuracies = (accuracy, accuracy if without is None else without)[: len(configurations)]
    return make_report(val_accuracy=accuracy, counterfactuals=Counterfactuals(configurations, accuracies))


def label(regression: list[float], panicked: list[float] | None = None, *, window: int = 2) -> list[int]:
    column = np.array(regression, dtype=np.float32)[:, None]
    panic = np.zeros_like(column) if panicked is None else np.array(panicked, dtype=np.float32)[:, None]
    return [int(x) for x in risk_labels(column, panic, window=window, thresholds=THRESHOLDS)[:, 0]]


def test_a_host_that_does_not_grow_never_regresses() -> None:
    reports = [make_report(val_accuracy=50.0), epoch(60.0), epoch(20.0)]
    assert growth_regression(reports) == 0.0


def test_growth_is_measured_against_the_host_before_it_and_the_host_without_it() -> None:
    before = [make_report(val_accuracy=30.0), epoch(50.0)]
    assert growth_regression([*before, epoch(44.0, slots_on=(1,), without=40.0)]) == 6.0
    assert growth_regression([*before, epoch(44.0, slots_on=(1,), without=53.0)]) == 9.0
    assert growth_regression([*before, epoch(55.0, slots_on=(1,), without=53.0)]) == 0.0


def test_harm_outlives_the_seed_that_did_it() -> None:
    reports = [make_report(val_accuracy=30.0), epoch(50.0), epoch(45.0, slots_on=(0,)), epoch(42.0)]
    assert growth_regression(reports) == 8.0


def test_labels_are_those_of_the_worst_within_the_window() -> None:
    assert label([0.0, 1.9, 2.0, 5.0, 10.0], window=1) == [0, 0, 1, 2, 3]
    assert label([0.0, 7.0, 0.0, 0.0, 3.0], window=2) == [2, 2, 0, 1, 1]
    assert label([0.0, 0.0, 0.0], [0.0, 0.0, 1.0], window=2) == [0, CRITICAL, CRITICAL]
    assert label([6.0], [1.0]) == [CRITICAL]


def test_what_stands_after_an_end_is_not_read() -> None:
    regression = np.array([[0.0, 3.0], [20.0, np.nan]], dtype=np.float32)
    panicked = np.array([[0.0, 0.0], [0.0, np.nan]], dtype=np.float32)
    assert risk_labels(regression, panicked, window=5, thresholds=THRESHOLDS)[0].tolist() == [3, 1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.0, 30.0, width=32), min_size=1, max_size=8), st.integers(1, 8))
def test_a_longer_window_never_lowers_a_class(regression: list[float], window: int) -> None:
    shorter, longer = label(regression, window=window), label(regression, window=window + 1)
    assert all(a <= b for a, b in zip(shorter, longer, strict=True))


def test_confidence_that_is_right_as_often_as_it_says_is_calibrated() -> None:
    probs = torch.tensor([[0.75, 0.25, 0.0, 0.0, 0.0]]).repeat(4, 1)
    assert calibration_error(probs, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.0)
    assert calibration_error(probs, torch.tensor([1, 1, 1, 1])) == pytest.approx(0.75)
    mixed = torch.cat([probs, torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]]).repeat(4, 1)])
    assert calibration_error(mixed, torch.tensor([0, 0, 0, 1, 2, 2, 3, 3])) == pytest.approx(0.25)


def test_diagnostics_of_a_known_case() -> None:
    certain = torch.full((4, 5), -100.0, dtype=torch.float64)
    certain[:, 0] = 100.0
    found = risk_diagnostics(certain, torch.tensor([0, 0, 0, 4]))
    assert found.risk_brier_score == pytest.approx(0.25 * 2.0)
    assert found.risk_calibration_error == pytest.approx(0.25)
    assert found.risk_class_shares == {"GREEN": 0.75, "YELLOW": 0.0, "ORANGE": 0.0, "RED": 0.0, "CRITICAL": 0.25}
    assert found.risk_predicted_shares["GREEN"] == pytest.approx(1.0)


def test_the_loss_is_least_at_the_true_shares_and_refuses_other_classes() -> None:
    truth = torch.tensor([0, 0, 0, 4])
    shares = torch.tensor([0.75, 1e-9, 1e-9, 1e-9, 0.25]).log().repeat(4, 1).requires_grad_()
    risk_loss(shares, truth).backward()
    assert shares.grad is not None
    torch.testing.assert_close(shares.grad.sum(0), torch.zeros(5), atol=1e-6, rtol=0.0)
    with pytest.raises(ValueError, match="3 classes"):
        risk_loss(torch.zeros(4, 3), truth)


def play(config: PPOConfig, rounds: int) -> tuple[Learner, list[Any]]:
    world = World(0)
    with SeedTree(0).torch_scope():
        learner = Learner(FakePolicy(NUM_CHANNELS, NUM_SLOTS), config, SeedTree(7))
    reports = []
    for episode in range(rounds):
        play_round(world, learner, episode)
        reports.append(learner.update())
    return learner, reports


def test_learning_risk_leaves_the_policy_as_it_would_have_been() -> None:
    config = PPOConfig(learning_rate=0.02, minibatch_size=32, max_grad_norm=0.1)
    with_risk, without = (play(replace(config, risk_coef=coef), 2)[0].state_tensors() for coef in (5.0, 0.0))
    moved = {name for name in without if not torch.equal(with_risk[name], without[name])}
    assert moved == {"policy/risk_out.weight", "policy/risk_out.bias"}


def test_risk_that_overflows_moves_nothing() -> None:
    overflowing, without = (play(PPOConfig(learning_rate=0.02, risk_coef=coef), 2)[0].state_tensors() for coef in (math.inf, 0.0))
    assert all(torch.equal(overflowing[name], without[name]) for name in without)


def test_the_head_learns_what_follows_and_says_how_well() -> None:
    _, reports = play(PPOConfig(learning_rate=0.02, minibatch_size=32, risk_window_epochs=1), 12)
    first, last = (report.passes[0] for report in (reports[0], reports[-1]))
    assert last.risk_loss < 0.4 * first.risk_loss
    assert last.risk.risk_brier_score < 0.4 * first.risk.risk_brier_score
    assert last.risk.risk_calibration_error < 0.3
    assert set(last.risk.risk_class_shares) == set(RISK_NAMES)
    assert sum(last.risk.risk_class_shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("thresholds", [(2.0, 5.0), (5.0, 2.0, 10.0), (2.0, 2.0, 3.0)])
def test_thresholds_must_rise(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="3 rising numbers"):
        PPOConfig(risk_thresholds=thresholds)
