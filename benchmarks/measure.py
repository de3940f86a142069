"""What every benchmark shares: clocks, figures beside their in-run reference, and the state of the machine.

A figure is only as good as the ratio to its reference, which is measured in turn with it, repeat by repeat.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
Figure = dict[str, Any]
"""A measurement as plain data; see `figure`."""
PACKAGES = ("torch", "torch-geometric", "numpy", "ray", "duckdb", "pyarrow")
"""Whose versions a result names."""


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """What an action returned, and what it took."""

    result: T
    cpu_sec: float
    """Of this process, all threads."""
    wall_sec: float


def timed(action: Callable[[], T]) -> Timed[T]:
    """Run `action` under both clocks."""
    started, started_cpu = time.perf_counter(), time.process_time()
    result = action()
    return Timed(result, time.process_time() - started_cpu, time.perf_counter() - started)


def figure(what: str, unit: str, *, values: Sequence[float], reference: str, reference_values: Sequence[float], **details: Any) -> Figure:
    """One measured figure.

    Args:
        what: What was measured.
        unit: Of `values` and `reference_values` alike.
        values: One per repeat.
        reference: What was measured beside it.
        reference_values: One per repeat, in the same order.
        **details: Whatever else a reader needs, as plain data.

    Returns:
        Plain data with the medians of both, and the median of the ratios that each repeat gives.

    Raises:
        ValueError: If there is no repeat, or the numbers of repeats differ.
    """
    if not values or len(values) != len(reference_values):
        raise ValueError(f"{what}: {len(values)} values and {len(reference_values)} of the reference; both should be the same and not 0")
    return {
        "what": what,
        "unit": unit,
        "median": statistics.median(values),
        "values": list(values),
        "reference": {"what": reference, "median": statistics.median(reference_values), "values": list(reference_values)},
        "ratio": statistics.median(value / other for value, other in zip(values, reference_values, strict=True)),
        "repeats": len(values),
        **details,
    }


def machine() -> dict[str, Any]:
    """Versions, threads and load at this moment."""
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()),
    }


def cpu_name() -> str:
    """What the CPU calls itself, and the widest vectors that torch uses on it."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or "unknown CPU")
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def run_benchmark(measure: Callable[[], dict[str, Figure]], path: Path | None) -> dict[str, Any]:
    """Measure with one thread, and print the figures as JSON together with the machine's state before and after.

    Args:
        measure: Returns figures by name.
        path: File that gets the JSON as well; None only prints it.

    Returns:
        What was printed.
    """
    torch.set_num_threads(1)
    before = machine()
    run = timed(measure)
    result = {
        "figures": run.result,
        "machine": before,
        "load_average_after": list(os.getloadavg()),
        "cpu_sec": run.cpu_sec,
        "wall_sec": run.wall_sec,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if path is not None:
        path.write_text(text + "\n")
    return result
