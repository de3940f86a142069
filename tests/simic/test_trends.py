from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from esper.leyline.telemetry.event import TelemetryEventType
from esper.simic.trends import CONTEXT_ROUNDS, MIN_CONTEXT_ROUNDS, WINDOW_ROUNDS, AccuracyTrend, PerformanceWatch, SettlingWatch, trend_of
from tests.simic.reports import make_report
from tests.simic.test_outcomes import make_outcome

if TYPE_CHECKING:
    from esper.leyline.reports import EpisodeOutcome

UP, DOWN, FLAT = (
    TelemetryEventType.IMPROVEMENT_DETECTED,
    TelemetryEventType.DEGRADATION_DETECTED,
    TelemetryEventType.PLATEAU_DETECTED,
)


@pytest.mark.parametrize(
    ("before", "latest", "expected"),
    [
        ([50.0, 50.2], [52.3, 52.3], UP),
        ([50.0, 50.2], [47.9, 47.9], DOWN),
        ([50.0, 50.2], [50.4, 50.3], FLAT),
        ([50.0, 50.2], [51.1, 51.2], None),
        ([40.0, 60.0], [45.0, 65.0], None),
        ([40.0, 60.0], [60.1, 40.1], None),
    ],
)
def test_windows_are_judged_by_their_means_as_far_as_chance_allows(
    before: list[float], latest: list[float], expected: TelemetryEventType | None
) -> None:
    assert trend_of(before, latest) is expected


def told_by(accuracies: list[float]) -> list[tuple[int, TelemetryEventType]]:
    trend, told = AccuracyTrend(), []
    for index, accuracy in enumerate(accuracies):
        found = trend.add(accuracy, batch_idx=index, episodes_completed=16 * index)
        if found is not None:
            event_type, payload = found
            assert payload.batch_idx == index
            assert payload.rolling_delta == pytest.approx(payload.rolling_avg_accuracy - payload.prev_rolling_avg_accuracy)
            told.append((index, event_type))
    return told


def test_each_trend_is_told_when_it_begins() -> None:
    flat, high = [50.0, 50.1] * 6, [60.0, 60.1] * 6
    told = told_by(flat + high)
    assert told[0] == (2 * WINDOW_ROUNDS - 1, FLAT)
    assert [event_type for _, event_type in told] == [FLAT, UP, FLAT]
    assert [event_type for _, event_type in told_by(high + flat)] == [FLAT, DOWN, FLAT]


def test_a_trend_goes_on_from_what_was_saved() -> None:
    accuracies = [50.0, 50.1] * 6 + [60.0, 60.1] * 6
    for cut in range(len(accuracies)):
        whole, parts = AccuracyTrend(), AccuracyTrend()
        told = []
        for index, accuracy in enumerate(accuracies):
            if index == cut:
                saved, parts = json.loads(json.dumps(parts.to_json())), AccuracyTrend()
                parts.load_json(saved)
            expected = whole.add(accuracy, batch_idx=index, episodes_completed=index)
            told.append(parts.add(accuracy, batch_idx=index, episodes_completed=index) == expected)
        assert all(told)


def test_the_first_rounds_have_no_trend() -> None:
    assert told_by([20.0, 40.0, 10.0, 90.0, 50.0, 5.0, 70.0]) == []


def test_the_rolling_accuracy_is_the_mean_of_the_latest_rounds() -> None:
    trend = AccuracyTrend()
    assert trend.rolling_accuracy is None
    for accuracy in [0.0] * 7 + [10.0] * WINDOW_ROUNDS:
        trend.add(accuracy, batch_idx=0, episodes_completed=0)
    assert trend.rolling_accuracy == 10.0


def outcomes(mean: float, rng: np.random.Generator, spread: float = 3.0) -> list[EpisodeOutcome]:
    """A round: eight contexts of different difficulty."""
    return [replace(make_outcome(mean + 5.0 * i + spread * float(rng.normal()), 1.0), context=f"context-{i}", env_id=i) for i in range(8)]


def test_a_round_far_below_what_its_contexts_brought_is_a_drop() -> None:
    rng, watch = np.random.default_rng(0), PerformanceWatch()
    for _ in range(6):
        assert watch.add(outcomes(50.0, rng), progress=0.5) is None
    drop = watch.add(outcomes(35.0, rng), progress=0.6)
    assert drop is not None
    assert drop.drop_percent > drop.threshold_percent == 10.0
    assert drop.current_acc < drop.rolling_avg_acc
    assert drop.training_progress == 0.6


def test_nothing_is_called_a_drop_early_in_a_run_or_without_history() -> None:
    rng, watch = np.random.default_rng(0), PerformanceWatch()
    for mean in (50.0,) * 4 + (20.0,):
        assert watch.add(outcomes(mean, rng), progress=0.05) is None
    young = PerformanceWatch()
    assert [young.add(outcomes(mean, rng), progress=0.5) for mean in (50.0,) * (MIN_CONTEXT_ROUNDS - 1) + (20.0,)] == [
        None
    ] * MIN_CONTEXT_ROUNDS


def test_chance_is_no_drop() -> None:
    rng, watch = np.random.default_rng(1), PerformanceWatch()
    assert not any(watch.add(outcomes(50.0, rng, spread=15.0), progress=0.5) for _ in range(5 * CONTEXT_ROUNDS))


def settles(losses: list[float]) -> list[int]:
    watch = SettlingWatch()
    return [i for i, loss in enumerate(losses) if watch.look(make_report(epoch=i, val_loss=loss)) is not None]


def test_a_host_settles_after_three_epochs_of_little_change_and_once() -> None:
    assert settles([2.0, 1.5, 1.2, 1.19, 1.18, 1.2, 1.19, 1.19]) == [5]
    assert settles([2.0, 1.8, 1.79, 1.6, 1.59, 1.58, 1.57]) == [6]
    assert settles([2.0, 1.8, 1.6, 1.4, 1.2]) == []
    assert settles([1.0, 1.04, 1.08, 1.12]) == [3]
    assert settles([1.0, 1.2, 1.4, 1.7]) == []


def test_the_announcement_says_when_and_where() -> None:
    watch = SettlingWatch()
    told = [watch.look(make_report(epoch=i, env_id=3, val_loss=1.0)) for i in range(4)]
    assert told[-1] is not None
    assert (told[-1].env_id, told[-1].epoch, told[-1].stable_count, told[-1].stabilization_epochs, told[-1].val_loss) == (3, 3, 3, 3, 1.0)
