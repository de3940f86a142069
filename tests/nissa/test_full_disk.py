"""A disk that is really full, while rows are told and while the log is folded in: nothing acknowledged is lost, and the rest is counted."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from esper.leyline.telemetry.tolaria import TolariaBatchPayload
from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.transport import InProcessTransport
from tests.fakes.disks import fill, small_disk
from tests.fakes.telemetry import FakeClock, event, fold_in, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from esper.leyline.telemetry.event import TelemetryEvent

DISK_MIB = 48
EVENT_BYTES = 256 * 1024
ONE_A_BATCH = TelemetryConfig(flush_rows=1, spool_batches=4, resend_sec=1.0)
WRITE_UNTIL_FULL_AND_ON = """
import json, resource, signal, sys
from pathlib import Path
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.transport import InProcessTransport
from tests.nissa.test_full_disk import ONE_A_BATCH, large
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sink = DuckDBSink(Path(sys.argv[1]) / "telemetry.duckdb", min_free_bytes=0)
transport = InProcessTransport(sink)
emitter = BufferedEmitter("env-0", 0, transport=transport, config=ONE_A_BATCH)
resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 2**20, resource.RLIM_INFINITY))
number = 0
while emitter.stats().dropped_events < 3:
    number += 1
    emitter.emit(large(number))
acknowledged = sink.high_water_mark("env-0", 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
told = number + 5
for later in range(number + 1, told + 1):
    emitter.emit(large(later))
stats = emitter.close(timeout_sec=30.0)
sink.close()
print(json.dumps([told, acknowledged, stats.held_batches, stats.dropped_events]))
"""


def large(number: int) -> TelemetryEvent:
    """An event that no compression makes small."""
    accuracies = tuple(np.random.default_rng(number).random(EVENT_BYTES // 8).tolist())
    payload = TolariaBatchPayload(
        episodes_completed=8, batch_idx=number, avg_accuracy=50.0, avg_reward=1.0, total_episodes=8, n_envs=8, env_accuracies=accuracies
    )
    return event("TOLARIA_BATCH_COMPLETED", payload, float(number))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_MIB) as folder:
        yield folder


def stored(sink: DuckDBSink) -> list[int]:
    rows = read_rows(sink, "SELECT batch_idx FROM tolaria_batch_completed ORDER BY batch_idx")
    return [row["batch_idx"] for row in rows]


def incidents(sink: DuckDBSink) -> list[str]:
    return [row["kind"] for row in read_rows(sink, "SELECT kind FROM incidents")]


def test_a_file_that_may_not_grow_loses_nothing_acknowledged_and_goes_on_when_it_may(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WRITE_UNTIL_FULL_AND_ON, str(tmp_path)], capture_output=True, text=True, check=True)
    told, acknowledged, num_held, num_dropped = json.loads(done.stdout)
    sink = DuckDBSink(tmp_path / "telemetry.duckdb")
    numbers = stored(sink)
    assert 0 < acknowledged < told
    assert set(range(1, acknowledged + 1)) < set(numbers)
    assert len(numbers) == len(set(numbers)) == told - num_dropped
    assert numbers[-4:] == list(range(told - 3, told + 1))
    assert (num_held, num_dropped >= 3) == (0, True)
    assert read_rows(sink, "SELECT sum(dropped_events) AS n FROM high_water_marks") == [{"n": num_dropped}]
    assert incidents(sink) == ["refused"]
    assert "held back" in done.stderr
    sink.close()


@pytest.mark.parametrize("leave_mib", [2, 22], ids=["the log does not fit", "the log fits and cannot be folded in"])
def test_a_full_disk_costs_what_no_buffer_holds_and_counts_it(disk: Path, leave_mib: int) -> None:
    path, clock = disk / "telemetry.duckdb", FakeClock()
    sink = DuckDBSink(path, min_free_bytes=0)
    filler = fill(disk, leave_mib=leave_mib)
    transport = InProcessTransport(sink)
    emitter = BufferedEmitter("env-0", 0, transport=transport, config=ONE_A_BATCH, clock=clock, spool_folder=disk / "spool")
    number = 0
    while emitter.stats().dropped_events < 3 and number < 1000:
        number += 1
        emitter.emit(large(number))
    acknowledged = sink.high_water_mark("env-0", 0)
    filler.unlink()
    clock.advance(2.0)
    told = number + 5
    for later in range(number + 1, told + 1):
        emitter.emit(large(later))
    stats = emitter.close(timeout_sec=30.0)
    sink.close()
    again = DuckDBSink(path, min_free_bytes=0)
    numbers = stored(again)
    assert stats.held_batches == 0
    assert set(range(1, acknowledged + 1)) < set(numbers)
    assert len(numbers) == len(set(numbers)) == told - stats.dropped_events
    assert numbers[-4:] == list(range(told - 3, told + 1))
    assert incidents(again) == ["refused"]
    assert read_rows(again, "SELECT sum(dropped_events) AS n FROM high_water_marks") == [{"n": stats.dropped_events}]
    again.close()


def test_a_run_that_ends_on_a_full_disk_is_taken_up_by_the_next_life(disk: Path, tmp_path: Path) -> None:
    path, spool = disk / "telemetry.duckdb", tmp_path / "spool"
    sink = DuckDBSink(path, min_free_bytes=0)
    filler = fill(disk, leave_mib=2)
    emitter = BufferedEmitter("env-0", 0, transport=InProcessTransport(sink), config=ONE_A_BATCH, spool_folder=spool)
    number = 0
    while emitter.stats().held_batches < 7:
        number += 1
        emitter.emit(large(number))
    stats = emitter.close()
    sink.close()
    assert (stats.held_batches, stats.disk_batches, stats.dropped_events) == (7, 7, 0)
    filler.unlink()
    again = DuckDBSink(path, min_free_bytes=0)
    BufferedEmitter("env-0", 1, transport=InProcessTransport(again), config=ONE_A_BATCH, spool_folder=spool).close(timeout_sec=30.0)
    assert stored(again) == list(range(1, number + 1))
    again.close()


def test_a_snapshot_that_finds_no_room_leaves_the_file_and_its_writer_alone(disk: Path) -> None:
    path = disk / "telemetry.duckdb"
    sink = DuckDBSink(path, min_free_bytes=0)
    emitter = BufferedEmitter("env-0", 0, transport=InProcessTransport(sink), config=ONE_A_BATCH)
    for number in range(1, 33):
        emitter.emit(large(number))
        if number % 8 == 0:
            fold_in(sink)
    filler = fill(disk, leave_mib=2)
    with pytest.raises(SinkUnavailableError):
        sink.publish_snapshot(disk / "telemetry.snapshot.duckdb")
    assert not list(disk.glob("*.copy*")) + list(disk.glob("*.snapshot*"))
    emitter.emit(large(33))
    assert stored(sink) == list(range(1, 34))
    emitter.close()
    filler.unlink()
    sink.close()
