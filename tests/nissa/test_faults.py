"""What is left when parts of telemetry die: every acknowledged event once, and everything else counted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.transport import InProcessTransport
from tests.fakes.telemetry import FakeClock, FlakyTransport, heartbeat, heartbeat_batch, read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

FEW, MANY = 2, 10
repetitions = pytest.mark.parametrize("repetition", [*range(FEW), *(pytest.param(i, marks=pytest.mark.slow) for i in range(FEW, MANY))])
WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.transport import InProcessTransport
from tests.fakes.telemetry import heartbeat
root = Path(sys.argv[1])
sink = DuckDBSink(root / "telemetry.duckdb")
emitter = BufferedEmitter("env-0", 0, transport=InProcessTransport(sink), config=TelemetryConfig(flush_rows=3, flush_sec=60.0))
for number in range(1, 1_000_000):
    emitter.emit(heartbeat(float(number)))
    print(sink.high_water_mark("env-0", 0), flush=True)
"""
ONE_A_BATCH = TelemetryConfig(flush_rows=1, spool_batches=4, resend_sec=1.0)


def stored(path: Path) -> list[float]:
    sink = DuckDBSink(path)
    rows = read_rows(sink, "SELECT uptime_sec FROM heartbeat ORDER BY uptime_sec")
    sink.close()
    return [row["uptime_sec"] for row in rows]


@repetitions
def test_a_killed_process_leaves_every_acknowledged_event_once(tmp_path: Path, repetition: int) -> None:
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = 0
        for _ in range(20 + 7 * repetition):
            acknowledged = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
    numbers = stored(tmp_path / "telemetry.duckdb")
    assert acknowledged > 0
    assert len(numbers) >= 3 * acknowledged
    assert numbers == [float(number) for number in range(1, len(numbers) + 1)]


@repetitions
def test_a_queue_that_dies_with_what_it_carries_loses_nothing(tmp_path: Path, repetition: int) -> None:
    sink, clock = DuckDBSink(tmp_path / "telemetry.duckdb"), FakeClock()
    transport = FlakyTransport(sink)
    emitter = BufferedEmitter("env-0", 0, transport=transport, config=ONE_A_BATCH, clock=clock, spool_folder=tmp_path / "spool")
    for number in range(1, 31):
        emitter.emit(heartbeat(float(number)))
        if number % (3 + repetition) == 0:
            transport.lose()
        elif number % 2:
            transport.drain()
        clock.advance(0.3)
    for _ in range(5):
        clock.advance(2.0)
        emitter.flush()
        transport.drain()
    emitter.flush()
    assert (emitter.stats().held_batches, emitter.stats().dropped_events) == (0, 0)
    sink.close()
    assert stored(tmp_path / "telemetry.duckdb") == [float(number) for number in range(1, 31)]


@repetitions
def test_a_store_that_is_opened_again_takes_up_where_it_was(tmp_path: Path, repetition: int) -> None:
    path, clock = tmp_path / "telemetry.duckdb", FakeClock()
    transport = Restarting(path)
    emitter = BufferedEmitter("env-0", 0, transport=transport, config=ONE_A_BATCH, clock=clock, spool_folder=tmp_path / "spool")
    for number in range(1, 31):
        if number == 5 + repetition:
            transport.stop()
        if number == 12 + repetition:
            transport.start()
        emitter.emit(heartbeat(float(number)))
        clock.advance(0.4)
    clock.advance(2.0)
    emitter.flush()
    assert emitter.stats().held_batches == 0
    transport.stop()
    assert stored(path) == [float(number) for number in range(1, 31)]


@repetitions
def test_what_a_damaged_log_took_along_does_not_hold_up_what_follows(tmp_path: Path, repetition: int) -> None:
    path, clock = tmp_path / "telemetry.duckdb", FakeClock()
    sink = DuckDBSink(path)
    sink.write([heartbeat_batch(number) for number in range(1, 3 + repetition)])
    transport = InProcessTransport(sink)
    emitter = BufferedEmitter("env-0", 0, transport=Forgetful(transport, forgotten=2 + repetition), config=ONE_A_BATCH, clock=clock)
    emitter.emit(heartbeat(100.0))
    emitter.emit(heartbeat(101.0))
    clock.advance(2.0)
    emitter.flush()
    assert emitter.stats().held_batches == 0
    rows = read_rows(sink, "SELECT uptime_sec FROM heartbeat WHERE uptime_sec >= 100 ORDER BY 1")
    assert [row["uptime_sec"] for row in rows] == [100.0, 101.0]


@repetitions
def test_a_full_disk_costs_what_no_buffer_can_hold_and_counts_it(tmp_path: Path, repetition: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path, clock = tmp_path / "telemetry.duckdb", FakeClock()
    sink = DuckDBSink(path)
    emitter = BufferedEmitter("env-0", 0, transport=InProcessTransport(sink), config=ONE_A_BATCH, clock=clock)
    num_events = 10 + repetition
    with monkeypatch.context() as full:

        def refuse(batches: Sequence[pa.RecordBatch]) -> None:
            raise SinkUnavailableError(f"no room for {len(batches)} batches")

        full.setattr(sink, "write", refuse)
        for number in range(1, num_events + 1):
            emitter.emit(heartbeat(float(number)))
    emitter.emit(heartbeat(1000.0))
    stats = emitter.close(timeout_sec=5.0)
    assert (stats.held_batches, stats.dropped_events) == (0, num_events + 1 - ONE_A_BATCH.spool_batches)
    emitter = BufferedEmitter("env-0", 1, transport=InProcessTransport(sink), config=ONE_A_BATCH, clock=clock)
    emitter.emit(heartbeat(2000.0))
    emitter.close()
    sink.close()
    assert stored(path) == [1.0, 2.0, 3.0, 4.0, 2000.0]


class Restarting:
    """A sink in this process that can be stopped and started."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sink: DuckDBSink | None = None
        self._known = 0
        self.start()

    def start(self) -> None:
        self._sink = DuckDBSink(self._path)

    def stop(self) -> None:
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def try_put(self, batches: Sequence[bytes]) -> bool:
        return self._sink is not None and InProcessTransport(self._sink).try_put(batches)

    def acknowledged(self, source: str, incarnation: int) -> int:
        if self._sink is not None:
            self._known = self._sink.high_water_mark(source, incarnation)
        return self._known

    def hurry(self) -> None:
        pass


class Forgetful:
    """Claims at first that more is stored than there is, as a store did that lost its log afterwards."""

    def __init__(self, inner: InProcessTransport, *, forgotten: int) -> None:
        self._inner = inner
        self._forgotten = forgotten

    def try_put(self, batches: Sequence[bytes]) -> bool:
        return self._inner.try_put(batches)

    def acknowledged(self, source: str, incarnation: int) -> int:
        stored = self._inner.acknowledged(source, incarnation)
        claimed, self._forgotten = stored + self._forgotten, 0
        return claimed

    def hurry(self) -> None:
        pass
