"""The one place that touches Ray: sessions, actors, and calls to them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError
from ray.util.queue import Empty, Full, Queue

from esper.distributed.executor import ClusterError, RunFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.distributed.config import ClusterConfig
    from esper.distributed.executor import Ref

PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Environment of a process with several threads: they sleep while they wait, where spinning takes the cores of other actors."""


class _Part:
    """Builds a part in its own process and forwards calls to it."""

    def __init__(self, build: Callable[..., Any], arguments: tuple[Any, ...], cpus: float) -> None:
        from esper.distributed.build import prepare_process

        prepare_process(cpus)
        self._part = build(*arguments)

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._part, method)(*arguments)


def fetch(ref: Ref) -> Any:
    """Wait in an actor for what another one answers."""
    return ray.get(ref)


class RayExecutor:
    """Calls parts that live in actors; results stay in the object store until they are asked for.

    Args:
        timeout_sec: Longest wait for any result.
    """

    def __init__(self, timeout_sec: float) -> None:
        self._timeout_sec = timeout_sec

    def call(self, part: Any, method: str, *args: Any) -> Ref:
        """Begin a call in the part's actor."""
        return part.call.remote(method, *args)

    def wait(self, refs: Sequence[Ref]) -> tuple[list[Ref], list[Ref]]:
        """Block until a result exists.

        Raises:
            RunFailedError: If none does in time.
        """
        ready, pending = ray.wait(list(refs), num_returns=1, timeout=self._timeout_sec, fetch_local=False)
        if not ready:
            raise RunFailedError(f"none of {len(refs)} calls finished within {self._timeout_sec:g} s (cluster.call_timeout_sec)")
        return ready, pending

    def get(self, ref: Ref) -> Any:
        """Fetch a result, or raise what the call raised.

        Raises:
            RunFailedError: If the result does not exist in time, or the part that should make it is gone.
        """
        try:
            return ray.get(ref, timeout=self._timeout_sec)
        except ray.exceptions.GetTimeoutError as error:
            raise RunFailedError(f"a call did not finish within {self._timeout_sec:g} s (cluster.call_timeout_sec)") from error
        except RayActorError as error:
            raise RunFailedError(f"a part of the run has died: {str(error).splitlines()[0]}") from error
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error


def start_part(name: str, build: Callable[..., Any], arguments: tuple[Any, ...], *, cpus: float, gpus: float = 0.0) -> Any:
    """Start an actor that builds its part with `build(*arguments)`.

    Environment actors are not restarted here: a part whose state is lost ends the run, which resumes from its checkpoint.
    """
    options: dict[str, Any] = {"name": name, "num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
    if cpus >= 2:
        options["runtime_env"] = {"env_vars": PATIENT_THREADS}
    return ray.remote(_Part).options(**options).remote(build, arguments, cpus)


def stop_part(part: Any, timeout_sec: float) -> None:
    """Close a part, let its actor exit, and kill it if it does not."""
    try:
        ray.get(part.call.remote("close"), timeout=timeout_sec)
        part.__ray_terminate__.remote()
    except (RayActorError, ray.exceptions.GetTimeoutError):
        ray.kill(part)


def local_resources(config: ClusterConfig) -> dict[str, float] | None:
    """What a cluster that `open_session` would start on this machine has; None if it would join another one."""
    if config.address is not None or _is_inside_job():
        return None
    import torch

    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def _is_inside_job() -> bool:
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def open_session(config: ClusterConfig, namespace: str) -> None:
    """Join the job's cluster or the configured one, or start one on this machine.

    Raises:
        ClusterError: If the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    arguments: dict[str, Any] = {"namespace": namespace, "log_to_driver": False, "logging_level": "ERROR"}
    local = local_resources(config)
    if local is not None:
        arguments |= {"address": "local", "include_dashboard": False, "num_cpus": int(local["CPU"])}
    elif not _is_inside_job():
        arguments["address"] = config.address
    try:
        ray.init(**arguments)
    except ConnectionError as error:
        raise ClusterError(f"cluster.address={config.address!r} cannot be reached: {error}") from error


def close_session() -> None:
    """Leave the cluster; one that this process started ends."""
    ray.shutdown()


def cluster_resources() -> dict[str, float]:
    """What the cluster has in all."""
    return dict(ray.cluster_resources())


class QueueTransport:
    """Producer's end of the telemetry queue; see `esper.nissa.transport.Transport`.

    Acknowledgements are asked for in the background: a call returns what is known by then.

    Args:
        queue: Bounded queue of batches.
        sink: Actor that drains it.
    """

    def __init__(self, queue: Queue, sink: Any) -> None:
        self._queue = queue
        self._sink = sink
        self._known = 0
        self._question: Ref | None = None

    def try_put(self, batches: Sequence[bytes]) -> bool:
        """Put all batches or, if they do not fit or the queue is away, none."""
        try:
            self._queue.put_nowait_batch(list(batches))
        except (Full, RayActorError):
            return False
        return True

    def acknowledged(self, source: str, incarnation: int) -> int:
        """Highest sequence number of this producer that is known to be stored; 0 before the first."""
        if self._question is not None and ray.wait([self._question], timeout=0)[0]:
            try:
                self._known = max(self._known, int(ray.get(self._question)))
            except RayActorError:
                return self._known
            self._question = None
        if self._question is None:
            self._question = self._sink.call.remote("acknowledged", source, incarnation)
        return self._known


def make_queue(capacity: int) -> Queue:
    """A bounded queue of batches; its actor takes no CPU share."""
    return Queue(maxsize=capacity, actor_options={"num_cpus": 0})


def drain(queue: Queue) -> list[bytes]:
    """Take everything that waits now; empty if nothing does."""
    waiting = queue.qsize()
    try:
        return list(queue.get_nowait_batch(waiting)) if waiting else []
    except Empty:
        return []
