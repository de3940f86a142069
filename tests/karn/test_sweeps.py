from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from esper.karn.store import StoreError
from esper.karn.sweeps import OBJECTIVES, SWEEP_FILE, RoundResult, SweepStore, TrialRecord

if TYPE_CHECKING:
    from pathlib import Path

RESULT = RoundResult(
    rounds=1,
    env_steps=8,
    utility=50.0,
    utility_recent=49.0,
    reward=1.5,
    accuracy=60.0,
    explained_variance=None,
    entropy=0.5,
    env_steps_per_sec=30.0,
)


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    store = SweepStore(tmp_path / SWEEP_FILE)
    store.create()
    return store


def test_what_was_recorded_is_read_back_and_unmeasured_stays_unmeasured(store: SweepStore) -> None:
    point = {"ppo.learning_rate": 0.001, "reward.mode": "shaped", "growth.blueprints": ["a", "b"], "ppo.popart": True}
    store.record_trial(TrialRecord("t0", 0, "running"), point)
    store.record_result("t0", RESULT, point)
    store.record_trial(TrialRecord("t0", 0, "failed", "boom"), {})
    (trial,) = store.trials()
    assert trial.record == TrialRecord("t0", 0, "failed", "boom")
    assert trial.parameters == point
    assert trial.results == (RESULT,)


def test_a_round_that_is_played_again_replaces_what_came_of_it(store: SweepStore) -> None:
    store.record_trial(TrialRecord("t0", 0, "running"), {"x": 1})
    for rounds in (1, 2, 3):
        store.record_result("t0", replace(RESULT, rounds=rounds), {"x": 1})
    again = replace(RESULT, rounds=2, utility=70.0, copied_from="t1")
    store.record_result("t0", again, {"x": 2})
    (trial,) = store.trials()
    assert trial.results == (RESULT, again)
    assert trial.parameters == {"x": 2}
    assert trial.last == again


def test_trials_come_in_their_order_and_others_are_forgotten(store: SweepStore) -> None:
    for number, trial_id in ((2, "c"), (0, "a"), (1, "b")):
        store.record_trial(TrialRecord(trial_id, number, "running"), {"x": number})
        store.record_result(trial_id, RESULT, {"x": number})
    assert [trial.record.trial_id for trial in store.trials()] == ["a", "b", "c"]
    store.keep_trials(["a", "c"])
    assert [trial.record.trial_id for trial in store.trials()] == ["a", "c"]


def test_making_the_tables_again_keeps_what_is_there(store: SweepStore) -> None:
    store.record_trial(TrialRecord("t0", 0, "completed"), {"x": 1})
    store.create()
    assert len(store.trials()) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"sweep\.duckdb does not exist"):
        SweepStore(tmp_path / SWEEP_FILE).trials()


def test_objectives_are_measured_in_every_round() -> None:
    assert all(isinstance(getattr(RESULT, name), float) for name in OBJECTIVES)
