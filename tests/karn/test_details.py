from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from esper.karn import details
from esper.karn.queries import learning_curve
from esper.karn.steps import decisions, host_epochs
from esper.karn.store import Store
from esper.leyline.telemetry.infra import HeartbeatPayload
from esper.leyline.telemetry.kasmina import SeedSnapshot
from esper.leyline.telemetry.simic import RewardComputedPayload
from esper.leyline.telemetry.tolaria import TolariaBatchPayload, TolariaEpochPayload
from tests.fakes.telemetry import event, one_round, record_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from esper.leyline.telemetry import TelemetryEvent


def of_round(index: int, one: TelemetryEvent) -> TelemetryEvent:
    return replace(one, group_id=f"train/learned/{index}")


def reward(total: float, **parts: float) -> RewardComputedPayload:
    return RewardComputedPayload(0, total, "WAIT", None, 1.0, **parts)  # type: ignore[arg-type]


def test_parts_of_rewards_add_up_round_by_round(tmp_path: Path) -> None:
    told = [(0, reward(1.0, utility_change=2.0, compute_rent=-1.0)), (0, reward(3.0, utility_change=3.0)), (1, reward(0.5, pbrs_bonus=0.5))]
    record_run(tmp_path, [[of_round(index, event("REWARD_COMPUTED", payload)) for index, payload in told]])
    with Store.open(tmp_path) as store:
        first, second = details.reward_rounds(store)
    assert (first.round_idx, first.num_steps, first.mean_total) == (1, 2, 2.0)
    assert first.parts == {"utility_change": 2.5, "compute_rent": -0.5, "pbrs_bonus": 0.0}
    assert sum(second.parts.values()) == pytest.approx(second.mean_total)


def test_evaluation_is_no_training_round(tmp_path: Path) -> None:
    record_run(tmp_path, [[replace(event("REWARD_COMPUTED", reward(1.0)), group_id="eval/random/0")]])
    with Store.open(tmp_path) as store:
        assert details.reward_rounds(store) == []


def test_the_newest_round_shows_every_seed_at_every_epoch(tmp_path: Path) -> None:
    def epoch(index: int, env_id: int, number: int) -> TelemetryEvent:
        seed = SeedSnapshot(f"r0c0@{index}", "conv", "BLENDING", alpha=number / 4, epochs_in_stage=number)
        payload = TolariaEpochPayload(env_id, 50.0, 1.0, number, seeds={"r0c0": seed}, episode_idx=index)
        return of_round(index, event("TOLARIA_EPOCH_COMPLETED", payload))

    record_run(tmp_path, [[epoch(index, env_id, number) for index in (0, 1) for env_id in (0, 1, 2) for number in (1, 2)]])
    with Store.open(tmp_path) as store:
        seeds, everything = details.last_round_seeds(store, max_envs=2), details.last_round_seeds(store)
        assert details.last_round_envs(store) == [0, 1, 2]
    assert [one for one in everything if one.env_id < 2] == seeds
    assert {one.env_id for one in everything} == {0, 1, 2}
    assert [(one.env_id, one.inner_epoch, one.alpha) for one in seeds] == [(0, 1, 0.25), (0, 2, 0.5), (1, 1, 0.25), (1, 2, 0.5)]
    assert {one.seed_id for one in seeds} == {"r0c0@1"}


def test_long_runs_are_thinned_evenly(run_dir: Path) -> None:
    with Store.open(run_dir) as store:
        every = details.update_columns(store, ["entropy"])
        some = details.update_columns(store, ["entropy"], max_points=6)
    assert every["pass_idx"] == list(range(1, 25))
    assert some["pass_idx"] == [1, 5, 9, 13, 17, 21]


def test_processes_are_told_apart_with_their_silences(tmp_path: Path) -> None:
    beats = [("a", 0.0, True), ("b", 1.0, True), ("a", 10.0, True), ("a", 40.0, False)]
    record_run(tmp_path, [[event("HEARTBEAT", HeartbeatPayload(source, at, alive), at) for source, at, alive in beats]])
    with Store.open(tmp_path) as store:
        first, second = details.process_lives(store)
    assert (first.source, first.num_beats, first.longest_silence_sec, first.is_over) == ("a", 3, 30.0, True)
    assert (second.source, second.longest_silence_sec, second.is_over) == ("b", None, False)


def test_rounds_are_counted_alike_by_every_query(tmp_path: Path) -> None:
    def events(index: int) -> Iterator[TelemetryEvent]:
        for one in one_round(index, n_envs=2, rng=np.random.default_rng(index)):
            data = one.data
            if isinstance(data, TolariaBatchPayload):
                data = replace(data, batch_idx=index + 1)
            yield of_round(index, replace(one, data=data))

    record_run(tmp_path, [[one for index in range(3) for one in events(index)]])
    with Store.open(tmp_path) as store:
        counted: list[list[int]] = [
            [one.round_idx for one in learning_curve(store)],
            [one.round_idx for one in details.reward_rounds(store)],
            [one.round_idx for one in details.seed_fates(store)],
        ]
        assert counted == [[1, 2, 3]] * 3
        for index in (1, 2, 3):
            assert {one.round_idx for one in host_epochs(store, index)} == {one.round_idx for one in decisions(store, index)} == {index}
            assert {one.episode_idx for one in host_epochs(store, index)} == {index - 1}


def test_an_empty_run_has_empty_answers(empty_run_dir: Path) -> None:
    with Store.open(empty_run_dir) as store:
        for ask in (
            details.reward_rounds,
            details.seed_fates,
            details.last_round_envs,
            details.last_round_seeds,
            host_epochs,
            decisions,
            details.blueprint_scores,
            details.slot_attributions,
            details.calibrations,
            details.anomalies,
            details.machine_readings,
            details.process_lives,
        ):
            assert ask(store) == []
        assert details.gains_by_size(store) == {}
        assert details.anomaly_counts(store) == {}
