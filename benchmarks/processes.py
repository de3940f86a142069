"""CPU seconds and memory of a process's descendants, by the part that each of them plays. Linux only."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def descendants(process: int) -> list[int]:
    """The living processes that `process` started, directly or not."""
    found: list[int] = []
    for task in _listed(Path(f"/proc/{process}/task")):
        for child in _read(task / "children").split():
            found += [int(child), *descendants(int(child))]
    return found


def title(process: int) -> str:
    """The program, or the name that the process gave itself; empty if it is gone."""
    return _read(Path(f"/proc/{process}/cmdline")).replace("\0", " ").split(" ")[0]


def cpu_sec(process: int) -> float:
    """CPU seconds so far, user and system; 0 if the process is gone."""
    fields = _read(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def unshared_mb(process: int) -> float:
    """Memory that no other process shares, in MB; 0 if the process is gone."""
    lines = _read(Path(f"/proc/{process}/smaps_rollup")).splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024 / 1e6


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _listed(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []
