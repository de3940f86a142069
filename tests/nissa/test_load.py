"""The load that many environments make, through emitter, bounded queue and store, in threads of one process."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.transport import InProcessTransport
from tests.fakes.load import COUNT_EVENTS, emit_load
from tests.fakes.telemetry import read_rows

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

    def hurry(self) -> None:
        pass


def test_nothing_is_lost_and_the_queue_stays_short(tmp_path: Path) -> None:
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
    num_events = emit_load(emitter, 1.0, steps_per_sec=STEPS_PER_SEC)
    stats = emitter.close(timeout_sec=60.0)
    is_over.set()
    thread.join()
    stored = read_rows(sink, COUNT_EVENTS)[0]["n"]
    sink.close()
    assert (stats.held_batches, stats.dropped_events) == (0, 0)
    assert stored == num_events
    assert transport.deepest < CAPACITY
