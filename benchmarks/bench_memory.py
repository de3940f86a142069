"""What memory an environment actor holds, and what a further trial adds (P12).

Figures are of memory that a process shares with no other (USS), taken while a second process with the same libraries
is alive, as on a machine with several actors. Linux only.

python -m benchmarks.bench_memory --repeats 3 --json memory.json
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from statistics import fmean, linear_regression, median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from torch import Tensor

from benchmarks.env_process import report, requests
from benchmarks.measure import Figure, figure, run_benchmark
from benchmarks.workloads import QUICK, SEEDS
from esper.distributed.config import RunConfig, read_run_config
from esper.distributed.env_worker import ScriptedSpec
from esper.distributed.facts import examine
from esper.distributed.run_dir import create_run_dir
from esper.distributed.runtime import open_ray
from esper.tolaria.tasks.registry import contexts, make_episode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
PRESETS = {"image_mix": "image-mix", "digits": "smoke"}
FLOOR = "a process that has only imported torch"
EPOCHS = 4
"""Enough for growth, snapshots and counterfactuals; an episode's length changes little else."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--presets", nargs="+", choices=tuple(PRESETS), default=tuple(PRESETS))
    parser.add_argument("--trials", nargs="+", type=int, default=(1, 2, 8, 32), help="at least two different numbers")
    parser.add_argument("--ray", action="store_true", help="also ask an environment actor of a fresh local Ray")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings, e.g. task.num_train=64")
    arguments = parser.parse_args(argv)
    if len(set(arguments.trials)) < 2:
        parser.error("--trials: a slope needs two different numbers")

    def measure() -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        for name in arguments.presets:
            figures |= measure_preset(name, arguments.overrides, trials=sorted(set(arguments.trials)), repeats=arguments.repeats)
        if arguments.ray:
            figures["P12_ray"] = measure_actor(arguments.overrides, repeats=arguments.repeats)
        return figures

    return run_benchmark(measure, arguments.json)


def measure_preset(name: str, overrides: Sequence[str], *, trials: Sequence[int], repeats: int) -> dict[str, Figure]:
    """A process with the fewest trials beside torch alone, and what each further trial adds beside the data it trains on."""
    runs: dict[int, list[dict[str, Any]]] = {n: [] for n in trials}
    floors: list[float] = []
    config = config_of(name, trials[0], overrides)
    with started(config):
        for _ in range(repeats):
            floors.append(measured(None)["memory"]["uss_mb"])
            for n in trials:
                runs[n].append(measured(config_of(name, n, overrides)))
    held = {n: [run["memory"]["uss_mb"] for run in runs[n]] for n in trials}
    slopes = [linear_regression(trials, [held[n][repeat] for n in trials]).slope for repeat in range(repeats)]
    details = {
        "preset": PRESETS[name],
        "uss_mb_by_trials": {str(n): median(values) for n, values in held.items()},
        "dirty_mb_by_trials": {str(n): median(run["memory"]["dirty_mb"] for run in runs[n]) for n in trials},
        "pss_mb_by_trials": {str(n): median(run["memory"]["pss_mb"] for run in runs[n]) for n in trials},
        "loaded": runs[trials[-1]][-1]["loaded"],
    }
    return {
        f"P12_{name}": figure(
            f"memory of its own of a process with {trials[0]} trials, without Ray",
            "MB",
            values=held[trials[0]],
            reference=FLOOR,
            reference_values=floors,
            **details,
        ),
        f"P12_{name}_per_trial": figure(
            "memory that a further trial adds",
            "MB",
            values=slopes,
            reference="tensors of one trial's data, mean over the contexts",
            reference_values=[data_mb(config)] * repeats,
            preset=PRESETS[name],
        ),
    }


def measure_actor(overrides: Sequence[str], *, repeats: int) -> Figure:
    """An environment actor of a fresh local Ray that has played one trial, beside a process with torch alone."""
    config = config_of("image_mix", 2, [*overrides, "rollout.envs_per_actor=1"])
    facts = examine(config)
    reports, floors = [], []
    with started(config):
        for _ in range(repeats):
            with TemporaryDirectory() as folder, open_ray(config, facts, create_run_dir(Path(folder) / "run"), keep_rounds=None) as run:
                pairs = zip(run.workers, requests(config, 2), strict=True)
                refs = [run.executor.call(worker, "play_scripted", [ScriptedSpec("random")], [request]) for worker, request in pairs]
                for ref in refs:
                    run.executor.get(ref)
                reports.append(run.executor.get(run.workers[0].__ray_call__.remote(lambda _: report())))
            floors.append(measured(None)["memory"]["uss_mb"])
    return figure(
        "memory of its own of an environment actor that has played 1 trial, beside a second one",
        "MB",
        values=[each["memory"]["uss_mb"] for each in reports],
        reference=FLOOR,
        reference_values=floors,
        memory=reports[-1]["memory"],
        loaded=reports[-1]["loaded"],
    )


def config_of(name: str, num_trials: int, overrides: Sequence[str]) -> RunConfig:
    """The quick run with another preset, as one group of so many trials."""
    sizes = [f"rollout.num_envs={num_trials}", f"rollout.envs_per_actor={num_trials}"]
    return read_run_config(
        QUICK,
        [
            f"task.preset={PRESETS[name]}",
            f"task.max_epochs={EPOCHS}",
            "telemetry.console=off",
            "evaluation.seeds_per_context=0",
            *sizes,
            *overrides,
        ],
    )


def data_mb(config: RunConfig) -> float:
    """Megabytes of one episode's data, mean over the contexts."""
    sizes = []
    for context in contexts(config.task, "train"):
        data = make_episode(config.task, "train", SEEDS.child("data"), context).dataset
        tensors = [value for value in (getattr(data, field.name) for field in fields(data)) if isinstance(value, Tensor)]
        sizes.append(sum(tensor.nbytes for tensor in tensors) / 1e6)
    return fmean(sizes)


def measured(config: RunConfig | None) -> dict[str, Any]:
    """What a process of its own reports, which then ends."""
    with started(config) as result:
        return result


@contextmanager
def started(config: RunConfig | None) -> Iterator[dict[str, Any]]:
    """A process that plays `config`, or only imports torch; yields what it reports, while it lives.

    Raises:
        RuntimeError: If it fails.
    """
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.env_process"]
        if config is not None:
            path = Path(folder) / "facts.pickle"
            path.write_bytes(pickle.dumps((config, examine(config))))
            command += ["--facts", str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{' '.join(command)} ended without a report")
            yield json.loads(line)
            process.communicate()


if __name__ == "__main__":
    main()
