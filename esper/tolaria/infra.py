"""How the machine fares, as one process sees it: memory, utilisation, compilation. What cannot be measured is None."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

GB = float(1 << 30)


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Memory of one device in GB, as this process's allocator has it."""

    allocated_gb: float
    reserved_gb: float
    active_gb: float
    inactive_gb: float
    """In split blocks that nobody uses: lost to fragmentation until they are whole again."""
    peak_gb: float
    """Most that was allocated at once."""
    total_gb: float
    """Of the device."""
    num_ooms: int
    """Allocations that failed."""

    @property
    def fragmentation(self) -> float:
        """Share of the reserved memory that is not allocated, 0…1."""
        return 1.0 - self.allocated_gb / self.reserved_gb if self.reserved_gb > 0.0 else 0.0

    @property
    def allocated_frac(self) -> float:
        """Share of the device that is allocated, 0…1."""
        return self.allocated_gb / self.total_gb


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """How busy a device is, in percent."""

    utilization_pct: float | None
    memory_bandwidth_pct: float | None


@dataclass(frozen=True, slots=True)
class CompileCounts:
    """What torch.compile has done in this process so far."""

    graph_breaks: int
    recompilations: int
    """Graphs made again for a function that had one."""
    cache_hits: int
    cache_misses: int
    guard_failures: int


@dataclass(frozen=True, slots=True)
class InfraReading:
    """One look at the machine."""

    memory: GpuMemory | None
    """None without a GPU."""
    load: GpuLoad
    compile: CompileCounts
    cpu_utilization_pct: float | None
    """CPU of this process since the last look; 100 is one core. None where no time has passed."""
    resident_gb: float | None
    """Resident memory of this process; None where the system does not tell."""


class InfraProbe:
    """Looks at the machine from one process.

    Args:
        device: Where the process computes, e.g. `cpu` or `cuda`.
        clock: Seconds of wall time.
        cpu_clock: CPU seconds of the process.
    """

    def __init__(
        self, device: str, *, clock: Callable[[], float] = time.perf_counter, cpu_clock: Callable[[], float] = time.process_time
    ) -> None:
        self._device = torch.device(device)
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._last = clock(), cpu_clock()

    def look(self) -> InfraReading:
        """Measure now."""
        is_gpu = self._device.type == "cuda" and torch.cuda.is_available()
        return InfraReading(
            memory=gpu_memory(self._device) if is_gpu else None,
            load=gpu_load(self._device) if is_gpu else GpuLoad(None, None),
            compile=compile_counts(sys.modules),
            cpu_utilization_pct=self._cpu_share(),
            resident_gb=resident_gb(),
        )

    def _cpu_share(self) -> float | None:
        now, last = (self._clock(), self._cpu_clock()), self._last
        self._last = now
        if now[0] <= last[0]:
            return None
        return 100.0 * (now[1] - last[1]) / (now[0] - last[0])


def gpu_memory(device: torch.device) -> GpuMemory:
    """What the allocator says of a CUDA device."""
    return read_memory(torch.cuda.memory_stats(device), total_bytes=torch.cuda.mem_get_info(device)[1])


def read_memory(stats: Mapping[str, int], *, total_bytes: int) -> GpuMemory:
    """Pick what telemetry tells out of `torch.cuda.memory_stats`, which is empty before the first allocation."""
    return GpuMemory(
        allocated_gb=stats.get("allocated_bytes.all.current", 0) / GB,
        reserved_gb=stats.get("reserved_bytes.all.current", 0) / GB,
        active_gb=stats.get("active_bytes.all.current", 0) / GB,
        inactive_gb=stats.get("inactive_split_bytes.all.current", 0) / GB,
        peak_gb=stats.get("allocated_bytes.all.peak", 0) / GB,
        total_gb=total_bytes / GB,
        num_ooms=stats.get("num_ooms", 0),
    )


def gpu_load(device: torch.device) -> GpuLoad:
    """Utilisation from NVIDIA's management library; None where its Python package is missing or it refuses.

    Which of the machine's GPUs `device` is, torch knows, whether CUDA_VISIBLE_DEVICES names them by number or by UUID. A slice of a
    GPU (MIG) has no utilisation of its own, and tells none.
    """
    return GpuLoad(_percent(torch.cuda.utilization, device), _percent(torch.cuda.memory_usage, device))


def compile_counts(modules: Mapping[str, Any]) -> CompileCounts:
    """Counters of torch.compile.

    Args:
        modules: What is imported; where torch's compiler is not, nothing was compiled, and importing it takes seconds.
    """
    dynamo = modules.get("torch._dynamo.utils")
    if dynamo is None:
        return CompileCounts(0, 0, 0, 0, 0)
    counters = dynamo.counters
    inductor, aot = counters["inductor"], counters["aot_autograd"]
    frames = getattr(modules.get("torch._dynamo.convert_frame"), "FRAME_COMPILE_COUNTER", {})
    return CompileCounts(
        graph_breaks=sum(counters["graph_break"].values()),
        recompilations=sum(max(count - 1, 0) for count in frames.values()),
        cache_hits=inductor["fxgraph_cache_hit"] + aot["autograd_cache_hit"],
        cache_misses=inductor["fxgraph_cache_miss"] + aot["autograd_cache_miss"],
        guard_failures=sum(len(reasons) for reasons in dynamo.guard_failures.values()),
    )


def resident_gb() -> float | None:
    """Resident memory of this process, from the proc file system."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / GB


def _percent(measure: Callable[[torch.device], int], device: torch.device) -> float | None:
    """What a function of torch that asks the management library says; its exceptions are of many kinds, some of an optional package."""
    try:
        return float(measure(device))
    except Exception:  # noqa: BLE001  # a reading for the record; what failed is told by its absence
        return None
