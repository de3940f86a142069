from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.load import ConfigError
from esper.leyline.schemas import PanicReason
from esper.tolaria.governor import GovernorConfig, TolariaGovernor, divergence_threshold, is_lobotomy

QUICK = GovernorConfig(window_epochs=6, min_history_epochs=4, divergence_patience_epochs=3)


def settled(loss: float = 0.5, *, config: GovernorConfig = QUICK, num_classes: int = 10) -> TolariaGovernor:
    """A governor that has seen enough healthy epochs around `loss` to judge."""
    governor = TolariaGovernor(config, num_classes)
    for epoch in range(config.min_history_epochs):
        assert governor.judge(loss + 0.01 * (epoch % 2)).is_healthy
    return governor


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.05, 0.05), min_size=1, max_size=40), st.integers(2, 100))
def test_a_healthy_run_is_left_alone(noise: list[float], num_classes: int) -> None:
    governor = TolariaGovernor(GovernorConfig(), num_classes)
    for epoch, wobble in enumerate(noise):
        loss = math.log(num_classes) * 0.95**epoch + 0.02 * (epoch % 3) + max(wobble, 0.0)
        verdict = governor.judge(loss, loss)
        assert verdict.is_healthy
        assert verdict.loss == loss


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 1])
def test_a_loss_that_is_no_number_panics_at_once(value: float, position: int) -> None:
    losses = [0.5, 0.5]
    losses[position] = value
    verdict = TolariaGovernor(GovernorConfig(), 10).judge(*losses)
    assert verdict.panic is PanicReason.NAN
    assert not verdict.is_healthy
    assert verdict.loss == pytest.approx(value, nan_ok=True)


def test_divergence_needs_several_anomalous_epochs_in_a_row() -> None:
    governor = settled()
    first, second, third = (governor.judge(50.0) for _ in range(3))
    assert (first.panic, second.panic, third.panic) == (None, None, PanicReason.DIVERGENCE)
    assert [v.consecutive_anomalies for v in (first, second, third)] == [1, 2, 3]
    assert not first.is_healthy
    assert third.loss_threshold == QUICK.divergence_loss


def test_a_good_epoch_ends_a_row_of_anomalies() -> None:
    governor = settled()
    governor.judge(50.0)
    governor.judge(50.0)
    assert governor.judge(0.5).is_healthy
    assert governor.judge(50.0).consecutive_anomalies == 1


def test_anomalous_losses_do_not_enter_the_history() -> None:
    config = GovernorConfig(window_epochs=6, min_history_epochs=4, divergence_patience_epochs=100, divergence_loss=1e-3)
    governor = settled(config=config)
    threshold = governor.judge(50.0).loss_threshold
    assert [governor.judge(50.0).loss_threshold for _ in range(10)] == [threshold] * 10


def test_old_losses_leave_the_window() -> None:
    config = GovernorConfig(window_epochs=4, min_history_epochs=4, divergence_loss=1e-3)
    governor = settled(4.0, config=config, num_classes=2)
    for _ in range(4):
        governor.judge(1.0)
    assert governor.judge(1.0).loss_threshold == pytest.approx(config.divergence_ratio * 1.0)


def test_divergence_is_not_called_before_there_is_history() -> None:
    governor = TolariaGovernor(QUICK, 10)
    verdicts = [governor.judge(loss) for loss in (0.5, 80.0, 0.5, 80.0)]
    assert all(verdict.is_healthy and verdict.loss_threshold is None for verdict in verdicts)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([1.0, 1.0, 1.0, 1.0], 12.0),
        ([8.0, 8.0, 8.0, 8.0], 24.0),
        ([0.0, 20.0, 0.0, 20.0], 10.0 + 6.0 * math.sqrt(400.0 / 3.0)),
    ],
)
def test_the_threshold_is_the_largest_of_floor_ratio_and_deviations(history: list[float], expected: float) -> None:
    assert divergence_threshold(history, QUICK) == pytest.approx(expected)


def test_a_host_that_forgets_everything_panics_at_once() -> None:
    verdict = settled().judge(math.log(10))
    assert verdict.panic is PanicReason.LOBOTOMY


def test_a_host_that_never_learned_cannot_forget() -> None:
    governor = settled(math.log(10))
    assert governor.judge(math.log(10)).is_healthy


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 1000), st.floats(-0.3, 0.3))
def test_the_loss_of_a_guess_depends_on_the_number_of_classes(num_classes: int, distance: float) -> None:
    guess = math.log(num_classes)
    history = [0.3 * guess] * QUICK.min_history_epochs
    tolerance = QUICK.lobotomy_tolerance_frac
    if not math.isclose(abs(distance), tolerance, rel_tol=1e-6):
        assert is_lobotomy(history, guess * (1.0 + distance), guess, QUICK) is (abs(distance) < tolerance)


def test_ten_classes_forgotten_is_not_a_hundred_forgotten() -> None:
    assert settled(num_classes=10).judge(math.log(10)).panic is PanicReason.LOBOTOMY
    assert settled(num_classes=100).judge(math.log(10)).is_healthy


def test_a_window_shorter_than_the_history_needed_is_refused() -> None:
    with pytest.raises(ConfigError, match="window_epochs=5"):
        GovernorConfig(window_epochs=5, min_history_epochs=10)


def test_a_verdict_survives_pickling() -> None:
    verdict = settled().judge(50.0)
    assert pickle.loads(pickle.dumps(verdict)) == verdict
