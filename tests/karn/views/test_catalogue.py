from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest

from esper.karn.store import Store
from esper.leyline.telemetry.event import TelemetryEventType
from esper.leyline.telemetry.run import PartFaultPayload
from esper.leyline.telemetry.simic import (
    AnalyticsSnapshotPayload,
    CounterfactualConfig,
    CounterfactualMatrixPayload,
    TrendDetectedPayload,
)
from esper.leyline.telemetry.tolaria import TolariaRollbackPayload
from tests.fakes.telemetry import event, one_round, outcome, record_run, whole_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from esper.leyline.telemetry.event import TelemetryEvent

DETAIL_VIEWS = (
    "counterfactuals",
    "attributions",
    "seed_states",
    "infrastructure",
    "heartbeats",
    "reward_calibration",
    "blueprint_scoreboard",
)
VIEWS = (
    "raw_events",
    "runs",
    "tolaria_epochs",
    "tamiyo_updates",
    "tolaria_batches",
    "seed_lifecycle",
    "decisions",
    "rewards",
    "anomalies",
    "episode_outcomes",
    "growth",
    "epochs",
    "ppo_updates",
    "batch_epochs",
)


def count(store: Store, view: str) -> int:
    return int(store.rows(f"SELECT count(*) AS n FROM {view}")[0]["n"])


@pytest.mark.parametrize("view", (*VIEWS, *DETAIL_VIEWS))
def test_every_view_works_on_an_empty_file(empty_run_dir: Path, view: str) -> None:
    with Store.open(empty_run_dir) as store:
        assert count(store, view) == 0


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_has_rows_in_a_filled_file(run_dir: Path, view: str) -> None:
    with Store.open(run_dir) as store:
        assert count(store, view) > 0


def test_raw_events_holds_every_event_with_its_payload(run_dir: Path) -> None:
    events = list(whole_run(12))
    with Store.open(run_dir) as store:
        assert count(store, "raw_events") == len(events)
        row = store.rows("SELECT data->>'$.detail' AS detail FROM raw_events WHERE event_type = 'RATIO_EXPLOSION_DETECTED'")
    assert row == [{"detail": "ratio 9.1 is above 5"}]


def test_counts_agree_with_what_was_emitted(run_dir: Path) -> None:
    emitted = [one.event_type for one in whole_run(12)]
    with Store.open(run_dir) as store:
        assert count(store, "epochs") == emitted.count(TelemetryEventType.TOLARIA_EPOCH_COMPLETED)
        assert count(store, "ppo_updates") == emitted.count(TelemetryEventType.TAMIYO_POLICY_UPDATE)
        assert count(store, "batch_epochs") == emitted.count(TelemetryEventType.TOLARIA_BATCH_COMPLETED)
        assert count(store, "anomalies") == emitted.count(TelemetryEventType.RATIO_EXPLOSION_DETECTED)
        lifecycle = (TelemetryEventType.SEED_GERMINATED, TelemetryEventType.SEED_FOSSILIZED)
        assert count(store, "seed_lifecycle") == sum(emitted.count(kind) for kind in lifecycle)


def test_a_run_knows_its_end(run_dir: Path) -> None:
    with Store.open(run_dir) as store:
        (run,) = store.rows("SELECT task, stop_reason, env_steps FROM runs")
    assert run == {"task": "image-mix", "stop_reason": "completed", "env_steps": 192}


def test_a_round_played_again_after_a_crash_counts_once(tmp_path: Path) -> None:
    import numpy as np

    def life(seed: int, rounds: range) -> Iterator[TelemetryEvent]:
        rng = np.random.default_rng(seed)
        for index in rounds:
            yield from one_round(index, n_envs=4, rng=rng)

    record_run(tmp_path, [life(1, range(3)), life(2, range(2, 5))])
    with Store.open(tmp_path) as store:
        assert count(store, "tolaria_batches") == 5
        assert count(store, "tamiyo_updates") == 10
        assert count(store, "episode_outcomes") == 20
        assert store.rows("SELECT DISTINCT incarnation FROM episode_outcomes WHERE episode_idx = 2") == [{"incarnation": 1}]
        assert count(store, "tolaria_epochs") == 48
        assert store.rows("SELECT sum(num_planted) AS n FROM growth") == [{"n": 20}]


def test_every_view_says_what_its_columns_are() -> None:
    for file in files("esper.karn.views").iterdir():
        if file.name.endswith(".sql"):
            header = [line for line in file.read_text().splitlines() if line.startswith("--")]
            assert header, file.name
            assert "column" in " ".join(header) or len(header) > 2, file.name


