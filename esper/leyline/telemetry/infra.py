"""Payloads about the machine: memory, compilation, timing, heartbeat."""

from __future__ import annotations

from dataclasses import dataclass

from esper.leyline.telemetry.payload import Payload


@dataclass(frozen=True, slots=True)
class InfrastructureSnapshotPayload(Payload):
    """How the machine fares. The CUDA fields are required and None on a machine without CUDA; None is unmeasured."""

    cuda_memory_allocated_gb: float | None
    cuda_memory_reserved_gb: float | None
    cuda_memory_active_gb: float | None
    cuda_memory_inactive_gb: float | None
    cuda_memory_peak_gb: float | None
    cuda_memory_fragmentation: float | None
    """Reserved but unallocated share, 0…1."""
    gpu_utilization_pct: float | None = None
    gpu_memory_bandwidth_pct: float | None = None
    compile_graph_breaks: int | None = None
    compile_recompilations: int | None = None
    compile_cache_hits: int | None = None
    compile_cache_misses: int | None = None
    dynamo_guard_failures: int | None = None
    avg_forward_time_ms: float | None = None
    avg_backward_time_ms: float | None = None
    avg_optimizer_time_ms: float | None = None
    avg_data_transfer_time_ms: float | None = None
    batch_window: int = 10
    """Rounds that the averages cover."""
    cuda_oom_events: int | None = None
    memory_allocated_delta_gb: float | None = None
    """Change since the last snapshot; a steady rise is a leak."""
    cpu_utilization_pct: float | None = None
    host_memory_used_gb: float | None = None
    """Resident memory of the process."""
    source: str = ""
    """Which process measured."""


@dataclass(frozen=True, slots=True)
class HeartbeatPayload(Payload):
    """A process is alive, and so is its telemetry."""

    source: str
    uptime_sec: float
    training_thread_alive: bool
    env_steps: int | None = None
    num_events_emitted: int | None = None
    num_events_dropped: int | None = None
    num_batches_waiting: int | None = None
    """Not yet acknowledged, in memory or on disk."""
    num_batches_on_disk: int | None = None
    """Of these, those in files, because memory had no more room or the sink was away for long."""


@dataclass(frozen=True, slots=True)
class MemoryWarningPayload(Payload):
    """A device is nearly full."""

    gpu_utilization: float
    """Allocated share, 0…1."""
    gpu_allocated_gb: float
    gpu_total_gb: float
    threshold: float
    device: str | None = None
