"""How long it takes from nothing to the first env step of the quick run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.measure import Figure, figure, timed
from benchmarks.workloads import QUICK

ROOT = Path(__file__).parents[1]


def measure_start(*, repeats: int, has_ray: bool) -> Figure:
    """P11: seconds from starting a process to its first env step, beside a process that only imports torch."""
    command = [sys.executable, "-m", "benchmarks.first_step", "--config", str(QUICK), *(["--ray"] if has_ray else [])]
    first, imports, cpu = [], [], []
    for _ in range(repeats):
        started = time.time()
        output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        done = json.loads(output.splitlines()[-1])
        first.append(done["first_step_at"] - started)
        cpu.append(done["cpu_sec"])
        imports.append(timed(partial(subprocess.run, [sys.executable, "-c", "import torch"], check=True)).wall_sec)
    return figure(
        f"start of a process to its first env step, {'fresh local Ray' if has_ray else 'one process'}",
        "seconds",
        values=first,
        reference="start of a process to torch imported, and its end",
        reference_values=imports,
        cpu_sec=cpu,
    )
