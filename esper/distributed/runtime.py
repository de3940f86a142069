"""A run's parts, alive: in this process, or in Ray actors. Opening joins them; closing drains and ends them in order."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from esper.distributed import build
from esper.distributed.closing import close_at_end
from esper.distributed.cluster_check import demands, require_placement, starts_cluster, this_machine
from esper.distributed.crew import Crew
from esper.distributed.executor import Executor, LocalExecutor, PartLostError
from esper.distributed.shared_disk import SharedFolder
from esper.leyline.load import dump
from esper.nissa.emitter import BufferedEmitter, EmitterStats
from esper.nissa.transport import InProcessTransport

if TYPE_CHECKING:
    from pathlib import Path

    from esper.distributed.config import RunConfig
    from esper.distributed.env_worker import EnvWorker
    from esper.distributed.facts import RunFacts
    from esper.distributed.learner_worker import LearnerWorker
    from esper.distributed.run_dir import RunDir
    from esper.nissa.transport import Transport


SINK, LEARNER, FIRST_ENV = 0, 1, 2
"""Bundles of the parts, where a run has a placement group."""


class Dashboard(Protocol):
    """Shows a run while it lives."""

    def round_finished(self, *, rounds: int, env_steps_per_sec: float, num_faults: int) -> None:
        """A round was played and learned from; so many parts were lost so far."""
        ...


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the driver works with; it cannot tell where the parts are."""

    executor: Executor
    workers: Sequence[Any]
    learner: Any
    emitter: BufferedEmitter
    """The driver's own way to telemetry."""
    crew: Crew | None = None
    """Replaces parts that are lost; None where all parts are in this process and are lost with it."""
    dashboard: Dashboard | None = None
    """Gauges of Ray's dashboard; None where there is none."""


@contextmanager
def open_local(config: RunConfig, facts: RunFacts, paths: RunDir, *, keep_rounds: int | None) -> Iterator[Runtime]:
    """All parts in this process.

    Args:
        config: The run's configuration.
        facts: What was measured about it.
        paths: Its folder.
        keep_rounds: On resume, forget telemetry of later rounds, which will be played again; None for a new run.
    """
    from esper.distributed.telemetry_store import TelemetryStore  # with DuckDB, which only the process that stores needs

    build.prepare_process()
    with ExitStack() as stack:
        store = TelemetryStore(config.telemetry, dump(config), paths, keep_rounds=keep_rounds, life=uuid4().hex)
        close_at_end(stack, store.close)
        _say(store.notes)

        def make_emitter(name: str) -> BufferedEmitter:
            emitter = build.make_emitter(config, name, store.incarnation, InProcessTransport(store.sink), paths.spool)
            close_at_end(stack, emitter.close, config.cluster.close_timeout_sec)
            return emitter

        driver, learner = make_emitter("driver"), make_emitter("learner")
        workers = [build.make_env_worker(config, facts, make_emitter(f"env-{i}")) for i in range(config.rollout.num_actors)]
        part = build.make_learner(config, learner)
        close_at_end(stack, part.close)
        for worker in reversed(workers):
            close_at_end(stack, worker.close)
        yield Runtime(LocalExecutor(), workers, part, driver)


