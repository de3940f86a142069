"""The one place that touches Ray: sessions, actors, and calls to them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    RpcError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from esper.distributed.cluster_check import Node, is_inside_job, knock, living_nodes, starts_cluster, this_machine
from esper.distributed.crew import first_line
from esper.distributed.executor import ClusterError, DataLostError, PartHungError, PartLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.distributed.config import ClusterConfig
    from esper.distributed.executor import Ref

LOSSES = (RayActorError, NodeDiedError, OutOfMemoryError, WorkerCrashedError, RpcError)
"""What Ray raises when the process that should have answered is gone; one that was killed to free memory is told by an error of its own."""
PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Environment of a process with several threads: they sleep while they wait, where spinning takes the cores of other actors."""


PULSE = "pulse"
"""Calls of this group do not wait for the others."""


class _Part:
    """Builds a part in its own process and forwards calls to it."""

    def __init__(self, build: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._part = build(*arguments)
        self._busy_sec = 0.0

    def __repr__(self) -> str:
        """Name of the actor, by which logs and process lists show it."""
        return str(ray.get_runtime_context().get_actor_name())

    def call(self, method: str, *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return getattr(self._part, method)(*arguments)
        finally:
            self._busy_sec += time.perf_counter() - began

    def busy_sec(self) -> float:
        """Seconds spent in calls so far."""
        return self._busy_sec

    @ray.method(concurrency_group=PULSE)  # type: ignore[untyped-decorator]
    def ping(self) -> None:
        """A sign of life, given in a thread of its own."""

    def watched_call(self, method: str, *arguments: Any) -> tuple[None, Any]:
        """Two results, so that a caller can learn how the call ended without fetching what it made."""
        return None, self.call(method, *arguments)


class RayPart:
    """A place in the run, and the actor that fills it at the moment.

    Args:
        name: Of the place, and of the first actor in it.
        launch: Starts an actor, given its name and a way to its incarnation.
        incarnation: Way to the first actor's incarnation, which may not be known yet.
    """

    def __init__(self, name: str, launch: Callable[[str, Callable[[], int]], Any], incarnation: Callable[[], int]) -> None:
        self.name = name
        self._launch = launch
        self.handle = launch(name, incarnation)

    def replace(self, incarnation: int) -> None:
        """End the actor that is here, if it lives, and start another one."""
        self.kill()
        self.handle = self._launch(f"{self.name}-{incarnation}", partial(int, incarnation))

    def kill(self) -> None:
        """End the actor that is here, if it lives."""
        ray.kill(self.handle)


class RayService:
    """An actor that Ray itself starts again when it is lost.

    Args:
        name: What it is called.
        handle: The actor.
        ping: Its method that answers at once.
    """

    def __init__(self, name: str, handle: Any, ping: str = "ping") -> None:
        self.name = name
        self.handle = handle
        self.ping_method = ping

    def restart(self) -> None:
        """End the process, for Ray to start another one."""
        ray.kill(self.handle, no_restart=False)


class _Answer:
    """A call under way: how it ended, and what it made."""

    __slots__ = ("end", "value")

    def __init__(self, end: ray.ObjectRef, value: ray.ObjectRef) -> None:
        self.end = end
        self.value = value


def fetch(value: ray.ObjectRef) -> Any:
    """Wait in an actor for what another one answers."""
    return ray.get(value)


class RayExecutor:
    """Calls parts that live in actors; results stay in the object store until they are asked for.

    Args:
        timeout_sec: Longest wait for any result.
    """

    def __init__(self, timeout_sec: float) -> None:
        self._timeout_sec = timeout_sec

    def call(self, part: Any, method: str, *args: Any) -> Ref:
        """Begin a call in the part's actor."""
        arguments = [arg.value if isinstance(arg, _Answer) else arg for arg in args]
        return _Answer(*_handle(part).watched_call.options(num_returns=2).remote(method, *arguments))

    def ping(self, part: Any) -> Ref:
        """Ask a part for a sign of life."""
        method = part.ping_method if isinstance(part, RayService) else "ping"
        answer = getattr(_handle(part), method).remote()
        return _Answer(answer, answer)

    def wait(self, refs: Sequence[Ref], timeout_sec: float | None = None) -> tuple[list[Ref], list[Ref]]:
        """Block until a call has ended.

        Raises:
            PartLostError: If no `timeout_sec` was given and none has ended within the longest that a call may take.
        """
        ends = {ref.end: ref for ref in refs}
        longest = self._timeout_sec if timeout_sec is None else timeout_sec
        ready, pending = ray.wait(list(ends), num_returns=1, timeout=longest, fetch_local=False)
        if not ready and timeout_sec is None:
            raise PartHungError(f"none of {len(refs)} calls finished within {longest:g} s (cluster.call_timeout_sec)")
        return [ends[end] for end in ready], [ends[end] for end in pending]

    def is_done(self, ref: Ref) -> bool:
        """Whether the call has ended."""
        return bool(ray.wait([ref.end], timeout=0, fetch_local=False)[0])

    def check(self, ref: Ref) -> None:
        """Wait for a call to end, and raise what it raised.

        Raises:
            PartLostError: If it does not end in time, or the part that was called is gone.
            DataLostError: If an argument vanished with the node that held it.
        """
        self._fetch(ref.end)

    def get(self, ref: Ref) -> Any:
        """Fetch a result, or raise what the call raised; errors as for `check`."""
        return self._fetch(ref.value)

    def _fetch(self, ref: ray.ObjectRef) -> Any:
        try:
            return ray.get(ref, timeout=self._timeout_sec)
        except GetTimeoutError as error:
            raise PartHungError(f"a call did not finish within {self._timeout_sec:g} s (cluster.call_timeout_sec)") from error
        except RayTaskError as error:
            _raise_cause(error)
        except LOSSES as error:
            raise PartLostError(f"a part of the run has died: {first_line(str(error))}") from error
        except ObjectLostError as error:
            raise DataLostError(f"a result is lost: {first_line(str(error))}") from error


def _handle(part: Any) -> Any:
    return part.handle if isinstance(part, RayPart | RayService) else part


def _raise_cause(error: RayTaskError) -> NoReturn:
    cause = error.cause
    if isinstance(cause, ObjectLostError):
        raise DataLostError(f"an argument is lost: {first_line(str(cause))}") from error
    if isinstance(cause, LOSSES):
        raise PartLostError(f"a part of the run has died: {first_line(str(cause))}") from error
    raise cause from error


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part is."""

    namespace: str
    """Its name is unique in this."""
    bundle: int
    """Its own within the placement group of a trial; left to Ray, small parts may take the bundle that a large one needs."""
    is_restarted: bool = False
    """Whether Ray itself fills it again when it is lost: for parts whose state lies on disk."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that its node must have; a trial's placement group has seen to that already."""
    is_spread: bool = False
    """Whether to look for a node with few others."""


def start_part(
    name: str,
    build: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    cpus: float,
    gpus: float = 0.0,
    place: Place | None = None,
) -> Any:
    """Start an actor that builds its part with `build(*arguments)`, anywhere in the session's namespace if no `place` is given.

    Where the place says so, Ray starts a lost part again; whoever holds the others does it by `RayPart.replace`. Ray never
    repeats a call.
    """
    options: dict[str, Any] = {"name": name, "num_cpus": cpus, "num_gpus": gpus, "max_task_retries": 0}
    options["max_restarts"] = -1 if place is not None and place.is_restarted else 0
    if place is not None:
        options["namespace"] = place.namespace
        group = ray.util.get_current_placement_group()
        if group is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, place.bundle)
        else:
            options |= {"label_selector": dict(place.labels)} if place.labels else {}
            options |= {"scheduling_strategy": "SPREAD"} if place.is_spread else {}
    if cpus >= 2:
        options["runtime_env"] = {"env_vars": PATIENT_THREADS}
    return ray.remote(concurrency_groups={PULSE: 1})(_Part).options(**options).remote(build, arguments)


def stop_part(part: Any, timeout_sec: float) -> None:
    """Close a part, let its actor exit, and kill it if it does not.

    Raises:
        Exception: What kept it from closing well; its process has ended nevertheless.
    """
    handle = _handle(part)
    try:
        ray.get(handle.call.remote("close"), timeout=timeout_sec)
        handle.__ray_terminate__.remote()
    except (*LOSSES, GetTimeoutError):
        ray.kill(handle)
    except RayTaskError as error:
        ray.kill(handle)
        raise error.cause from error


def is_in_session() -> bool:
    """Whether this process has joined a cluster already, as a trial of a sweep has; its resources are then the trial's."""
    return bool(ray.is_initialized())


def open_session(config: ClusterConfig, namespace: str) -> None:
    """Join the job's cluster or the configured one, or start one on this machine.

    Raises:
        ClusterError: If the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # calls that a lost part left behind
    arguments: dict[str, Any] = {"namespace": namespace, "log_to_driver": False, "logging_level": "ERROR"}
    if starts_cluster(config.address, os.environ):
        arguments |= {"address": "local", "include_dashboard": False, "num_cpus": int(this_machine().resources["CPU"])}
    elif not is_inside_job(os.environ):
        knock(config.address or "auto")
        arguments["address"] = config.address
    try:
        ray.init(**arguments)
    except ConnectionError as error:
        raise ClusterError(f"cluster.address={config.address!r} cannot be reached: {error}") from error


def close_session() -> None:
    """Leave the cluster; one that this process started ends."""
    ray.shutdown()


def cluster_nodes() -> list[Node]:
    """The cluster's living nodes."""
    return living_nodes(ray.nodes())
