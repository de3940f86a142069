"""The bounded queue between those who tell and the process that stores: both ends, of which neither waits long for it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError
from ray.util.queue import Empty, Full, Queue

from esper.distributed.actors import LOSSES

if TYPE_CHECKING:
    from collections.abc import Sequence

PUT_SEC = 1.0
"""Longest wait for the queue to take batches. One that has not answered by then is not asked again before it has."""
TAKE_SEC = 5.0
"""Longest wait for the queue to hand batches out."""


def make_queue(capacity: int, namespace: str | None = None) -> Queue:
    """A bounded queue of batches; its actor takes no CPU share, and begins empty again when it is lost.

    With a `namespace` it is the one queue of that namespace, made by whoever asks first.
    """
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1}
    if namespace is not None:
        options |= {"name": "esper-queue", "namespace": namespace, "get_if_exists": True}
    return Queue(maxsize=capacity, actor_options=options)


class QueueTransport:
    """Producer's end of the telemetry queue; see `esper.nissa.transport.Transport`.

    Acknowledgements are asked for in the background: a call returns what is known by then. Of a queue that has stopped, a
    producer waits for one answer, once; should those batches arrive in the end, they are duplicates.

    Args:
        queue: Bounded queue of batches.
        sink: Actor that drains it.
    """

    def __init__(self, queue: Queue, sink: Any) -> None:
        self._queue = queue
        self._sink = sink
        self._known: dict[int, int] = {}
        self._question: tuple[int, ray.ObjectRef] | None = None
        self._putting: ray.ObjectRef | None = None

    def try_put(self, batches: Sequence[bytes]) -> bool:
        """Put all batches or, if they do not fit or the queue is away, none."""
        if self._putting is not None and not _is_done(self._putting):
            return False
        self._putting = self._queue.actor.put_nowait_batch.remote(list(batches))
        if not _is_done(self._putting, PUT_SEC):
            return False
        putting, self._putting = self._putting, None
        try:
            ray.get(putting, timeout=PUT_SEC)
        except (Full, GetTimeoutError, *LOSSES):
            return False
        return True

    def acknowledged(self, source: str, incarnation: int) -> int:
        """Highest sequence number of this producer that is known to be stored; 0 before the first."""
        if self._question is not None and _is_done(self._question[1]):
            (asked, answer), self._question = self._question, None
            with suppress(GetTimeoutError, *LOSSES):
                self._known[asked] = int(ray.get(answer, timeout=PUT_SEC))  # less than before if the store was damaged
        if self._question is None:
            self._question = incarnation, self._sink.call.remote("acknowledged", source, incarnation)
        return self._known.get(incarnation, 0)

    def hurry(self) -> None:
        """Ask the sink to look into the queue at once; nobody waits for its answer."""
        with suppress(*LOSSES):
            self._sink.call.remote("hurry")


class Drain:
    """The sink's end of the queue; a call takes everything that waits there.

    Args:
        queue: The queue.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._asked: ray.ObjectRef | None = None

    def __call__(self) -> list[bytes] | None:
        """Everything that waits now; empty if nothing does or the queue does not answer, None if its process is gone.

        What a queue hands out too late is lost, and the producers send it again.
        """
        try:
            if self._asked is None:
                self._asked = self._queue.actor.qsize.remote()
            if not _is_done(self._asked, TAKE_SEC):
                return []
            asked, self._asked = self._asked, None
            waiting = ray.get(asked, timeout=TAKE_SEC)
            return list(ray.get(self._queue.actor.get_nowait_batch.remote(waiting), timeout=TAKE_SEC)) if waiting else []
        except (Empty, GetTimeoutError):
            return []
        except LOSSES:
            return None


def _is_done(ref: ray.ObjectRef, timeout_sec: float = 0.0) -> bool:
    return bool(ray.wait([ref], timeout=timeout_sec)[0])
