"""A minute of the load that many environments make, through everything that stands between them and the file."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from benchmarks.processes import unshared_mb
from esper.distributed.actors import RayExecutor, close_session, open_session, start_part, stop_part
from esper.distributed.config import ClusterConfig
from esper.distributed.run_dir import create_run_dir
from esper.distributed.shared_disk import SharedFolder
from esper.distributed.sink_process import build_sink
from esper.distributed.telemetry_queue import QueueTransport, make_queue
from esper.karn.store import Store
from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from tests.distributed.faults import living
from tests.fakes.load import COUNT_EVENTS, emit_load

if TYPE_CHECKING:
    from pathlib import Path

SPACE = "test-load"
STEPS_PER_SEC, NUM_SEC, WARM_SEC = 200, 60.0, 20.0
NUM_PRODUCERS = 4
GROWTH_MB = 100.0
"""By which a process may grow after it has warmed up: DuckDB holds what it has not folded into the file yet, up to 16 MB of log."""


def memory() -> dict[str, float]:
    """MB of the process that tells, and of those that carry and store."""
    parts = {part: living(part) for part in ("sink", "queue")}
    return {"producer": unshared_mb(os.getpid())} | {part: unshared_mb(int(actor["Pid"])) for part, actor in parts.items() if actor}


@pytest.mark.ray
@pytest.mark.slow
def test_nothing_is_lost_the_queue_stays_short_and_memory_flat(tmp_path: Path) -> None:
    telemetry, paths = TelemetryConfig(), create_run_dir(tmp_path / "run")
    open_session(ClusterConfig(), namespace=SPACE)
    try:
        queue = make_queue(telemetry.queue_capacity, SPACE)
        folder = SharedFolder.mark(paths, "life")
        sink = start_part("esper-sink", build_sink, (telemetry, {}, folder, None, SPACE), cpus=0.1)
        life = RayExecutor(60.0).get(RayExecutor(60.0).call(sink, "ready"))
        emitters = [
            BufferedEmitter(f"env-{i}", life, transport=QueueTransport(queue, sink), config=telemetry) for i in range(NUM_PRODUCERS)
        ]
        depths: list[int] = []
        held: list[dict[str, float]] = []
        began = time.monotonic()
        with ThreadPoolExecutor(NUM_PRODUCERS) as pool:
            told = pool.map(partial(emit_load, num_sec=NUM_SEC, steps_per_sec=STEPS_PER_SEC / NUM_PRODUCERS), emitters)
            while time.monotonic() - began < NUM_SEC:
                depths.append(queue.qsize())
                if time.monotonic() - began > WARM_SEC:
                    held.append(memory())
                time.sleep(0.5)
            num_events = sum(told)
        stats = [emitter.close(timeout_sec=60.0) for emitter in emitters]
        stop_part(sink, timeout_sec=60.0)
    finally:
        close_session()
    assert [(one.held_batches, one.dropped_events) for one in stats] == [(0, 0)] * NUM_PRODUCERS
    with Store.open(paths.root) as store:
        assert store.rows(COUNT_EVENTS) == [{"n": num_events}]
    assert max(depths) < telemetry.queue_capacity
    for process in ("producer", "sink", "queue"):
        assert held[-1][process] - held[0][process] < GROWTH_MB
