"""How long it takes from nothing to the first env step of the quick run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.measure import Figure, figure, timed
from benchmarks.workloads import QUICK

ROOT = Path(__file__).parents[1]


def measure_start(*, repeats: int, has_ray: bool) -> Figure:
    """P11: seconds from starting a process to its first env step, beside a process that only imports torch."""
    command = [sys.executable, "-m", "benchmarks.first_step", "--config", str(QUICK), *(["--ray"] if has_ray else [])]
    runs, imports = [], []
    for _ in range(repeats):
        started = time.time()
        output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        runs.append(json.loads(output.splitlines()[-1]))
        runs[-1]["marks"] = {"started": started, **runs[-1]["marks"]}
        imports.append(timed(partial(subprocess.run, [sys.executable, "-c", "import torch"], check=True)).wall_sec)
    phases = [{later: run["marks"][later] - run["marks"][earlier] for earlier, later in pairwise(run["marks"])} for run in runs]
    return figure(
        f"start of a process to its first env step, {'fresh local Ray' if has_ray else 'one process'}",
        "seconds",
        values=[run["marks"]["stepped"] - run["marks"]["started"] for run in runs],
        reference="start of a process to torch imported, and its end",
        reference_values=imports,
        cpu_sec=[run["cpu_sec"] for run in runs],
        phases={name: median(phase[name] for phase in phases) for name in phases[0]},
        loaded=runs[-1]["loaded"],
    )
