from __future__ import annotations

import os
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
import wandb

from esper.leyline.telemetry.event import TelemetryEventType
from esper.leyline.telemetry.schema import record_batch
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.wandb import DATA_DIR, WandbSink
from esper.nissa.sinks.wandb_keys import CHARTS, points, stacked, training_rows
from esper.nissa.sinks.wandb_label import RunLabel, explain_mode, logged_env_steps, resolve_mode, run_id
from esper.nissa.wire import BatchId, stamp
from tests.fakes.telemetry import event, heartbeat, outcome, whole_run

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


def test_every_chart_shows_fields_that_exist() -> None:
    from esper.leyline.telemetry.schema import event_schema
    from esper.nissa.sinks.wandb_keys import group

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
    ended: list[str] = []
    monkeypatch.delenv(DATA_DIR, raising=False)
    run = SimpleNamespace(define_metric=lambda *_, **__: None, finish=lambda: ended.append("run"))
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    sink = WandbSink("esper-test", "offline", folder=tmp_path, label=RunLabel("one"))

    def refuse() -> None:
        raise SinkUnavailableError("no network")

    monkeypatch.setattr(sink, "flush", refuse)
    assert DATA_DIR in os.environ
    with pytest.raises(SinkUnavailableError, match="no network"):
        sink.close()
    assert ended == ["run"]
    assert DATA_DIR not in os.environ


def log_run(folder: Path, rounds: range) -> bytes:
    """Log some rounds of a run offline; returns what was written for the upload."""
    sink = WandbSink("esper-test", "offline", folder=folder, label=RunLabel("one"), config={"seed": 1})
    events = [one for one in whole_run(rounds.stop, n_envs=2) if one.event_type.name != "RUN_FINISHED"]
    for seq, one in enumerate(events, 1):
        sink.write([stamp(record_batch([one]), BatchId("driver", 0, seq, seq - 1, one.event_type.name))])
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
    content = log_run(tmp_path, range(2))
    for key in (b"tamiyo/explained_variance", b"tolaria/train_loss", b"simic/episode_reward", b"env_steps", b"charts/Trust region"):
        assert key in content
    assert (tmp_path / "artifacts").exists()
    assert logged_env_steps(tmp_path) == 8
    identity = run_id(tmp_path)
    time.sleep(1.1)  # the library names folders by the second
    again = log_run(tmp_path, range(2))
    assert run_id(tmp_path) == identity
    assert b"tamiyo/explained_variance" not in again


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
