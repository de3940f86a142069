"""What one process tells of itself: signs of life, and now and then how its machine fares."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from esper.leyline.telemetry import (
    HeartbeatPayload,
    InfrastructureSnapshotPayload,
    MemoryWarningPayload,
    TelemetryEvent,
    TelemetryEventType,
)
from esper.tolaria.infra import InfraProbe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.leyline.reports import EpochTimings
    from esper.nissa.config import TelemetryConfig
    from esper.nissa.emitter import BufferedEmitter
    from esper.tolaria.infra import GpuMemory, InfraReading

MEMORY_WARNING_FRAC = 0.85
"""Allocated share of a device from which it is told."""
WARNING_PAUSE_SEC = 60.0
"""Shortest time between two warnings."""


class Gauges:
    """Emits heartbeats, infrastructure snapshots and memory warnings of the process that it lives in.

        gauges.beat()                     # as often as one likes; at most one heartbeat per `heartbeat_sec` is sent
        gauges.note(report.timings)       # after each host epoch
        gauges.round_finished()           # a snapshot after the first round, and then every `infrastructure_rounds`
        gauges.close()                    # the last heartbeat, which says that this process stopped working

    Args:
        emitter: Way to telemetry; its source names the process.
        config: How often.
        device: Where the process computes.
        clock: Monotonic seconds.
        probe: Looks at the machine; None makes one.
    """

    def __init__(
        self,
        emitter: BufferedEmitter,
        config: TelemetryConfig,
        device: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        probe: InfraProbe | None = None,
    ) -> None:
        self._emitter = emitter
        self._config = config
        self._device = device
        self._clock = clock
        self._probe = probe or InfraProbe(device)
        self._timings: list[EpochTimings] = []
        self._num_rounds = self._window = 0
        self._started = clock()
        self._last_beat: float | None = None
        self._last_warning: float | None = None
        self._last_allocated: float | None = None

    def beat(self, *, env_steps: int | None = None) -> None:
        """Give a sign of life, if the last one is long enough ago."""
        now, pause = self._clock(), self._config.heartbeat_sec
        if pause > 0.0 and (self._last_beat is None or now - self._last_beat >= pause):
            self._last_beat = now
            self._send_beat(is_working=True, env_steps=env_steps)

    def note(self, timings: EpochTimings) -> None:
        """Remember how long an epoch's parts took, for the means of the next snapshot."""
        if self._config.infrastructure_rounds and timings.forward_time_ms is not None:
            self._timings.append(timings)

    def round_finished(self) -> None:
        """Count a round; look at the machine if it is time to."""
        every = self._config.infrastructure_rounds
        self._num_rounds += 1
        self._window += 1
        if every and (self._num_rounds - 1) % every == 0:
            self._look()

    def close(self) -> None:
        """Tell that this process stops working."""
        if self._config.heartbeat_sec > 0.0 and self._last_beat is not None:
            self._send_beat(is_working=False, env_steps=None)

    def _send_beat(self, *, is_working: bool, env_steps: int | None) -> None:
        stats = self._emitter.stats()
        payload = HeartbeatPayload(
            source=self._emitter.source,
            uptime_sec=self._clock() - self._started,
            training_thread_alive=is_working,
            env_steps=env_steps,
            num_events_emitted=stats.emitted_events,
            num_events_dropped=stats.dropped_events,
            num_batches_waiting=stats.held_batches,
            num_batches_on_disk=stats.disk_batches,
        )
        self._emitter.emit(TelemetryEvent(TelemetryEventType.HEARTBEAT, payload))

    def _look(self) -> None:
        reading = self._probe.look()
        payload = snapshot_of(
            reading, self._timings, batch_window=self._window, last_allocated_gb=self._last_allocated, source=self._emitter.source
        )
        self._emitter.emit(TelemetryEvent(TelemetryEventType.INFRASTRUCTURE_SNAPSHOT, payload))
        self._timings, self._window = [], 0
        if reading.memory is not None:
            self._last_allocated = reading.memory.allocated_gb
            self._warn(reading.memory)

    def _warn(self, memory: GpuMemory) -> None:
        now, warning = self._clock(), memory_warning(memory, self._device)
        if warning is not None and (self._last_warning is None or now - self._last_warning >= WARNING_PAUSE_SEC):
            self._last_warning = now
            self._emitter.emit(TelemetryEvent(TelemetryEventType.MEMORY_WARNING, warning, severity="warning"))


def memory_warning(memory: GpuMemory, device: str) -> MemoryWarningPayload | None:
    """The warning that a device is nearly full, if it is."""
    if memory.allocated_frac < MEMORY_WARNING_FRAC:
        return None
    return MemoryWarningPayload(
        gpu_utilization=memory.allocated_frac,
        gpu_allocated_gb=memory.allocated_gb,
        gpu_total_gb=memory.total_gb,
        threshold=MEMORY_WARNING_FRAC,
        device=device,
    )


def snapshot_of(
    reading: InfraReading, timings: Sequence[EpochTimings], *, batch_window: int, last_allocated_gb: float | None, source: str
) -> InfrastructureSnapshotPayload:
    """What telemetry tells of a reading; means are over `timings`, all of which were measured."""
    memory, compiled = reading.memory, reading.compile
    return InfrastructureSnapshotPayload(
        cuda_memory_allocated_gb=memory.allocated_gb if memory else None,
        cuda_memory_reserved_gb=memory.reserved_gb if memory else None,
        cuda_memory_active_gb=memory.active_gb if memory else None,
        cuda_memory_inactive_gb=memory.inactive_gb if memory else None,
        cuda_memory_peak_gb=memory.peak_gb if memory else None,
        cuda_memory_fragmentation=memory.fragmentation if memory else None,
        gpu_utilization_pct=reading.load.utilization_pct,
        gpu_memory_bandwidth_pct=reading.load.memory_bandwidth_pct,
        compile_graph_breaks=compiled.graph_breaks,
        compile_recompilations=compiled.recompilations,
        compile_cache_hits=compiled.cache_hits,
        compile_cache_misses=compiled.cache_misses,
        dynamo_guard_failures=compiled.guard_failures,
        avg_forward_time_ms=_mean([t.forward_time_ms for t in timings]),
        avg_backward_time_ms=_mean([t.backward_time_ms for t in timings]),
        avg_optimizer_time_ms=_mean([t.optimizer_step_time_ms for t in timings]),
        avg_data_transfer_time_ms=_mean([t.data_transfer_time_ms for t in timings]),
        batch_window=batch_window,
        cuda_oom_events=memory.num_ooms if memory else None,
        memory_allocated_delta_gb=memory.allocated_gb - last_allocated_gb if memory and last_allocated_gb is not None else None,
        cpu_utilization_pct=reading.cpu_utilization_pct,
        host_memory_used_gb=reading.resident_gb,
        source=source,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
