from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from esper.leyline.telemetry.event import TelemetryEventType
from esper.leyline.telemetry.schema import record_batch
from esper.nissa.sinks.wandb import WandbSink, resolve_mode
from esper.nissa.sinks.wandb_keys import CHARTS, points
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


def test_an_offline_run_leaves_a_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    sink = WandbSink("esper-test", "offline", folder=tmp_path, name="one", config={"seed": 1})
    for seq, one in enumerate(whole_run(2, n_envs=2), 1):
        sink.write([stamp(record_batch([one]), BatchId("driver", 0, seq, seq - 1, one.event_type.name))])
    sink.close()
    (logged,) = tmp_path.rglob("*.wandb")
    content = logged.read_bytes()
    assert b"tamiyo/explained_variance" in content
    assert b"env_steps" in content
