"""Environment actors that train nothing: a step sleeps and returns graphs and telemetry of real size.

Many of them live in one process, each with a thread of its own while it sleeps, so that hundreds fit onto a small machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from esper.leyline.rollout import GroupId, StepBatch
from esper.leyline.telemetry import TelemetryEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.nissa.emitter import BufferedEmitter


@dataclass(frozen=True)
class Recording:
    """What a real group of trials said: one batch and its events per step, the first after reset."""

    batches: tuple[StepBatch, ...]
    events: tuple[tuple[TelemetryEvent, ...], ...]


class Listener:
    """Stands where an emitter would and keeps what it is given."""

    def __init__(self) -> None:
        self.source = "recorder"
        self._events: list[TelemetryEvent] = []

    def emit(self, event: TelemetryEvent) -> None:
        """Keep the event."""
        self._events.append(event)

    def flush(self) -> None:
        """Nothing is under way."""

    def take(self) -> tuple[TelemetryEvent, ...]:
        """The events since the last call."""
        events, self._events = tuple(self._events), []
        return events


class StubHosts:
    """The environment workers of one process.

    Args:
        recording: What they all say.
        step_sec: How long a step sleeps.
        sources: Names of the workers.
        make_emitter: Way to telemetry of the worker with this name.
    """

    def __init__(
        self, recording: Recording, step_sec: float, sources: Sequence[str], make_emitter: Callable[[str], BufferedEmitter]
    ) -> None:
        self._recording = recording
        self._step_sec = step_sec
        self._emitters = [make_emitter(source) for source in sources]
        self._keys: list[GroupId | None] = [None] * len(sources)
        self._busy_sec = [0.0] * len(sources)

    def watched_call(self, worker: int, method: str, *arguments: Any) -> tuple[None, Any]:
        """As an environment actor is called."""
        started = time.perf_counter()
        result = getattr(self, f"on_{method}")(worker, *arguments)
        self._busy_sec[worker] += time.perf_counter() - started
        return None, result

    def on_start(self, worker: int, group: int, requests: Sequence[Any]) -> StepBatch:
        """Begin an episode."""
        key = GroupId(group, tuple(range(group * len(requests), (group + 1) * len(requests))), 0, 0)
        self._keys[worker] = key
        return self._say(worker, key)

    def on_step(self, worker: int, _decision: object) -> StepBatch:
        """Sleep as long as training would take, then report."""
        key = self._keys[worker]
        assert key is not None
        time.sleep(self._step_sec)
        key = self._keys[worker] = replace(key, step=key.step + 1)
        return self._say(worker, key)

    def on_outcomes(self, worker: int) -> list[int]:
        """The episode is over."""
        self._emitters[worker].flush()
        return [worker]

    def on_settle(self, worker: int) -> int:
        """Number of the last batch of telemetry, which nobody waits for here."""
        return worker

    def take_busy_sec(self) -> list[float]:
        """Seconds spent in calls since the last time this was asked, by worker."""
        busy, self._busy_sec = self._busy_sec, [0.0] * len(self._busy_sec)
        return busy

    def close(self) -> bool:
        """Ship what telemetry is left; returns whether all of it arrived."""
        return all(emitter.close(timeout_sec=60.0).held_batches == 0 for emitter in self._emitters)

    def _say(self, worker: int, key: GroupId) -> StepBatch:
        place = min(key.step, len(self._recording.batches) - 1)
        for event in self._recording.events[place]:
            self._emitters[worker].emit(event)
        batch = self._recording.batches[place]
        return replace(batch, key=key, done=np.zeros_like(batch.done), valid=np.ones_like(batch.valid))