def test_counterfactuals_tell_each_set_with_its_gain(tmp_path: Path) -> None:
    configs = (CounterfactualConfig(("r0c0", "r0c1"), 70.0), CounterfactualConfig(("r0c0",), 60.0), CounterfactualConfig((), 50.0))
    matrix = CounterfactualMatrixPayload(env_id=1, slot_ids=("r0c0", "r0c1"), configs=configs, strategy="factorial", episode_idx=3)
    bare = CounterfactualMatrixPayload(env_id=2, slot_ids=("r0c0",), configs=configs[:1], strategy="ablation")
    record_run(tmp_path, [[event("COUNTERFACTUAL_MATRIX_COMPUTED", one) for one in (matrix, bare)]])
    with Store.open(tmp_path) as store:
        rows = store.rows("SELECT env_id, num_on, accuracy, gain FROM counterfactuals ORDER BY env_id, num_on")
    assert [tuple(row.values()) for row in rows] == [(1, 0, 50.0, 0.0), (1, 1, 60.0, 10.0), (1, 2, 70.0, 20.0), (2, 2, 70.0, None)]


def test_attributions_come_with_their_errors_where_they_are_known(tmp_path: Path) -> None:
    found = AnalyticsSnapshotPayload(
        "shapley_computed", env_id=1, episode_idx=0, shapley_values={"r0c0": 3.0, "r0c1": -1.0}, shapley_standard_errors={"r0c0": 0.5}
    )
    record_run(tmp_path, [[event("ANALYTICS_SNAPSHOT", found)]])
    with Store.open(tmp_path) as store:
        rows = store.rows("SELECT slot_id, shapley_value, standard_error FROM attributions ORDER BY slot_id")
    assert [tuple(row.values()) for row in rows] == [("r0c0", 3.0, 0.5), ("r0c1", -1.0, None)]


@pytest.mark.parametrize(("slope", "verdict"), [(1.0, "well"), (-1.0, "inverted"), (0.0, "unknown")])
def test_calibration_is_the_correlation_of_reward_and_accuracy(tmp_path: Path, slope: float, verdict: str) -> None:
    ends = [event("EPISODE_OUTCOME", replace(outcome(env, 0, 10.0 * env), episode_reward=slope * env)) for env in range(4)]
    record_run(tmp_path, [ends])
    with Store.open(tmp_path) as store:
        (row,) = store.rows("SELECT num_episodes, pearson, verdict FROM reward_calibration WHERE context IS NULL")
    assert (row["num_episodes"], row["verdict"]) == (4, verdict)
    assert row["pearson"] == (pytest.approx(slope) if slope else None)


def test_the_scoreboard_counts_what_the_run_planted_and_kept(run_dir: Path) -> None:
    emitted = [one.event_type for one in whole_run(12)]
    with Store.open(run_dir) as store:
        (row,) = store.rows("SELECT sum(num_planted) AS planted, sum(num_kept) AS kept, max(kept_frac) AS share FROM blueprint_scoreboard")
    assert row["planted"] == emitted.count(TelemetryEventType.SEED_GERMINATED)
    assert row["kept"] == emitted.count(TelemetryEventType.SEED_FOSSILIZED)
    assert row["share"] == 1.0


def test_every_finding_and_loss_is_an_anomaly_in_words(tmp_path: Path) -> None:
    trend = TrendDetectedPayload(7, 112, -3.5, 50.0, 53.5)
    rollback = TolariaRollbackPayload(1, "cpu", "loss 2.16", 2.16, 2.0, 3, panic_reason="governor_divergence")
    events = [
        event("DEGRADATION_DETECTED", trend),
        event("PLATEAU_DETECTED", replace(trend, rolling_delta=0.25)),
        event("IMPROVEMENT_DETECTED", replace(trend, rolling_delta=3.0)),
        event("PART_LOST", PartFaultPayload("env-3", "died", "restart", 2, 0)),
        event("PART_RECOVERED", PartFaultPayload("env-3", "died", "restart", 2, 1)),
        event("TOLARIA_ROLLBACK", rollback),
        event("TOLARIA_ROLLBACK", replace(rollback, panic_reason=None)),
    ]
    record_run(tmp_path, [events])
    with Store.open(tmp_path) as store:
        found = [tuple(row.values()) for row in store.rows("SELECT event_type, batch, detail FROM anomalies ORDER BY ALL")]
    assert found == [
        ("DEGRADATION_DETECTED", 7, "mean accuracy of the latest rounds 50.0 %, -3.5 points from those before"),
        ("PART_LOST", None, "env-3 died (fault 2 of it), remedy: restart"),
        ("PLATEAU_DETECTED", 7, "mean accuracy of the latest rounds 50.0 %, +0.2 points from those before"),
        ("TOLARIA_ROLLBACK", None, "governor_divergence: loss 2.16"),
        ("TOLARIA_ROLLBACK", None, "loss 2.16"),
    ]


def test_outcomes_of_different_policies_do_not_hide_each_other(tmp_path: Path) -> None:
    ends = [event("EPISODE_OUTCOME", replace(outcome(0, 0, 50.0, split="held_out"), policy=name)) for name in ("learned", "random")]
    record_run(tmp_path, [ends[:1], ends[1:]])
    with Store.open(tmp_path) as store:
        assert count(store, "episode_outcomes") == 2
