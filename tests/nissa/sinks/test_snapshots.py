from __future__ import annotations

from typing import TYPE_CHECKING

from esper.karn.store import Store
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.sinks.fan_out import FanOutSink
from esper.nissa.sinks.snapshots import SnapshotPublisher
from tests.fakes.telemetry import FakeClock, heartbeat_batch

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

COUNT = "SELECT count(*) AS n FROM heartbeat"


def beats(folder: Path) -> int:
    with Store.open(folder) as store:
        assert store.is_snapshot
        return int(store.rows(COUNT)[0]["n"])


def test_a_living_run_is_copied_on_schedule_and_at_its_end(tmp_path: Path) -> None:
    clock = FakeClock()
    file = DuckDBSink(tmp_path / "telemetry.duckdb")
    snapshot = tmp_path / "telemetry.snapshot.duckdb"
    sink = FanOutSink(file, [SnapshotPublisher(file, snapshot, every_sec=30.0, clock=clock)])
    sink.write([heartbeat_batch(1)])
    assert not snapshot.exists()
    clock.advance(31.0)
    sink.write([heartbeat_batch(2)])
    assert beats(tmp_path) == 2
    sink.write([heartbeat_batch(3)])
    assert beats(tmp_path) == 2
    sink.close()
    (tmp_path / "telemetry.duckdb").unlink()
    assert beats(tmp_path) == 3


def test_a_copy_that_fails_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DuckDBSink(tmp_path / "telemetry.duckdb")
    sink = FanOutSink(file, [SnapshotPublisher(file, tmp_path / "copy.duckdb", every_sec=0.0)])

    def refuse(path: Path) -> Path:
        raise SinkUnavailableError(f"no room for {path}")

    monkeypatch.setattr(file, "publish_snapshot", refuse)
    sink.write([heartbeat_batch(1)])
    assert sink.high_water_mark("env-0", 0) == 1
    monkeypatch.undo()
    sink.close()
    assert (tmp_path / "copy.duckdb").exists()
