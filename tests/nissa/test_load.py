"""A minute of the load that many environments make, through emitter, bounded queue and store."""

from __future__ import annotations

import queue
import resource
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.transport import InProcessTransport
from tests.fakes.telemetry import one_round, read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STEPS_PER_SEC = 200
CAPACITY = 256


class Bounded:
    """A queue between two threads."""

    def __init__(self, sink: DuckDBSink) -> None:
        self.batches: queue.Queue[bytes] = queue.Queue(CAPACITY)
        self.deepest = 0
        self._sink = sink

    def try_put(self, batches: Sequence[bytes]) -> bool:
        if self.batches.qsize() + len(batches) > CAPACITY:
            return False
        for batch in batches:
            self.batches.put(batch)
        self.deepest = max(self.deepest, self.batches.qsize())
        return True

    def acknowledged(self, source: str, incarnation: int) -> int:
        return self._sink.high_water_mark(source, incarnation)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def play(emitter: BufferedEmitter, num_sec: float) -> int:
    """Emit rounds of 8 environments with 2 steps each, so many a second; returns the number of events."""
    rng, started, num_events, num_rounds = np.random.default_rng(0), time.monotonic(), 0, 0
    while time.monotonic() - started < num_sec:
        for one in one_round(num_rounds, rng=rng):
            emitter.emit(one)
            num_events += 1
        num_rounds += 1
        time.sleep(max(0.0, started + 16 * num_rounds / STEPS_PER_SEC - time.monotonic()))
    return num_events


@pytest.mark.parametrize("num_sec", [1.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_nothing_is_lost_the_queue_stays_short_and_memory_flat(tmp_path: Path, num_sec: float) -> None:
    sink = DuckDBSink(tmp_path / "telemetry.duckdb")
    transport, is_over = Bounded(sink), threading.Event()

    def store() -> None:
        inner = InProcessTransport(sink)
        while not (is_over.is_set() and transport.batches.empty()):
            waiting = [transport.batches.get() for _ in range(transport.batches.qsize())]
            if waiting:
                inner.try_put(waiting)
            time.sleep(0.1)

    thread = threading.Thread(target=store)
    thread.start()
    emitter = BufferedEmitter("env-0", 0, transport=transport, config=TelemetryConfig())
    num_events = play(emitter, min(num_sec, 10.0))
    warm_mb = peak_mb()
    num_events += play(emitter, num_sec - min(num_sec, 10.0))
    stats = emitter.close(timeout_sec=60.0)
    is_over.set()
    thread.join()
    stored = read_rows(
        sink,
        "SELECT sum(estimated_size) AS n FROM duckdb_tables() "
        "WHERE table_name NOT IN ('high_water_marks', 'schema_version', 'lives', 'incidents', 'rejected_batches')",
    )[0]["n"]
    sink.close()
    assert (stats.held_batches, stats.dropped_events) == (0, 0)
    assert stored == num_events
    assert transport.deepest < CAPACITY
    assert peak_mb() - warm_mb < 100.0
