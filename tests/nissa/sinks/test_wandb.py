from __future__ import annotations

import os
import time
from dataclasses import replace
from itertools import chain, combinations
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
import wandb

from esper.leyline.telemetry.event import TelemetryEventType
from esper.leyline.telemetry.schema import event_schema, record_batch
from esper.leyline.telemetry.tamiyo import TamiyoPolicyUpdatePayload
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.wandb import DATA_DIR, WandbSink
from esper.nissa.sinks.wandb_keys import CHARTS, group, points, stacked, training_rows
from esper.nissa.sinks.wandb_label import RunLabel, explain_mode, resolve_mode, run_id
from esper.nissa.sinks.wandb_progress import Progress
from tests.fakes.telemetry import event, heartbeat, outcome, whole_run
from tests.fakes.wandb_run import batches_of, fake_wandb, rounds_of_run

if TYPE_CHECKING:
    from pathlib import Path

SERVER = "https://wandb.invalid"


def test_updates_are_logged_row_by_row_under_their_domain_against_env_steps() -> None:
    updates = [one for one in whole_run(1) if one.event_type is TelemetryEventType.TAMIYO_POLICY_UPDATE]
    logged = points(TelemetryEventType.TAMIYO_POLICY_UPDATE, record_batch(updates))
    assert [step for step, _ in logged] == [16, 16]
    assert [values["tamiyo/ppo_update_idx"] for _, values in logged] == [1.0, 2.0]
    assert logged[0][1]["tamiyo/pre_clip_grad_norm"] == 2.5
    assert "tamiyo/head_slot_entropy" not in logged[0][1]


def test_many_envs_become_one_mean() -> None:
    batch = record_batch([event("EPISODE_OUTCOME", outcome(env, 0, utility)) for env, utility in enumerate((40.0, 60.0))])
    ((_, values),) = points(TelemetryEventType.EPISODE_OUTCOME, batch)
    assert values["simic/utility"] == 50.0
    assert not any("env_id" in key for key in values)


def test_other_events_are_counted() -> None:
    assert points(TelemetryEventType.HEARTBEAT, record_batch([heartbeat()] * 3)) == [(None, {"infra/num_heartbeat": 3.0})]


def value_of(kind: pa.DataType) -> Any:
    """A measured value of a column."""
    if pa.types.is_map(kind):
        return [("WAIT", value_of(kind.item_type)), ("op", value_of(kind.item_type)), ("blocks.0", value_of(kind.item_type))]
    if pa.types.is_list(kind) or pa.types.is_struct(kind):
        return None
    return "x" if pa.types.is_string(kind) else pa.scalar(1).cast(kind).as_py()


def keys_of(event_type: TelemetryEventType) -> set[str]:
    """Every key that a type of event may get."""
    schema = event_schema(event_type)
    row = {field.name: [value_of(field.type)] for field in schema}
    return {key for _, values in points(event_type, pa.table(row, schema=schema)) for key in values}


def test_no_two_types_of_events_share_a_key() -> None:
    keys = {event_type: keys_of(event_type) for event_type in TelemetryEventType}
    assert all(keys.values())
    for one, other in combinations(keys, 2):
        assert not keys[one] & keys[other], (one, other)
    assert "simic/utility" in keys[TelemetryEventType.EPISODE_OUTCOME]
    assert "simic/step/utility" in keys[TelemetryEventType.REWARD_COMPUTED]


def test_maps_whose_keys_are_fixed_are_metrics_and_others_are_not() -> None:
    (update, *_) = (one for one in whole_run(1) if one.event_type is TelemetryEventType.TAMIYO_POLICY_UPDATE)
    assert isinstance(update.data, TamiyoPolicyUpdatePayload)
    told = replace(
        update.data,
        op_distribution={"WAIT": 0.75, "GERMINATE": 0.25},
        head_nan_detected={"op": True, "slot": False},
        risk_class_shares={"GREEN": 1.0},
        layer_gradient_health={"blocks.0.weight": 0.5},
    )
    ((_, values),) = points(update.event_type, record_batch([replace(update, data=told)]))
    found = {key: value for key, value in values.items() if key.count("/") == 2}
    assert found == {
        "tamiyo/op_distribution/WAIT": 0.75,
        "tamiyo/op_distribution/GERMINATE": 0.25,
        "tamiyo/head_nan_detected/op": 1.0,
        "tamiyo/head_nan_detected/slot": 0.0,
        "tamiyo/risk_class_shares/GREEN": 1.0,
    }
    bare, full = record_batch([update]), record_batch([replace(update, data=told)])
    assert ["tamiyo/op_distribution/WAIT" in row for _, row in points(update.event_type, pa.Table.from_batches([bare, full]))] == [
        False,
        True,
    ]


