"""How a run grows with its environments (P10, P14): the real driver, learner, queue and sink with hosts that only sleep.

CPU seconds of each role per environment step, how busy the environment actors are, and the memory of Ray's own processes.

python -m benchmarks.bench_scale --envs 2 16 64 256 1024 --steps 12 --step-sec 2 --json experiments/scale/results.json
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import ray

from benchmarks.measure import Figure, run_benchmark
from benchmarks.processes import cpu_sec, descendants, title, unshared_mb
from benchmarks.stub_hosts import Listener, Recording, StubHosts
from esper.distributed import actors, build
from esper.distributed.collector import Collector
from esper.distributed.config import RunConfig, read_run_config
from esper.distributed.facts import examine
from esper.distributed.requests import training_round
from esper.distributed.run_dir import RunDir, create_run_dir
from esper.distributed.shared_disk import SharedFolder
from esper.distributed.sink_process import build_sink
from esper.distributed.telemetry_queue import QueueTransport, make_queue
from esper.leyline.load import dump
from esper.leyline.rng import SeedTree
from esper.leyline.rollout import ActMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.distributed.learner_worker import LearnerWorker
    from esper.nissa.emitter import BufferedEmitter

ROLES = ("driver", "learner", "queue", "sink", "gcs", "raylet")
NAMESPACE = "scale"
HEAD = ("gcs", "raylet", "queue", "sink", "driver")


@dataclass(frozen=True)
class Scale:
    """One size of run."""

    num_envs: int
    envs_per_actor: int
    steps: int
    step_sec: float
    processes: int

    @property
    def num_actors(self) -> int:
        """Environment actors."""
        return self.num_envs // self.envs_per_actor


class VirtualPart:
    """One worker of a `StubHosts` process, called as an actor is."""

    def __init__(self, process: Any, worker: int) -> None:
        self._process = process
        self._worker = worker
        self.watched_call = self

    def options(self, **options: Any) -> VirtualPart:
        """The number of results is the same for all calls."""
        assert options == {"num_returns": 2}
        return self

    def remote(self, *arguments: Any) -> Any:
        """Begin a call."""
        return self._process.watched_call.options(num_returns=2).remote(self._worker, *arguments)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", type=int, default=(2, 16, 64, 256, 1024))
    parser.add_argument("--envs-per-actor", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="host epochs of each episode")
    parser.add_argument("--step-sec", type=float, default=1.0, help="how long an actor's step sleeps")
    parser.add_argument("--processes", type=int, default=4, help="processes that the sleeping hosts share")
    parser.add_argument("--config", type=Path, help="settings of the run, e.g. configs/run/quick.yaml; none are the defaults")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)

    def measure() -> dict[str, Figure]:
        recording = record(_config(options.config, options.envs_per_actor, options.envs_per_actor), options.steps)
        figures = {}
        for num_envs in options.envs:
            group = min(num_envs, options.envs_per_actor)
            scale = Scale(num_envs, group, options.steps, options.step_sec, min(options.processes, num_envs // group))
            figures[f"envs_{num_envs}"] = measure_scale(scale, recording, options.config)
            print(f"{num_envs} environments: {figures[f'envs_{num_envs}']}", flush=True)
        return figures

    return run_benchmark(measure, options.json)


def record(config: RunConfig, steps: int) -> Recording:
    """Play a real group under a real policy and keep what it says."""
    facts = examine(config)
    build.prepare_process()
    listener: Any = Listener()
    worker = build.make_env_worker(config, facts, listener)
    learner = build.make_learner(config, listener)
    (group,) = training_round(0, config, SeedTree(0))
    batches, events = [worker.start(0, group)], [listener.take()]
    for _ in range(steps):
        batches.append(worker.step(learner.act(batches[-1], ActMode.TRAIN)))
        events.append(listener.take())
    return Recording(tuple(batches), tuple(events))


def measure_scale(scale: Scale, recording: Recording, settings: Path | None) -> Figure:
    """One round of a fresh cluster; the first, shorter one warms it up and does not count."""
    config = _config(settings, scale.num_envs, scale.envs_per_actor)
    with TemporaryDirectory() as folder:
        paths = create_run_dir(Path(folder) / "run")
        os.environ.setdefault("RAY_worker_niceness", "0")  # else everything else on the machine comes before what is measured
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            return _measure(scale, recording, config, paths)
        finally:
            ray.shutdown()


def _measure(scale: Scale, recording: Recording, config: RunConfig, paths: RunDir) -> Figure:
    queue = make_queue(config.telemetry.queue_capacity, NAMESPACE)
    executor = actors.RayExecutor(600.0)
    told = (config.telemetry, dump(config), SharedFolder.mark(paths, uuid4().hex), None, NAMESPACE)
    sink = actors.start_part("sink", build_sink, told, cpus=0.0)
    incarnation = executor.get(executor.call(sink, "ready"))
    sink_process = _parts()
    learner = actors.start_part("learner", _build_learner, (config,), cpus=0.0)
    executor.get(executor.call(learner, "ready"))
    roles = _roles(sink_process, _parts() - sink_process)
    processes, workers = _start_hosts(scale, recording, partial(_make_emitter, config, incarnation, queue, sink, paths.spool))
    groups = training_round(0, config, SeedTree(0))
    depths: list[int] = []

    def look() -> bool:
        if not depths or time.monotonic() - looked_at[0] > 1.0:
            depths.append(queue.qsize())
            looked_at[0] = time.monotonic()
        return False

    looked_at = [0.0]
    Collector(executor, workers, learner, num_steps=1, should_stop=lambda: False).play(groups, ActMode.GREEDY)
    ray.get([process.take_busy_sec.remote() for process in processes])
    before, began = roles.cpu_sec(), time.perf_counter()
    Collector(executor, workers, learner, num_steps=scale.steps, should_stop=look).play(groups, ActMode.GREEDY)
    wall = time.perf_counter() - began
    after, memory = roles.cpu_sec(), roles.unshared_mb()
    busy = [sec for part in ray.get([process.take_busy_sec.remote() for process in processes]) for sec in part]
    is_complete = all(ray.get([process.close.remote() for process in processes]))
    drained = time.perf_counter() - began - wall
    settled = roles.cpu_sec()
    actors.stop_part(sink, 60.0)
    num_steps = scale.num_envs * scale.steps
    return {
        "num_envs": scale.num_envs,
        "num_actors": scale.num_actors,
        "envs_per_actor": scale.envs_per_actor,
        "steps": scale.steps,
        "step_sec": scale.step_sec,
        "wall_sec": wall,
        "env_steps_per_sec": num_steps / wall,
        "busy_frac": sum(busy) / len(busy) / wall,
        "cpu_ms_per_env_step": {role: 1e3 * (after[role] - before[role]) / num_steps for role in before},
        "sink_cpu_ms_per_env_step_drained": 1e3 * (settled["sink"] - before["sink"]) / num_steps,
        "learner_busy_frac": (after["learner"] - before["learner"]) / wall,
        "queue_depth_max": max(depths, default=0),
        "drained_after_sec": drained,
        "telemetry_complete": is_complete,
        "rows_per_env_step": sum(len(events) for events in recording.events[1:]) / (len(recording.events) - 1) / _group_size(recording),
        "head_memory_mb": memory,
        "load_average": os.getloadavg()[0],
    }


def _start_hosts(scale: Scale, recording: Recording, make_emitter: Callable[[str], BufferedEmitter]) -> tuple[list[Any], list[VirtualPart]]:
    processes, workers = [], []
    host_class = ray.remote(StubHosts)
    for p in range(scale.processes):
        mine = range(p, scale.num_actors, scale.processes)
        sources = [f"env-{i}" for i in mine]
        options = {"num_cpus": 0, "max_concurrency": len(mine) + 1}
        process = host_class.options(**options).remote(recording, scale.step_sec, sources, make_emitter)
        processes.append(process)
        workers += [VirtualPart(process, i) for i in range(len(mine))]
    ray.get([process.take_busy_sec.remote() for process in processes])
    return processes, workers


def _config(path: Path | None, num_envs: int, envs_per_actor: int) -> RunConfig:
    settings = {"rollout.num_envs": num_envs, "rollout.envs_per_actor": envs_per_actor}
    settings |= {"telemetry.heartbeat_sec": 0, "telemetry.infrastructure_rounds": 0, "evaluation.seeds_per_context": 0}
    return read_run_config(path, [f"{key}={value}" for key, value in settings.items()])


def _build_learner(config: RunConfig) -> LearnerWorker:
    build.prepare_process()
    listener: Any = Listener()
    return build.make_learner(config, listener)


def _make_emitter(config: RunConfig, incarnation: int, queue: Any, sink: Any, spool: Path, source: str) -> BufferedEmitter:
    return build.make_emitter(config, source, incarnation, QueueTransport(queue, sink), spool)


@dataclass(frozen=True)
class Roles:
    """Which process plays which part."""

    processes: dict[int, str]

    def cpu_sec(self) -> dict[str, float]:
        """CPU seconds so far."""
        return {role: sum(cpu_sec(process) for process, own in self.processes.items() if own == role) for role in ROLES}

    def unshared_mb(self) -> dict[str, float]:
        """Memory that no other process shares, of what runs on the head."""
        return {role: sum(unshared_mb(process) for process, own in self.processes.items() if own == role) for role in HEAD}


def _parts() -> set[int]:
    """The actors of sink and learner: what Ray has started besides its own processes and the queue."""
    others = ("ray::IDLE", "ray::_QueueActor", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
    titles = {process: title(process) for process in descendants(os.getpid())}
    return {process for process, name in titles.items() if name.startswith("ray::") and not name.startswith(others)}


def _roles(sink: set[int], learner: set[int]) -> Roles:
    processes = {os.getpid(): "driver", **dict.fromkeys(sink, "sink"), **dict.fromkeys(learner, "learner")}
    for process in descendants(os.getpid()):
        for role, mark in {"queue": "_QueueActor", "gcs": "gcs_server", "raylet": "/raylet"}.items():
            if mark in title(process):
                processes[process] = role
    return Roles(processes)


def _group_size(recording: Recording) -> int:
    return len(recording.batches[0].reward)


if __name__ == "__main__":
    main()
