"""Runs and their parts that end badly: what was told until then is kept, and what can be closed is closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from esper.distributed.build import make_emitter
from esper.distributed.executor import PartLostError
from esper.distributed.facts import examine
from esper.distributed.run_dir import create_run_dir
from esper.distributed.runtime import open_local, open_ray
from esper.distributed.session import resume_run, train_run
from esper.distributed.telemetry_store import TelemetryStore
from esper.karn.store import Store
from esper.leyline.load import dump
from esper.leyline.telemetry import PartFaultPayload, TelemetryEvent, TelemetryEventType
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.duckdb import DuckDBSink
from tests.distributed.faults import SETTINGS
from tests.distributed.runs import STEPS_PER_ROUND, at_step, tiny_config, trace
from tests.fakes.telemetry import FlakyTransport, heartbeat, heartbeat_batch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

    from esper.distributed.config import RunConfig
    from esper.distributed.run_dir import RunDir

GIVEN_UP = PartFaultPayload(part="env-0", fault="died", remedy="give_up", num_faults=4, life=7)
WITHOUT_EXTRAS = ("telemetry.live_queries=false", "telemetry.snapshot_sec=0")


def open_store(config: RunConfig, paths: RunDir, *, keep_rounds: int | None) -> TelemetryStore:
    return TelemetryStore(config.telemetry, dump(config), paths, keep_rounds=keep_rounds, life="one")


def lose_a_part() -> None:
    raise PartLostError("env-0 was lost")


@pytest.mark.parametrize("local", [True, pytest.param(False, marks=(pytest.mark.ray, pytest.mark.slow))])
def test_what_was_told_last_reaches_the_file_when_the_run_breaks_off(tmp_path: Path, local: bool) -> None:
    config, paths = tiny_config(*SETTINGS), create_run_dir(tmp_path / "run")
    opened = (open_local if local else open_ray)(config, examine(config), paths, keep_rounds=None)
    with pytest.raises(PartLostError, match="env-0 was lost"), opened as runtime:
        runtime.emitter.emit(TelemetryEvent(TelemetryEventType.PART_LOST, GIVEN_UP))
        lose_a_part()
    with Store.open(paths.root) as store:
        assert store.rows("SELECT remedy, num_faults FROM part_lost") == [{"remedy": "give_up", "num_faults": 4}]


def test_a_run_that_fails_says_so_and_can_be_resumed(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "run"
    with monkeypatch.context() as fault, pytest.raises(PartLostError):
        at_step(fault, STEPS_PER_ROUND + 2, lose_a_part)
        train_run(tiny_config(), root, local=True)
    with Store.open(root) as store:
        (end,) = store.rows("SELECT stop_reason, checkpoint_path FROM runs")
    assert end == {"stop_reason": "failed", "checkpoint_path": str(root / "checkpoints" / "round-00001")}
    assert not resume_run(root, local=True)
    with Store.open(root) as store:
        assert [row["stop_reason"] for row in store.rows("SELECT stop_reason FROM runs ORDER BY timestamp")] == ["failed", "completed"]
    assert trace(root) == trace(finished)


def test_a_store_that_cannot_tidy_up_lets_go_of_its_file_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = create_run_dir(tmp_path / "run")
    store = open_store(tiny_config(*WITHOUT_EXTRAS), paths, keep_rounds=0)

    def refuse(*_: object, **__: object) -> int:
        raise SinkUnavailableError("disk full")

    monkeypatch.setattr(DuckDBSink, "forget_groups", refuse)
    with pytest.raises(SinkUnavailableError, match="disk full"):
        store.close()
    with Store.open(paths.root) as file:
        assert file.rows("SELECT count(*) AS n FROM heartbeat") == [{"n": 0}]


def test_a_store_that_cannot_be_opened_whole_lets_go_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = create_run_dir(tmp_path / "run")
    closed: list[DuckDBSink] = []

    def refuse(*_: object) -> int:
        raise SinkUnavailableError("disk full")

    monkeypatch.setattr(DuckDBSink, "open_life", refuse)
    monkeypatch.setattr(DuckDBSink, "close", lambda sink: closed.append(sink))
    with pytest.raises(SinkUnavailableError, match="disk full"):
        open_store(tiny_config(*WITHOUT_EXTRAS), paths, keep_rounds=None)
    assert len(closed) == 1


@pytest.mark.parametrize("num_vanished", [0, 1])
def test_finished_work_of_a_lost_part_is_fetched_from_its_spool_and_what_is_nowhere_is_recorded(tmp_path: Path, num_vanished: int) -> None:
    paths = create_run_dir(tmp_path / "run")
    config = tiny_config(*WITHOUT_EXTRAS, "telemetry.flush_rows=1")
    store = open_store(config, paths, keep_rounds=None)
    transport = FlakyTransport(store.sink)
    emitter = make_emitter(config, "env-0", store.incarnation, transport, paths.spool)
    emitter.emit(heartbeat(1.0))
    transport.drain()
    transport.is_full = True
    for number in (2.0, 3.0, 4.0):
        emitter.emit(heartbeat(number))
    assert emitter.settle(0.0) == 4
    for path in sorted((paths.spool / "env-0").glob("*.arrow"))[:num_vanished]:
        path.unlink()
    store.abandon("env-0", store.incarnation, 3)
    transport.is_full = False
    emitter.flush()
    transport.drain()
    store.close()
    with Store.open(paths.root) as file:
        assert [row["seq"] for row in file.rows("SELECT seq FROM heartbeat ORDER BY seq")] == ([1, 3] if num_vanished else [1, 2, 3])
        incidents = file.rows("SELECT kind, detail FROM incidents")
    told = [{"kind": "lost_batches", "detail": "of env-0 (life 0), batches 2 to 2: finished and never stored"}]
    assert incidents == told[:num_vanished]


class Unreachable:
    note = ""

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        raise SinkUnavailableError("no network")

    def close(self) -> None:
        pass


def test_what_a_dashboard_missed_is_recorded_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = create_run_dir(tmp_path / "run")
    monkeypatch.setattr("esper.nissa.sinks.wandb.open_wandb", lambda *_, **__: Unreachable())
    store = open_store(tiny_config(*WITHOUT_EXTRAS, "telemetry.wandb=offline"), paths, keep_rounds=None)
    for seq in (1, 2, 3):
        store.sink.write([heartbeat_batch(seq)])
    store.close()
    with Store.open(paths.root) as file:
        incidents = file.rows("SELECT kind, detail FROM incidents")
    assert incidents == [{"kind": "watcher_missed", "detail": "Unreachable did not get 3 batches, which this file has"}]