def test_every_chart_shows_fields_that_exist() -> None:
    known = {f"{group(event_type)}/{name}" for event_type in TelemetryEventType for name in event_schema(event_type).names}
    assert {key for keys in CHARTS.values() for key in keys} <= known


@pytest.mark.parametrize(
    ("wanted", "environ", "expected"),
    [
        ("online", {}, "offline"),
        ("online", {"WANDB_API_KEY": "x" * 40}, "online"),
        ("online", {"WANDB_API_KEY": "x" * 40, "WANDB_MODE": "disabled"}, "disabled"),
        ("offline", {"WANDB_API_KEY": "x" * 40}, "offline"),
    ],
)
def test_online_needs_a_key(wanted: str, environ: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    assert resolve_mode(wanted, environ, SERVER) == expected  # type: ignore[arg-type]


def test_a_run_that_is_not_logged_as_asked_for_says_why() -> None:
    assert explain_mode("offline", "offline", {}, SERVER) == ""
    assert explain_mode("online", "online", {"WANDB_API_KEY": "x"}, SERVER) == ""
    assert "no key for https://wandb.invalid" in explain_mode("online", "offline", {}, SERVER)
    assert "WANDB_MODE=disabled" in explain_mode("online", "disabled", {"WANDB_MODE": "disabled"}, SERVER)


def test_a_run_that_cannot_log_the_rest_is_ended_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs, reason) = (fake_wandb(monkeypatch), "no network")
    sink = WandbSink("esper-test", "offline", folder=tmp_path, label=RunLabel("one"))

    def refuse(_: dict[str, Any]) -> None:
        raise wandb.errors.CommError(reason)

    monkeypatch.setattr(runs[0], "log", refuse)
    sink.write(batches_of(rounds_of_run(1)[0]))
    assert DATA_DIR in os.environ
    with pytest.raises(SinkUnavailableError, match=reason):
        sink.close()
    assert runs[0].is_finished
    assert DATA_DIR not in os.environ


def log_run(folder: Path, rounds: int) -> bytes:
    """Log some rounds of a run offline; returns what was written for the upload."""
    sink = WandbSink("esper-test", "offline", folder=folder, label=RunLabel("one"), config={"seed": 1})
    sink.write(batches_of(chain(*rounds_of_run(rounds))))
    sink.close()
    wandb.teardown()  # the library's own process writes on after a run has finished; this waits for it
    newest = max(folder.rglob("*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return newest.read_bytes()


@pytest.fixture
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)


@pytest.mark.usefixtures("_quiet")
def test_an_offline_run_leaves_everything_in_its_folder_and_logs_nothing_twice(tmp_path: Path) -> None:
    content = log_run(tmp_path, 2)
    for key in (b"tamiyo/explained_variance", b"tolaria/train_loss", b"simic/episode_reward", b"env_steps", b"charts/Trust region"):
        assert key in content
    assert (tmp_path / "artifacts").exists()
    assert Progress(tmp_path, ()).env_steps == 8
    identity = run_id(tmp_path)
    time.sleep(1.1)  # the library names folders by the second
    again = log_run(tmp_path, 2)
    assert run_id(tmp_path) == identity
    assert b"tamiyo/explained_variance" not in again
    assert b"charts/Trust region" in again


def test_evaluation_stays_out_of_the_curves_of_training() -> None:
    groups = ("train/learned/0", "default", "eval/random/0", "heldout/learned/2")
    ends = [event("EPISODE_OUTCOME", outcome(env, 0, 10.0 * env)) for env in range(len(groups))]
    rows = record_batch([replace(one, group_id=group) for one, group in zip(ends, groups, strict=True)])
    assert training_rows(pa.Table.from_batches([rows])).column("env_id").to_pylist() == [0, 1]


def test_areas_lie_on_top_of_each_other() -> None:
    edges = dict(stacked({"a": [(1, 1.0), (2, 2.0)], "b": [(1, 0.5), (2, 0.5), (3, 9.0)]}))
    assert edges == {"a": [(1, 1.0), (2, 2.0)], "b": [(1, 1.5), (2, 2.5)]}
    assert dict(stacked({})) == {}


@pytest.mark.parametrize("key", sorted({key for keys in CHARTS.values() for key in keys}))
def test_keys_of_charts_name_no_env(key: str) -> None:
    group, _, name = key.partition("/")
    assert group in ("tamiyo", "tolaria", "simic", "kasmina", "infra")
    assert "env_id" not in name
    assert "env-" not in name
