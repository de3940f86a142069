"""How long it takes from nothing to the first env step of the quick run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.measure import Figure, figure
from benchmarks.workloads import QUICK

ROOT = Path(__file__).parents[1]
PARTS = ("torch", "torch", "torch", "duckdb", "asyncio")
"""What learner, two environment actors, sink and queue of the quick run cannot do without."""


def measure_start(*, repeats: int, has_ray: bool) -> Figure:
    """P11: seconds from starting a process to its first env step, beside one that only imports torch, or starts Ray where torch is."""
    command = [sys.executable, "-m", "benchmarks.first_step", "--config", str(QUICK), *(["--ray"] if has_ray else [])]
    bare = ["-m", "benchmarks.bare_ray", *PARTS] if has_ray else ["-c", "import torch; print('ready')"]
    runs, bare_sec = [], []
    for _ in range(repeats):
        started = time.time()
        output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        runs.append(json.loads(output.splitlines()[-1]))
        runs[-1]["marks"] = {"started": started, **runs[-1]["marks"]}
        began = time.perf_counter()
        with subprocess.Popen([sys.executable, *bare], cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            bare_sec.append(time.perf_counter() - began)
    phases = [{later: run["marks"][later] - run["marks"][earlier] for earlier, later in pairwise(run["marks"])} for run in runs]
    return figure(
        f"start of a process to its first env step, {'fresh local Ray' if has_ray else 'one process'}",
        "seconds",
        values=[run["marks"]["stepped"] - run["marks"]["started"] for run in runs],
        reference=f"start of a process to torch imported{', Ray started, and torch imported in three actors of five' if has_ray else ''}",
        reference_values=bare_sec,
        cpu_sec=[run["cpu_sec"] for run in runs],
        phases={name: median(phase[name] for phase in phases) for name in phases[0]},
        loaded=runs[-1]["loaded"],
    )
