"""From nothing to the first env step of the quick run; `start.py` starts it as a process of its own."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.env_process import HEAVY


def main() -> None:
    """Import, examine, open the parts, play one step of one environment, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--ray", action="store_true", help="parts live in actors of a fresh local Ray")
    arguments = parser.parse_args()
    # Unix time, since the process that waits has another origin of `perf_counter`.
    marks = {"python": time.time()}
    import torch

    marks["torch"] = time.time()
    from esper.cli import run  # noqa: F401 - what `esper train` loads
    from esper.distributed.config import read_run_config
    from esper.distributed.facts import examine
    from esper.distributed.requests import training_round
    from esper.distributed.run_dir import create_run_dir
    from esper.distributed.runtime import open_local, open_ray
    from esper.leyline.rng import SeedTree

    torch.set_num_threads(1)
    marks["esper"] = time.time()
    config = read_run_config(arguments.config)
    facts = examine(config)
    marks["examined"] = time.time()
    opener = open_ray if arguments.ray else open_local
    with TemporaryDirectory() as folder:
        paths = create_run_dir(Path(folder) / "run")
        with opener(config, facts, paths, keep_rounds=None) as runtime:
            marks["opened"] = time.time()
            executor, worker = runtime.executor, runtime.workers[0]
            group = training_round(0, config, SeedTree(config.seed).child("train"))[0][:1]
            first = executor.call(worker, "start", 0, group)
            step = executor.get(executor.call(worker, "step", executor.call(runtime.learner, "act", first, False)))
            marks["stepped"] = time.time()
            loaded = [name for name in HEAVY if name in sys.modules]
            done = {"marks": marks, "cpu_sec": time.process_time(), "step": step.key.step, "loaded": loaded}
            print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
