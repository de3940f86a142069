"""A run's gauges on Ray's own dashboard. Nothing depends on them: what they show is in telemetry as well, and they may fail."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayTaskError
from ray.util.metrics import Gauge

from esper.distributed.actors import LOSSES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ray.util.queue import Queue

    from esper.distributed.actors import RayPart

GAUGES = {
    "esper_rounds": "Rounds played in the run so far.",
    "esper_env_steps_per_sec": "Environment steps a second over the last round, updates included.",
    "esper_env_utilisation": "Share of the last round that environment actors worked, 0 to 1.",
    "esper_parts_lost": "Environment actors, learners, sinks and queues lost since the driver began.",
    "esper_telemetry_queue_depth": "Batches of telemetry that wait for the sink.",
}
"""Name → what it shows. Prometheus has them as `ray_<name>`, with the run's folder as the tag `run`."""
ANSWER_SEC = 2.0
"""Longest wait for what the parts say; a gauge whose part is silent keeps its value."""


class Meters:
    """`GAUGES` of one run, set by its driver after each round.

    Args:
        run: Name of the run, the only tag.
        queue: Telemetry's queue.
        workers: Environment parts.
        clock: Monotonic seconds.
    """

    def __init__(self, run: str, queue: Queue, workers: Sequence[RayPart], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue = queue
        self._workers = tuple(workers)
        self._clock = clock
        self._looked_at = clock()
        self._busy: dict[Any, float] = {}

        self._gauges = {name: Gauge(name, description=text, tag_keys=("run",)) for name, text in GAUGES.items()}
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run})

    def round_finished(self, *, rounds: int, env_steps_per_sec: float, num_faults: int) -> None:
        """Set the gauges; waits a moment for the parts at most."""
        self._gauges["esper_rounds"].set(rounds)
        self._gauges["esper_env_steps_per_sec"].set(env_steps_per_sec)
        self._gauges["esper_parts_lost"].set(num_faults)
        utilisation = self._look()
        if utilisation is not None:
            self._gauges["esper_env_utilisation"].set(utilisation)
        try:
            self._gauges["esper_telemetry_queue_depth"].set(ray.get(self._queue.actor.qsize.remote(), timeout=ANSWER_SEC))
        except (*LOSSES, RayTaskError, GetTimeoutError):
            return

    def _look(self) -> float | None:
        """Share of the time since the last look that workers were busy; None if none of them tells twice."""
        handles = [worker.handle for worker in self._workers]
        refs = [handle.busy_sec.remote() for handle in handles]
        ready = set(ray.wait(refs, num_returns=len(refs), timeout=ANSWER_SEC)[0])
        now = self._clock()
        elapsed, self._looked_at = now - self._looked_at, now
        before, self._busy = self._busy, {}
        for handle, ref in zip(handles, refs, strict=True):
            if ref in ready:
                try:
                    self._busy[handle] = ray.get(ref, timeout=ANSWER_SEC)
                except (*LOSSES, RayTaskError, GetTimeoutError):
                    continue
        return utilisation(before, self._busy, elapsed)


def utilisation(before: dict[Any, float], after: dict[Any, float], elapsed_sec: float) -> float | None:
    """Mean share of `elapsed_sec` that workers worked, from the seconds they had worked before and after.

    A worker that began in between counts from its beginning; None if nobody tells or no time has passed.
    """
    if not after or elapsed_sec <= 0.0:
        return None
    worked = sum(busy - before.get(worker, 0.0) for worker, busy in after.items())
    return min(1.0, worked / (elapsed_sec * len(after)))
