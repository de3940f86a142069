"""The part that owns the telemetry file: drains the queue in a thread of its own and answers what is stored."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from esper.nissa.transport import InProcessTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.distributed.build import TelemetryStore

POLL_SEC = 0.1
"""Pause after the queue was found empty."""


class SinkWorker:
    """Moves batches from a queue into the store until it is closed.

    Args:
        make_store: Opens the store, in the thread that will use it.
        drain: Takes everything that waits in the queue.
    """

    def __init__(self, make_store: Callable[[], TelemetryStore], drain: Callable[[], list[bytes]]) -> None:
        self._make_store = make_store
        self._drain = drain
        self._incarnation = 0
        self._transport: InProcessTransport | None = None
        self._failure: Exception | None = None
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

    def acknowledged(self, source: str, incarnation: int) -> int:
        """Highest stored sequence number of a producer; 0 if none."""
        self._raise_failure()
        return self._transport.acknowledged(source, incarnation) if self._transport else 0

    def close(self) -> None:
        """Store what still waits, then close the store."""
        self._is_closing.set()
        self._thread.join()
        self._raise_failure()

    def _run(self) -> None:
        try:
            store = self._make_store()
            self._incarnation = store.incarnation
            self._transport = InProcessTransport(store.sink)
            self._is_open.set()
            try:
                self._pump(self._transport)
            finally:
                store.close()
        except Exception as error:  # noqa: BLE001 - raised again in the caller of ready(), acknowledged() or close()
            self._failure = error
        finally:
            self._is_open.set()

    def _pump(self, transport: InProcessTransport) -> None:
        held: list[bytes] = []
        while True:
            is_last = self._is_closing.is_set()
            held = held or self._drain()
            if held and transport.try_put(held):
                held = []
            elif is_last:
                return
            else:
                time.sleep(POLL_SEC)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
