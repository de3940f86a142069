"""The process that stores is killed again and again while events are told: each is stored once, and nothing acknowledged is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from multiprocessing.connection import Client
from typing import TYPE_CHECKING

import numpy as np
import pytest

from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.sinks.duckdb import DuckDBSink
from tests.fakes.telemetry import heartbeat, read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

NUM_KILLS = 10
PATIENCE_SEC = 60.0
SMALL_MEMORY = TelemetryConfig(flush_rows=3, flush_sec=60.0, spool_batches=4, resend_sec=0.2)
SERVE_UNTIL_KILLED = """
import sys
from multiprocessing.connection import Listener
from pathlib import Path
from esper.nissa.sinks.duckdb import DuckDBSink
from esper.nissa.wire import decode
root = Path(sys.argv[1])
sink = DuckDBSink(root / "telemetry.duckdb")
with Listener(str(root / "sink.socket"), "AF_UNIX") as listener, listener.accept() as producer:
    while True:
        asked = producer.recv()
        if isinstance(asked, list):
            sink.write([decode(payload) for payload in asked])
            producer.send(True)
        elif asked is None:
            break
        else:
            producer.send(sink.high_water_mark(*asked))
sink.close()
"""


class SinkProcess:
    """A transport to a process that owns the file, and may be killed at any moment."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[tuple[str, int], int] = {}
        self._producer: Connection | None = None
        self.start()

    def start(self) -> None:
        socket = self._root / "sink.socket"
        socket.unlink(missing_ok=True)
        self.process = subprocess.Popen([sys.executable, "-c", SERVE_UNTIL_KILLED, str(self._root)])
        deadline = time.monotonic() + PATIENCE_SEC
        while self._producer is None:
            try:
                self._producer = Client(str(socket), "AF_UNIX")
            except (FileNotFoundError, ConnectionRefusedError):
                assert time.monotonic() < deadline
                assert self.process.poll() is None
                time.sleep(0.01)

    def stop(self) -> None:
        if self._producer is not None:
            self._producer.send(None)
        assert self.process.wait(timeout=PATIENCE_SEC) == 0

    @property
    def is_away(self) -> bool:
        return self._producer is None

    def try_put(self, batches: Sequence[bytes]) -> bool:
        return self._ask(list(batches)) is True

    def acknowledged(self, source: str, incarnation: int) -> int:
        answer = self._ask((source, incarnation))
        if answer is not None:
            self._known[source, incarnation] = answer
        return self._known.get((source, incarnation), 0)

    def hurry(self) -> None:
        pass

    def _ask(self, question: object) -> int | None:
        if self._producer is None:
            return None
        try:
            self._producer.send(question)
            answer: int = self._producer.recv()
        except (EOFError, OSError):
            self._producer = None
            return None
        return answer


def test_ten_kills_lose_nothing_acknowledged_and_store_nothing_twice(tmp_path: Path) -> None:
    rng, sink, lives = np.random.default_rng(2026), SinkProcess(tmp_path), 0
    emitter = life(lives, sink, tmp_path)
    number, most_on_disk = 0, 0
    for kill in range(NUM_KILLS):
        killer = threading.Timer(float(rng.uniform(0.0, 0.3)), sink.process.kill)
        killer.start()
        num_more = int(rng.integers(20, 60))
        while not sink.is_away or num_more > 0:
            number += 1
            emitter.emit(heartbeat(float(number)))
            num_more -= sink.is_away
        most_on_disk = max(most_on_disk, emitter.stats().disk_batches)
        sink.process.wait(timeout=PATIENCE_SEC)
        if kill % 3 == 2:
            assert emitter.close().dropped_events == 0
            lives += 1
        acknowledged = sink.acknowledged("env-0", lives)
        sink.start()
        if kill % 3 == 2:
            emitter = life(lives, sink, tmp_path)
        assert sink.acknowledged("env-0", lives) >= acknowledged
    stats = emitter.close(timeout_sec=PATIENCE_SEC)
    sink.stop()
    assert (stats.held_batches, stats.dropped_events) == (0, 0)
    assert most_on_disk > 0
    file = DuckDBSink(tmp_path / "telemetry.duckdb")
    stored = [row["uptime_sec"] for row in read_rows(file, "SELECT uptime_sec FROM heartbeat ORDER BY uptime_sec")]
    assert stored == [float(one) for one in range(1, number + 1)]
    assert file.quarantined_wal is None
    file.close()


@pytest.mark.parametrize("num_acknowledged", [1, 4])
def test_what_was_acknowledged_before_the_first_kill_is_there_at_once(tmp_path: Path, num_acknowledged: int) -> None:
    sink = SinkProcess(tmp_path)
    emitter = life(0, sink, tmp_path)
    for number in range(1, 3 * num_acknowledged + 1):
        emitter.emit(heartbeat(float(number)))
    assert sink.acknowledged("env-0", 0) == num_acknowledged
    sink.process.kill()
    sink.process.wait(timeout=PATIENCE_SEC)
    file = DuckDBSink(tmp_path / "telemetry.duckdb")
    assert file.high_water_mark("env-0", 0) == num_acknowledged
    assert read_rows(file, "SELECT count(*) AS n FROM heartbeat") == [{"n": 3 * num_acknowledged}]
    file.close()


def life(incarnation: int, sink: SinkProcess, root: Path) -> BufferedEmitter:
    return BufferedEmitter("env-0", incarnation, transport=sink, config=SMALL_MEMORY, spool_folder=root / "spool")
