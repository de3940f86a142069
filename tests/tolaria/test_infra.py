from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from esper.tolaria.infra import CompileCounts, GpuLoad, InfraProbe, compile_counts, gpu_load, read_memory

GB = 1 << 30


def test_a_machine_without_a_gpu_measures_nothing_of_one() -> None:
    reading = InfraProbe("cpu").look()
    assert reading.memory is None
    assert reading.load.utilization_pct is None
    assert reading.load.memory_bandwidth_pct is None
    assert reading.resident_gb is None or reading.resident_gb > 0.0


def test_cpu_is_what_was_used_since_the_last_look() -> None:
    wall, cpu = iter([0.0, 10.0, 20.0]), iter([0.0, 5.0, 25.0])
    probe = InfraProbe("cpu", clock=lambda: next(wall), cpu_clock=lambda: next(cpu))
    assert probe.look().cpu_utilization_pct == 50.0
    assert probe.look().cpu_utilization_pct == 200.0


def test_memory_is_read_in_gigabytes() -> None:
    stats = {
        "allocated_bytes.all.current": 6 * GB,
        "reserved_bytes.all.current": 8 * GB,
        "active_bytes.all.current": 7 * GB,
        "inactive_split_bytes.all.current": GB,
        "allocated_bytes.all.peak": 9 * GB,
        "num_ooms": 2,
    }
    memory = read_memory(stats, total_bytes=12 * GB)
    assert (memory.allocated_gb, memory.reserved_gb, memory.active_gb, memory.inactive_gb, memory.peak_gb) == (6, 8, 7, 1, 9)
    assert memory.fragmentation == 0.25
    assert memory.allocated_frac == 0.5
    assert memory.num_ooms == 2


def test_a_gpu_that_was_not_used_yet_has_nothing_allocated() -> None:
    memory = read_memory({}, total_bytes=GB)
    assert (memory.allocated_gb, memory.fragmentation, memory.num_ooms) == (0.0, 0.0, 0)


def test_without_the_compiler_nothing_was_compiled() -> None:
    assert compile_counts({}) == CompileCounts(0, 0, 0, 0, 0)


@pytest.mark.slow
def test_compilations_are_counted() -> None:
    import sys

    before = compile_counts(sys.modules)
    doubled = torch.compile(lambda x: 2 * x, backend="eager", dynamic=False)
    for size in (2, 3, 4):
        doubled(torch.ones(size))
    after = compile_counts(sys.modules)
    assert after.recompilations - before.recompilations == 2
    assert after.guard_failures > before.guard_failures
    assert after.graph_breaks == before.graph_breaks


def test_counters_are_read_from_the_compiler() -> None:
    counters = {
        "graph_break": {"call": 2, "item": 1},
        "inductor": {"fxgraph_cache_hit": 4, "fxgraph_cache_miss": 5},
        "aot_autograd": {"autograd_cache_hit": 1, "autograd_cache_miss": 2},
    }
    utils = SimpleNamespace(counters=counters, guard_failures={"f": ["shape", "dtype"]})
    frames = SimpleNamespace(FRAME_COMPILE_COUNTER={0: 3, 1: 1})
    found = compile_counts({"torch._dynamo.utils": utils, "torch._dynamo.convert_frame": frames})
    assert found == CompileCounts(graph_breaks=3, recompilations=2, cache_hits=5, cache_misses=7, guard_failures=2)


def test_the_load_of_a_gpu_is_that_of_the_very_device(monkeypatch: pytest.MonkeyPatch) -> None:
    percents = {torch.device("cuda", 0): 10, torch.device("cuda", 1): 70}
    monkeypatch.setattr(torch.cuda, "utilization", percents.__getitem__)
    monkeypatch.setattr(torch.cuda, "memory_usage", lambda device: percents[device] + 1)
    assert gpu_load(torch.device("cuda", 1)) == GpuLoad(70.0, 71.0)


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("nvidia-ml-py"), RuntimeError("device 3 is not visible"), OSError("NVML: not supported")]
)
def test_what_a_gpu_does_not_tell_is_not_known(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: torch.device) -> int:
        raise error

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    monkeypatch.setattr(torch.cuda, "memory_usage", lambda device: 20)
    assert gpu_load(torch.device("cuda")) == GpuLoad(None, 20.0)
