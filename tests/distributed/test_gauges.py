from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from esper.distributed.gauges import WARNING_PAUSE_SEC, Gauges, memory_warning, snapshot_of
from esper.leyline.reports import EpochTimings
from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.transport import InProcessTransport
from esper.tolaria.infra import CompileCounts, GpuLoad, GpuMemory, InfraProbe, InfraReading
from tests.fakes.sinks import MemorySink
from tests.fakes.telemetry import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_COMPILING = CompileCounts(0, 0, 0, 0, 0)


class FakeProbe(InfraProbe):
    """Reads what it is told to."""

    def __init__(self, readings: Iterator[InfraReading]) -> None:
        super().__init__("cpu")
        self._readings = readings

    def look(self) -> InfraReading:
        return next(self._readings)


def gpu(allocated_gb: float) -> InfraReading:
    memory = GpuMemory(allocated_gb, allocated_gb + 1, allocated_gb, 0.5, allocated_gb, total_gb=10.0, num_ooms=1)
    return InfraReading(memory, GpuLoad(80.0, 30.0), NO_COMPILING, 50.0, 1.0)


def timed(forward_ms: float) -> EpochTimings:
    return EpochTimings(10.0, 1.0, forward_ms, 2 * forward_ms, 1.0, data_transfer_time_ms=0.5)


class Bench:
    """Gauges with a clock and a probe that are told what to say."""

    def __init__(self, readings: list[InfraReading] | None = None, **settings: Any) -> None:
        self.clock, self.sink = FakeClock(), MemorySink()
        config = TelemetryConfig(flush_rows=1, **settings)
        emitter = BufferedEmitter("env-3", 0, transport=InProcessTransport(self.sink), config=config)
        probe = FakeProbe(iter(readings)) if readings is not None else None
        self.gauges = Gauges(emitter, config, "cuda" if readings else "cpu", clock=self.clock, probe=probe)

    def told(self, event_type: str) -> list[dict[str, Any]]:
        return self.sink.rows(event_type)


def test_a_process_beats_at_most_as_often_as_asked_and_says_when_it_stops() -> None:
    bench = Bench(heartbeat_sec=10.0)
    for _ in range(31):
        bench.gauges.beat(env_steps=5)
        bench.clock.advance(1.0)
    bench.gauges.close()
    beats = bench.told("HEARTBEAT")
    assert [beat["uptime_sec"] for beat in beats] == [0.0, 10.0, 20.0, 30.0, 31.0]
    assert [beat["training_thread_alive"] for beat in beats] == [True] * 4 + [False]
    assert {beat["source"] for beat in beats} == {"env-3"}
    assert beats[3]["num_events_emitted"] == 3
    assert beats[0]["env_steps"] == 5


def test_heartbeats_can_be_switched_off() -> None:
    bench = Bench(heartbeat_sec=0.0)
    bench.gauges.beat()
    bench.gauges.close()
    assert bench.told("HEARTBEAT") == []


@pytest.mark.parametrize(("every", "rounds"), [(0, []), (1, [1, 1, 1, 1, 1, 1, 1]), (3, [1, 3, 3])])
def test_snapshots_come_after_the_first_round_and_then_every_few(every: int, rounds: list[int]) -> None:
    bench = Bench(infrastructure_rounds=every)
    for _ in range(7):
        bench.gauges.round_finished()
    assert [row["batch_window"] for row in bench.told("INFRASTRUCTURE_SNAPSHOT")] == rounds


def test_a_snapshot_tells_the_means_of_its_window_alone() -> None:
    bench = Bench(infrastructure_rounds=1)
    for forward in ([2.0, 4.0], [8.0], []):
        for one in forward:
            bench.gauges.note(timed(one))
        bench.gauges.note(EpochTimings(10.0, 1.0))
        bench.gauges.round_finished()
    rows = bench.told("INFRASTRUCTURE_SNAPSHOT")
    assert [row["avg_forward_time_ms"] for row in rows] == [3.0, 8.0, None]
    assert [row["avg_backward_time_ms"] for row in rows] == [6.0, 16.0, None]


def test_without_a_gpu_its_figures_are_unmeasured_and_never_zero() -> None:
    bench = Bench()
    bench.gauges.round_finished()
    (row,) = bench.told("INFRASTRUCTURE_SNAPSHOT")
    assert {key: value for key, value in row.items() if key.startswith(("cuda_", "gpu_", "memory_")) and value is not None} == {}
    assert row["compile_graph_breaks"] is not None
    assert row["host_memory_used_gb"] is None or row["host_memory_used_gb"] > 0.0


def test_a_gpu_is_told_in_full_and_growth_shows() -> None:
    bench = Bench([gpu(2.0), gpu(2.5)], infrastructure_rounds=1)
    bench.gauges.round_finished()
    bench.gauges.round_finished()
    first, second = bench.told("INFRASTRUCTURE_SNAPSHOT")
    assert (first["cuda_memory_allocated_gb"], first["cuda_memory_reserved_gb"], first["cuda_oom_events"]) == (2.0, 3.0, 1)
    assert (first["gpu_utilization_pct"], first["gpu_memory_bandwidth_pct"]) == (80.0, 30.0)
    assert first["memory_allocated_delta_gb"] is None
    assert second["memory_allocated_delta_gb"] == 0.5


def test_a_full_device_is_warned_of_but_not_all_the_time() -> None:
    bench = Bench([gpu(8.4), gpu(8.5), gpu(9.0), gpu(9.0)], infrastructure_rounds=1)
    for _ in range(3):
        bench.gauges.round_finished()
        bench.clock.advance(1.0)
    bench.clock.advance(WARNING_PAUSE_SEC)
    bench.gauges.round_finished()
    warnings = bench.told("MEMORY_WARNING")
    assert [warning["gpu_allocated_gb"] for warning in warnings] == [8.5, 9.0]
    assert {(warning["threshold"], warning["device"], warning["severity"]) for warning in warnings} == {(0.85, "cuda", "warning")}


def test_a_device_with_room_is_not_warned_of() -> None:
    reading = gpu(8.4)
    assert reading.memory is not None
    assert memory_warning(reading.memory, "cuda") is None


def test_a_snapshot_names_its_process() -> None:
    assert snapshot_of(gpu(1.0), [], batch_window=5, last_allocated_gb=None, source="learner").source == "learner"
