"""The part that owns the telemetry file: drains the queue in a thread of its own and answers what is stored."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.transport import InProcessTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.distributed.telemetry_store import TelemetryStore

POLL_SEC = 0.05
"""Shortest pause after the queue was found empty."""
IDLE_SEC = 1.0
"""Longest pause, if nobody asks for anything meanwhile, and if nothing else is said."""


class SinkWorker:
    """Moves batches from a queue into the store until it is closed.

    It looks into the queue when somebody asks for something: a producer asks for acknowledgements whenever it has put batches
    there. Where nobody does, it looks once in `idle_sec`. After it has stored something it rests, unless somebody is in a hurry: a
    transaction costs much by itself, whatever it stores.

    Args:
        make_store: Opens the store, in the thread that will use it.
        drain: Takes everything that waits in the queue; None says that the queue is away.
        idle_sec: Longest pause between two looks.
        rest_sec: Pause between two transactions that nobody waits for.
    """

    def __init__(
        self,
        make_store: Callable[[], TelemetryStore],
        drain: Callable[[], list[bytes] | None],
        *,
        idle_sec: float = IDLE_SEC,
        rest_sec: float = 0.0,
    ) -> None:
        self._make_store = make_store
        self._drain = drain
        self._idle_sec = idle_sec
        self._rest_sec = rest_sec
        self._notes: tuple[str, ...] = ()
        self._requests: queue.SimpleQueue[tuple[Callable[[TelemetryStore], Any], Future[Any]]] = queue.SimpleQueue()
        self._num_queue_outages = 0
        self._is_queue_away = False
        self._incarnation = 0
        self._transport: InProcessTransport | None = None
        self._failure: Exception | None = None
        self._is_asked = threading.Event()
        self._is_hurried = threading.Event()
        self._is_closing = threading.Event()
        self._is_open = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry-sink", daemon=True)
        self._thread.start()

    def ready(self) -> int:
        """Wait until the store is open; returns the incarnation that this run's producers shall use.

        Raises:
            Exception: Whatever kept it from opening.
        """
        self._is_open.wait()
        self._raise_failure()
        return self._incarnation

    def notes(self) -> tuple[str, ...]:
        """What the user should know of the store, once it is open."""
        self.ready()
        return self._notes

    def acknowledged(self, source: str, incarnation: int) -> int:
        """Highest stored sequence number of a producer, once the store is open; 0 if none."""
        self._is_open.wait()
        self._raise_failure()
        self._is_asked.set()
        return self._transport.acknowledged(source, incarnation) if self._transport else 0

    def hurry(self) -> None:
        """Look into the queue at once."""
        self._is_hurried.set()
        self._is_asked.set()

    def abandon(self, source: str, incarnation: int, after_seq: int) -> int:
        """Take back what a lost producer told after batch `after_seq`; returns how many events that were.

        What waits in the queue is stored before, since some of it may be of finished work.
        """
        return int(self._ask(lambda store: store.abandon(source, incarnation, after_seq)))

    def forget_after(self, num_rounds: int) -> int:
        """Take back what was told of rounds after so many; returns how many events that were."""
        return int(self._ask(lambda store: store.forget_after(num_rounds)))

    def outages(self) -> tuple[int, int]:
        """How often this life of the run opened the store, and how often the queue was found to be away since the last opening."""
        return int(self._ask(lambda store: store.num_openings)), self._num_queue_outages

    def close(self) -> None:
        """Store what still waits, then close the store."""
        self._is_closing.set()
        self.hurry()
        self._thread.join()
        self._raise_failure()

    def _run(self) -> None:
        try:
            store = self._make_store()
            self._incarnation, self._notes = store.incarnation, tuple(store.notes)
            self._transport = InProcessTransport(store.sink)
            self._is_open.set()
            try:
                self._pump(store, self._transport)
            finally:
                store.close()
        except Exception as error:  # noqa: BLE001 - raised again in the caller of ready(), acknowledged() or close()
            self._failure = error
        finally:
            self._is_open.set()

    def _pump(self, store: TelemetryStore, transport: InProcessTransport) -> None:
        held: list[bytes] = []
        while True:
            self._is_asked.clear()
            self._is_hurried.clear()
            is_last = self._is_closing.is_set()
            held = held or self._take()
            is_stored = bool(held) and transport.try_put(held)
            held = [] if is_stored else held
            self._answer(store)
            if is_stored:
                self._is_hurried.wait(0.0 if is_last else self._rest_sec)
                continue
            if is_last:
                return
            time.sleep(POLL_SEC)
            if not held and self._requests.empty():
                self._is_asked.wait(self._idle_sec - POLL_SEC)

    def _take(self) -> list[bytes]:
        batches = self._drain()
        if batches is None and not self._is_queue_away:
            self._num_queue_outages += 1
        self._is_queue_away = batches is None
        return batches or []

    def _ask(self, question: Callable[[TelemetryStore], Any]) -> Any:
        """Let the thread that owns the store answer a question about it."""
        answer: Future[Any] = Future()
        self._requests.put((question, answer))
        self.hurry()
        while True:
            self._raise_failure()
            try:
                return answer.result(timeout=10 * POLL_SEC)
            except TimeoutError:
                continue

    def _answer(self, store: TelemetryStore) -> None:
        while not self._requests.empty():
            question, answer = self._requests.get()
            try:
                answer.set_result(question(store))
            except SinkUnavailableError:  # it waits, as batches do, until there is room
                self._requests.put((question, answer))
                return

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
