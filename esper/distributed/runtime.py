"""A run's parts, alive: in this process, or in Ray actors. Opening joins them; closing drains and ends them in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from esper.distributed import build
from esper.distributed.executor import ClusterError, Executor, LocalExecutor
from esper.distributed.sink_worker import SinkWorker
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.transport import InProcessTransport

if TYPE_CHECKING:
    from pathlib import Path

    from esper.distributed.config import RunConfig
    from esper.distributed.env_worker import EnvWorker
    from esper.distributed.facts import RunFacts
    from esper.distributed.learner_worker import LearnerWorker
    from esper.distributed.run_dir import RunDir
    from esper.nissa.transport import Transport


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the driver works with; it cannot tell where the parts are."""

    executor: Executor
    workers: Sequence[Any]
    learner: Any
    emitter: BufferedEmitter
    """The driver's own way to telemetry."""


@contextmanager
def open_local(config: RunConfig, facts: RunFacts, paths: RunDir, *, keep_rounds: int | None) -> Iterator[Runtime]:
    """All parts in this process.

    Args:
        config: The run's configuration.
        facts: What was measured about it.
        paths: Its folder.
        keep_rounds: On resume, forget telemetry of later rounds, which will be played again; None for a new run.
    """
    build.prepare_process()
    store = build.TelemetryStore(config, paths, keep_rounds=keep_rounds)
    try:
        emitters = [
            build.make_emitter(config, name, store.incarnation, InProcessTransport(store.sink), paths.spool)
            for name in ("driver", "learner", *(f"env-{i}" for i in range(config.rollout.num_actors)))
        ]
        driver, learner, *envs = emitters
        workers = [build.make_env_worker(config, facts, emitter) for emitter in envs]
        yield Runtime(LocalExecutor(), workers, build.make_learner(config, learner), driver)
        for emitter in (*envs, learner, driver):
            emitter.close(timeout_sec=config.cluster.close_timeout_sec)
    finally:
        store.close()


@contextmanager
def open_ray(config: RunConfig, facts: RunFacts, paths: RunDir, *, keep_rounds: int | None) -> Iterator[Runtime]:
    """Environments, learner and sink in actors of a Ray cluster; arguments as for `open_local`.

    Raises:
        ClusterError: If the cluster cannot be reached or has less than the run needs.
    """
    from esper.distributed import actors

    build.prepare_process()
    shares, timeout = config.cluster, config.cluster.close_timeout_sec
    local = actors.local_resources(shares)
    if local is not None:
        require_resources(config, local)  # before seconds are spent on starting a cluster
    with ExitStack() as stack:
        actors.open_session(shares, namespace=f"esper-{hashlib.sha256(str(paths.root).encode()).hexdigest()[:16]}")
        stack.callback(actors.close_session)
        require_resources(config, actors.cluster_resources())
        executor = actors.RayExecutor(shares.call_timeout_sec)
        queue = actors.make_queue(config.telemetry.queue_capacity)
        sink = actors.start_part("esper-sink", _build_sink, (config, paths, keep_rounds, queue), cpus=shares.sink_cpus)
        stack.callback(actors.stop_part, sink, timeout)
        opened = executor.call(sink, "ready")  # awaited by the others while they start
        transport = partial(actors.QueueTransport, queue, sink)
        learner = actors.start_part(
            "esper-learner",
            _build_learner,
            (config, partial(_make_emitter, config, "learner", partial(actors.fetch, opened), transport, paths.spool)),
            cpus=shares.learner_cpus,
            gpus=shares.learner_gpus,
        )
        stack.callback(actors.stop_part, learner, timeout)
        workers = []
        for i in range(config.rollout.num_actors):
            worker = actors.start_part(
                f"esper-env-{i}",
                _build_env,
                (config, facts, partial(_make_emitter, config, f"env-{i}", partial(actors.fetch, opened), transport, paths.spool)),
                cpus=shares.env_cpus,
                gpus=shares.env_gpus,
            )
            stack.callback(actors.stop_part, worker, timeout)
            workers.append(worker)
        for ref in [executor.call(part, "ready") for part in (*workers, learner)]:
            executor.get(ref)
        driver = build.make_emitter(config, "driver", executor.get(opened), transport(), paths.spool)
        yield Runtime(executor, workers, learner, driver)
        driver.close(timeout_sec=timeout)


def require_resources(config: RunConfig, available: dict[str, float]) -> None:
    """Compare what the run asks for with what the cluster has.

    Raises:
        ClusterError: If it asks for more, saying which settings to change.
    """
    shares, num_actors = config.cluster, config.rollout.num_actors
    wanted = {
        "CPU": num_actors * shares.env_cpus + shares.learner_cpus + shares.sink_cpus,
        "GPU": num_actors * shares.env_gpus + shares.learner_gpus,
    }
    for kind, amount in wanted.items():
        found = available.get(kind, 0.0)
        if amount > found + 1e-9:
            raise ClusterError(
                f"the run asks for {amount:g} {kind} ({num_actors} environment actors × {getattr(shares, f'env_{kind.lower()}s'):g}, "
                f"learner and sink), the cluster has {found:g}; lower cluster.env_{kind.lower()}s, or rollout.num_envs, "
                "or raise rollout.envs_per_actor"
            )


def _build_sink(config: RunConfig, paths: RunDir, keep_rounds: int | None, queue: Any) -> SinkWorker:
    from esper.distributed.actors import drain

    return SinkWorker(partial(build.TelemetryStore, config, paths, keep_rounds=keep_rounds), partial(drain, queue))


def _build_learner(config: RunConfig, make_emitter: Callable[[], BufferedEmitter]) -> LearnerWorker:
    return build.make_learner(config, make_emitter())


def _build_env(config: RunConfig, facts: RunFacts, make_emitter: Callable[[], BufferedEmitter]) -> EnvWorker:
    return build.make_env_worker(config, facts, make_emitter())


def _make_emitter(
    config: RunConfig, source: str, incarnation: Callable[[], int], transport: Callable[[], Transport], spool: Path
) -> BufferedEmitter:
    return build.make_emitter(config, source, incarnation(), transport(), spool)
