"""Copies of the telemetry file for readers of a living run: on a schedule, and a last one when the run ends."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from esper.nissa.sinks.base import SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pyarrow as pa

    from esper.nissa.sinks.duckdb import DuckDBSink

logger = logging.getLogger(__name__)

MAX_SHARE = 0.02
"""Share of the time that copying may take; a large file is copied less often."""


class SnapshotPublisher:
    """Watches what is stored, and publishes the file anew when the last copy is old enough.

    Args:
        sink: The file's owner.
        path: Where readers look.
        every_sec: Shortest time between two copies.
        clock: Monotonic seconds.
    """

    def __init__(self, sink: DuckDBSink, path: Path, *, every_sec: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink = sink
        self._path = path
        self._every_sec = every_sec
        self._clock = clock
        self._due = clock() + every_sec
        self._is_behind = not path.exists()

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Note that there is news, and publish it if it is time to."""
        self._is_behind = self._is_behind or bool(batches)
        if self._is_behind and self._clock() >= self._due:
            self._publish()

    def close(self) -> None:
        """Publish what is not published yet."""
        if self._is_behind:
            self._publish()

    def _publish(self) -> None:
        begun = self._clock()
        try:
            self._sink.publish_snapshot(self._path)
            self._is_behind = False
        except SinkUnavailableError as error:
            logger.warning("no snapshot of telemetry: %s", error)
        now = self._clock()
        self._due = now + max(self._every_sec, (now - begun) / MAX_SHARE)