@contextmanager
def open_ray(config: RunConfig, facts: RunFacts, paths: RunDir, *, keep_rounds: int | None) -> Iterator[Runtime]:
    """Environments, learner and sink in actors of a Ray cluster; arguments as for `open_local`.

    Raises:
        ClusterError: If the cluster cannot be reached, has less than the run needs, or does not see the run's folder.
    """
    from esper.distributed import actors
    from esper.distributed.meters import Meters
    from esper.distributed.telemetry_queue import QueueTransport, make_queue

    build.prepare_process()
    shares, timeout = config.cluster, config.cluster.close_timeout_sec
    life = uuid4().hex
    namespace = f"esper-{hashlib.sha256(str(paths.root).encode()).hexdigest()[:16]}-{life[:16]}"  # the life before may still be dying
    place = partial(actors.Place, namespace)
    with ExitStack() as stack:
        if not actors.is_in_session():
            _join_cluster(config, namespace, stack)
        executor = actors.RayExecutor(shares.call_timeout_sec)
        folder = SharedFolder.mark(paths, life)
        stack.callback(folder.unmark)
        queue = make_queue(config.telemetry.queue_capacity, namespace)
        sink = _start_sink(config, folder, keep_rounds, namespace)
        close_at_end(stack, actors.stop_part, sink, timeout)
        opened = executor.call(sink, "ready")  # awaited by the others while they start
        first_life = partial(actors.fetch, opened.value)
        transport = partial(QueueTransport, queue, sink)

        def launch_learner(name: str, incarnation: Callable[[], int]) -> Any:
            emitter = partial(_make_emitter, config, "learner", incarnation, transport, paths.spool)
            arguments = (config, partial(folder.require, "learner"), emitter)
            actor, cpus, gpus = f"esper-{name}", shares.learner_cpus, shares.learner_gpus
            where = place(LEARNER, labels=shares.learner_labels)
            return actors.start_part(actor, _build_learner, arguments, cpus=cpus, gpus=gpus, place=where)

        def launch_env(i: int, name: str, incarnation: Callable[[], int]) -> Any:
            emitter = partial(_make_emitter, config, f"env-{i}", incarnation, transport, paths.spool)
            arguments = (config, facts, partial(folder.require, f"part env-{i}"), emitter)
            actor, cpus, gpus = f"esper-{name}", shares.env_cpus, shares.env_gpus
            where = place(FIRST_ENV + i, labels=shares.env_labels, is_spread=shares.env_placement == "SPREAD")
            return actors.start_part(actor, _build_env, arguments, cpus=cpus, gpus=gpus, place=where)

        learner = actors.RayPart("learner", launch_learner, first_life)
        close_at_end(stack, actors.stop_part, learner, timeout)
        workers = [actors.RayPart(f"env-{i}", partial(launch_env, i), first_life) for i in range(config.rollout.num_actors)]
        for worker in workers:
            close_at_end(stack, actors.stop_part, worker, timeout)
        incarnation = executor.get(opened)  # first, so that what keeps the store from opening is not hidden by those who wait for it
        _say(executor.get(executor.call(sink, "notes")))
        for ref in [executor.call(part, "ready") for part in (*workers, learner)]:
            executor.get(ref)
        driver = build.make_emitter(config, "driver", incarnation, transport(), paths.spool)
        services = actors.RayService("sink", sink), actors.RayService("queue", queue.actor, ping="qsize")
        crew = Crew(executor, workers, learner, services, incarnation=incarnation, cluster=shares)
        close_at_end(stack, driver.close, timeout)
        yield Runtime(executor, workers, learner, driver, crew, Meters(paths.root.name, queue, workers))


def telemetry_stats(runtime: Runtime) -> EmitterStats:
    """What became of the events of all parts that work, after each has waited for the sink; of the driver's, only what is dropped."""
    crew, executor = runtime.crew, runtime.executor
    workers = runtime.workers if crew is None else [runtime.workers[i] for i in crew.working()]
    every = []
    for ref in [executor.call(part, "telemetry_stats") for part in (*workers, runtime.learner)]:
        with suppress(PartLostError):  # one that is lost now has told what it had to tell
            every.append(executor.get(ref))
    return EmitterStats(
        emitted_events=sum(one.emitted_events for one in every),
        dropped_events=sum(one.dropped_events for one in every) + runtime.emitter.stats().dropped_events,
        held_batches=sum(one.held_batches for one in every),
        disk_batches=sum(one.disk_batches for one in every),
        lost_batches=sum(one.lost_batches for one in every),
    )


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        print(note, file=sys.stderr)


def _join_cluster(config: RunConfig, namespace: str, stack: ExitStack) -> None:
    from esper.distributed import actors

    wanted = demands(config)
    if starts_cluster(config.cluster.address, os.environ):
        require_placement("the run", wanted, [this_machine()])  # before seconds are spent on starting a cluster
    actors.open_session(config.cluster, namespace=namespace)
    stack.callback(actors.close_session)
    require_placement("the run", wanted, actors.cluster_nodes())


def _start_sink(config: RunConfig, folder: SharedFolder, keep_rounds: int | None, namespace: str) -> Any:
    from esper.distributed import actors
    from esper.distributed.sink_process import build_sink

    shares = config.cluster
    told = (config.telemetry, dump(config), folder, keep_rounds, namespace)
    place = actors.Place(namespace, SINK, is_restarted=True, labels=shares.sink_labels)
    return actors.start_part("esper-sink", build_sink, told, cpus=shares.sink_cpus, place=place)


def _build_learner(config: RunConfig, require_folder: Callable[[], None], make_emitter: Callable[[], BufferedEmitter]) -> LearnerWorker:
    build.prepare_process(config.cluster.learner_cpus)
    return build.make_learner(config, make_emitter(), require_folder=require_folder)


def _build_env(
    config: RunConfig, facts: RunFacts, require_folder: Callable[[], None], make_emitter: Callable[[], BufferedEmitter]
) -> EnvWorker:
    build.prepare_process(config.cluster.env_cpus)
    return build.make_env_worker(config, facts, make_emitter(), require_folder=require_folder)


def _make_emitter(
    config: RunConfig, source: str, incarnation: Callable[[], int], transport: Callable[[], Transport], spool: Path
) -> BufferedEmitter:
    return build.make_emitter(config, source, incarnation(), transport(), spool)
