from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from esper.karn.queries import growth_table, learning_curve, outcomes, run_overview
from esper.karn.store import Store
from esper.leyline.telemetry.event import TelemetryEventType
from tests.fakes.telemetry import BEST_PLACE, event, outcome, record_run, started, whole_run

if TYPE_CHECKING:
    from pathlib import Path


def test_the_curve_has_a_point_per_round_with_its_update(run_dir: Path) -> None:
    with Store.open(run_dir) as store:
        curve = learning_curve(store)
    assert [point.round_idx for point in curve] == list(range(12))
    assert [point.episodes for point in curve] == [8 * (index + 1) for index in range(12)]
    assert curve[-1].explained_variance == pytest.approx(0.8)
    assert curve[-1].kl_divergence == pytest.approx(0.02)
    assert curve[0].entropy == pytest.approx(2.8)


def test_the_curve_agrees_with_the_outcomes_behind_it(run_dir: Path) -> None:
    with Store.open(run_dir) as store:
        curve, episodes = learning_curve(store), outcomes(store)
    for point in curve:
        ends = [end.utility for end in episodes if end.episode_idx == point.round_idx and end.utility is not None]
        assert point.utility == pytest.approx(sum(ends) / len(ends))


def test_a_round_without_an_update_is_unmeasured_not_zero(tmp_path: Path) -> None:
    rounds = [one for one in whole_run(2) if one.event_type is TelemetryEventType.TOLARIA_BATCH_COMPLETED]
    with Store.open(record_run(tmp_path, [rounds])) as store:
        curve = learning_curve(store)
    assert [(point.explained_variance, point.entropy) for point in curve] == [(None, None)] * 2


def test_growth_counts_every_seed_and_its_worth(run_dir: Path) -> None:
    events = list(whole_run(12))
    with Store.open(run_dir) as store:
        cells = growth_table(store)
    assert sum(cell.num_planted for cell in cells) == sum(one.event_type is TelemetryEventType.SEED_GERMINATED for one in events)
    assert sum(cell.num_kept for cell in cells) == sum(one.event_type is TelemetryEventType.SEED_FOSSILIZED for one in events)
    for cell in cells:
        expected = 12.0 if BEST_PLACE[cell.context] == f"{cell.slot_id}:{cell.blueprint_id}" else -3.0
        assert cell.mean_contribution == pytest.approx(expected)
    assert [cell.num_kept for cell in cells] == sorted((cell.num_kept for cell in cells), reverse=True)


def test_outcomes_are_numbered_in_order_within_their_split(tmp_path: Path) -> None:
    ends = [event("EPISODE_OUTCOME", outcome(env, episode, 10.0 * episode + env)) for episode in (1, 0) for env in (1, 0)]
    ends.append(event("EPISODE_OUTCOME", outcome(0, 0, 99.0, split="held_out", kept=("r0c0:conv",))))
    with Store.open(record_run(tmp_path, [ends])) as store:
        train, held_out, everything = outcomes(store, "train"), outcomes(store, "held_out"), outcomes(store)
    assert [end.utility for end in train] == [0.0, 1.0, 10.0, 11.0]
    assert [end.number for end in train] == [1, 2, 3, 4]
    assert [(end.utility, end.kept) for end in held_out] == [(99.0, ("r0c0:conv",))]
    assert len(everything) == 5


def test_the_overview_of_a_finished_run(run_dir: Path) -> None:
    with Store.open(run_dir) as store:
        overview = run_overview(store)
    assert (overview.task, overview.seed, overview.stop_reason) == ("image-mix", 7, "completed")
    assert (overview.rounds, overview.episodes, overview.env_steps) == (12, 96, 192)
    assert overview.versions == {"torch": "2.13", "esper-morph": "0.1.0"}
    assert (overview.num_anomalies, overview.dropped_events, overview.rejected_events, overview.num_incidents) == (1, 0, 0, 0)
    assert overview.mean_utility_last is not None
    assert overview.mean_utility_last > 60.0


def test_time_and_speed_are_those_of_all_lives_of_a_run(tmp_path: Path) -> None:
    events = list(whole_run(4))
    middle = next(i for i, one in enumerate(events) if one.event_type is TelemetryEventType.TOLARIA_BATCH_COMPLETED) + 1
    again, end = event("TRAINING_STARTED", started(8), 12.0), event("RUN_FINISHED", events[-1].data, 11.0)
    with Store.open(record_run(tmp_path, [[*events[:middle], end], [again, *events[middle:]]])) as store:
        overview = run_overview(store)
    assert (overview.rounds, overview.env_steps) == (4, 64)
    assert overview.wall_sec == pytest.approx(120.0)
    assert overview.env_steps_per_sec == pytest.approx(123.0)


def test_the_overview_of_nothing(empty_run_dir: Path) -> None:
    with Store.open(empty_run_dir) as store:
        overview = run_overview(store)
        assert learning_curve(store) == []
        assert growth_table(store) == []
        assert outcomes(store) == []
    assert (overview.started_at, overview.stop_reason, overview.mean_utility_last) == (None, None, None)
    assert overview.episodes == 0
