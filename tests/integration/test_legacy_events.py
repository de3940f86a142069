"""Streams under old names: replayed into today's views, and emitted once more where somebody still reads them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from esper.karn.report.run_page import write_run_page
from esper.karn.store import Store
from esper.karn.views.catalogue import view_statements
from esper.leyline.telemetry import LEGACY_EVENT_NAMES, LEGACY_NAME_OF, TelemetryEvent
from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.sinks.fan_out import FanOutSink
from esper.nissa.transport import InProcessTransport
from esper.nissa.wire import identity_of
from tests.fakes.legacy import OLD_EVENTS, REWARD_PARTS, old_lines
from tests.fakes.sinks import MemorySink
from tests.fakes.telemetry import record_run, whole_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [json.loads(json.dumps(line)) for line in old_lines()]
    return record_run(tmp_path_factory.mktemp("old"), [[TelemetryEvent.from_dict(line) for line in lines]])


def test_the_stream_has_every_kind_of_old_event() -> None:
    assert {name for name, _ in OLD_EVENTS} >= set(LEGACY_EVENT_NAMES)
    assert len({name for name, _ in OLD_EVENTS}) == 26


VIEWS: dict[str, tuple[str, dict[str, Any]]] = {
    "runs": ("", {"task": "cifar_baseline", "host_params": 6000}),
    "tolaria_epochs": ("", {"val_accuracy": 61.5, "inner_epoch": 7, "event_type": "TOLARIA_EPOCH_COMPLETED"}),
    "epochs": ("", {"val_loss": 1.1}),
    "tamiyo_updates": ("", {"kl_divergence": 0.01, "head_slot_entropy": 0.7, "head_blueprint_grad_norm": 0.5, "ppo_update_idx": 1}),
    "ppo_updates": ("", {"value_loss": 0.9}),
    "tolaria_batches": ("", {"avg_reward": 0.0, "rolling_accuracy": 59.0}),
    "batch_epochs": ("", {"n_envs": 4}),
    "decisions": ("WHERE event_type = 'ANALYTICS_SNAPSHOT'", {"action_name": "WAIT", "total_reward": 0.0, "value_estimate": 0.2}),
    "rewards": ("WHERE event_type = 'ANALYTICS_SNAPSHOT'", {"total_reward": 0.0, "action_confidence": 0.7}),
    "episode_outcomes": ("", {"final_accuracy": 61.5, "episode_reward": 0.0, "context": "", "split": "", "utility": None}),
    "anomalies": ("WHERE event_type = 'TOLARIA_ROLLBACK'", {"detail": "governor_divergence: loss", "env_id": 1}),
    "seed_lifecycle": ("WHERE event_type = 'SEED_STAGE_CHANGED'", {"to_stage": "HOLDING", "accuracy_delta": 0.0}),
}


@pytest.mark.parametrize("view", VIEWS)
def test_old_events_appear_in_the_views(view: str, replayed: Path) -> None:
    condition, expected = VIEWS[view]
    with Store.open(replayed) as store:
        rows = store.rows(f"SELECT * FROM {view} {condition}")
    assert len(rows) == 1
    assert {key: rows[0][key] for key in expected} == expected


def test_nothing_of_an_old_stream_is_lost(replayed: Path) -> None:
    with Store.open(replayed) as store:
        (count,) = store.rows("SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM raw_events")
        (lifecycle,) = store.rows("SELECT count(*) AS n FROM seed_lifecycle")
        (anomalies,) = store.rows("SELECT count(*) AS n FROM anomalies")
    assert count == {"n": len(OLD_EVENTS), "ids": len(OLD_EVENTS)}
    assert lifecycle["n"] == 5
    assert anomalies["n"] == 10


def test_contents_that_changed_shape_are_read_as_today(replayed: Path) -> None:
    with Store.open(replayed) as store:
        (epoch,) = store.rows("SELECT seeds FROM tolaria_epochs")
        (matrix,) = store.rows("SELECT configs FROM counterfactual_matrix_computed")
        (reward,) = store.rows("SELECT reward_components FROM rewards WHERE event_type = 'ANALYTICS_SNAPSHOT'")
        (step,) = store.rows("SELECT slot_states FROM reward_computed")
    seed = dict(epoch["seeds"])["r0c0"]
    assert (seed["stage"], seed["num_parameters"], seed["accuracy_delta"], seed["age_epochs"]) == ("HOLDING", 37000, 0.0, None)
    state = dict(step["slot_states"])["r0c0"]
    assert (state["stage"], state["num_parameters"], state["accuracy_delta"], state["seed_id"]) == ("HOLDING", 37000, 3.0, "")
    assert [config["slots_on"] for config in matrix["configs"]] == [["r0c0"], []]
    assert dict(reward["reward_components"]) == REWARD_PARTS


def old_line(name: str) -> dict[str, Any]:
    return next(line for line in old_lines() if line["event_type"] == name)


@pytest.mark.parametrize("mask", [[True], [True, False, True], 1])
def test_a_mask_that_does_not_fit_the_slots_is_named(mask: Any) -> None:
    line = old_line("COUNTERFACTUAL_MATRIX_COMPUTED")
    data = line["data"] | {"configs": [{"seed_mask": [True, False], "accuracy": 61.0}, {"seed_mask": mask, "accuracy": 58.0}]}
    with pytest.raises(ValueError, match=r"configs\[1\]\.seed_mask should have 2 flags"):
        TelemetryEvent.from_dict(line | {"data": data})


def test_a_mask_without_its_accuracy_is_named() -> None:
    line = old_line("COUNTERFACTUAL_MATRIX_COMPUTED")
    with pytest.raises(KeyError, match=r"configs\[0\]\.accuracy"):
        TelemetryEvent.from_dict(line | {"data": line["data"] | {"configs": [{"seed_mask": [True, False]}]}})


def test_a_state_that_names_its_seed_is_read_strictly() -> None:
    line = old_line("REWARD_COMPUTED")
    state = line["data"]["slot_states"]["r0c0"] | {"seed_id": "r0c0@1"}
    with pytest.raises(ValueError, match="has no field"):
        TelemetryEvent.from_dict(line | {"data": line["data"] | {"slot_states": {"r0c0": state}}})


def test_a_report_can_be_made_of_an_old_stream(replayed: Path, tmp_path: Path) -> None:
    with Store.open(replayed) as store:
        assert "governor_divergence: loss" in write_run_page(store, tmp_path / "report.html").read_text()


def test_what_stands_twice_in_raw_events_can_be_counted_once(tmp_path: Path) -> None:
    root, _ = record(tmp_path, TelemetryConfig(legacy_events=True))
    with Store.open(root) as store:
        (found,) = store.rows("SELECT count(*) AS rows, count(DISTINCT event_id) AS events FROM raw_events")
    assert found["rows"] > found["events"] == len(list(whole_run(3)))


def record(folder: Path, config: TelemetryConfig) -> tuple[Path, MemorySink]:
    watcher = MemorySink()
    sink = FanOutSink(DuckDBSink(folder / "telemetry.duckdb", views=view_statements()), [watcher])
    emitter = BufferedEmitter("driver", 0, transport=InProcessTransport(sink), config=config)
    for event in whole_run(3):
        emitter.emit(event)
    emitter.close()
    sink.close()
    return folder, watcher


def names(root: Path) -> set[str]:
    with Store.open(root) as store:
        return {row["event_type"] for row in store.rows("SELECT DISTINCT event_type FROM raw_events")}


def test_old_names_are_not_emitted_unless_asked_for(tmp_path: Path) -> None:
    root, _ = record(tmp_path, TelemetryConfig())
    assert not names(root) & set(LEGACY_EVENT_NAMES)


def test_asked_for_old_names_every_renamed_event_is_told_twice(tmp_path: Path) -> None:
    root, _ = record(tmp_path, TelemetryConfig(legacy_events=True))
    assert {"PPO_UPDATE_COMPLETED", "EPOCH_COMPLETED", "BATCH_EPOCH_COMPLETED"} <= names(root)
    with Store.open(root) as store:
        for new, old in LEGACY_NAME_OF.items():
            rows = store.rows(f"SELECT event_type, event_id FROM raw_events WHERE event_type IN ('{new}', '{old}')")
            told = {name: sorted(row["event_id"] for row in rows if row["event_type"] == name) for name in (new, old)}
            assert told[new] == told[old]


@pytest.mark.parametrize("view", ["tolaria_epochs", "tamiyo_updates", "tolaria_batches", "anomalies", "episode_outcomes"])
def test_events_told_twice_count_once_in_the_views(view: str, tmp_path: Path, count: Callable[[Path, str], int]) -> None:
    plain, _ = record(tmp_path / "plain", TelemetryConfig())
    both, _ = record(tmp_path / "both", TelemetryConfig(legacy_events=True))
    assert count(both, view) == count(plain, view) > 0


def test_watchers_see_events_told_twice_once(tmp_path: Path) -> None:
    _, watcher = record(tmp_path, TelemetryConfig(legacy_events=True))
    assert not {identity_of(batch).event_type for batch in watcher.batches} & set(LEGACY_EVENT_NAMES)


@pytest.fixture(name="count")
def count_fixture() -> Callable[[Path, str], int]:
    def count(root: Path, view: str) -> int:
        with Store.open(root) as store:
            return int(store.rows(f"SELECT count(*) AS n FROM {view}")[0]["n"])

    return count
