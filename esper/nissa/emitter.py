"""The producer's end of telemetry: gathers events, ships them as record batches, holds them until they are stored."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyarrow import ArrowException

from esper.leyline.telemetry.schema import legacy_twin, record_batch, with_ids
from esper.nissa.spool import Spool
from esper.nissa.wire import BatchId, encode, stamp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa

    from esper.leyline.telemetry.event import TelemetryEvent, TelemetryEventType
    from esper.nissa.config import TelemetryConfig
    from esper.nissa.transport import Transport

logger = logging.getLogger(__name__)

SEND_BATCHES = 16
"""Batches handed to the transport in one call."""
SETTLE_RESEND_SEC = 1.0
"""Silence of the sink after which a producer that waits for it sends again."""
UNENCODABLE = (ArrowException, AttributeError, OverflowError, TypeError, ValueError)
"""What encoding an event raises if a field holds something else than its type says, or text that UTF-8 cannot write."""


@dataclass(frozen=True, slots=True)
class EmitterStats:
    """What became of an emitter's events so far."""

    emitted_events: int
    """Events accepted, those of muted types left out."""
    dropped_events: int
    """Events given up because memory and disk spool were full, or because they could not be encoded."""
    held_batches: int
    """Batches not yet acknowledged."""
    disk_batches: int
    """Of these, batches held in files."""
    lost_batches: int = 0
    """Of the held ones, batches that found no room on disk when it was time to put them there: unless the sink takes them, they end with
    this process."""


class BufferedEmitter:
    """An `Emitter` whose `emit` takes (amortised) constant time and never waits for the sink.

        emitter = BufferedEmitter("env-3", incarnation=0, transport=transport, config=config)
        emitter.emit(event)
        emitter.close(timeout_sec=5.0)

    Not thread-safe: every producing thread has its own source and emitter.

    Args:
        source: Name of the producer, unique within a run.
        incarnation: Life of the producer; must be new for every start, or its batches pass for replays.
        transport: Way to the sink.
        config: Telemetry settings.
        clock: Monotonic seconds.
        spool_folder: Where batches go that memory cannot hold; files left there by earlier lives of the same source are
            sent first. None keeps to memory.
    """

    def __init__(
        self,
        source: str,
        incarnation: int,
        *,
        transport: Transport,
        config: TelemetryConfig,
        clock: Callable[[], float] = time.monotonic,
        spool_folder: Path | None = None,
    ) -> None:
        self._source = source
        self._incarnation = incarnation
        self._transport = transport
        self._config = config
        self._clock = clock
        self._spool = Spool(
            source,
            memory_batches=config.spool_batches,
            folder=spool_folder if config.spool_disk_mb > 0 else None,
            disk_bytes=int(config.spool_disk_mb * 1e6),
        )
        self._stored = {incarnation: transport.acknowledged(source, incarnation)}
        self._seq = max(self._stored[incarnation], self._spool.last_seq(incarnation))
        self._buffer: dict[TelemetryEventType, list[TelemetryEvent]] = {}
        self._num_buffered = 0
        self._num_emitted = 0
        self._num_dropped = 0
        self._num_without_room = 0
        self._last_flush_sec = self._last_progress_sec = clock()
        self._is_closed = False

    @property
    def source(self) -> str:
        """Name of the producer."""
        return self._source

    def emit(self, event: TelemetryEvent) -> None:
        """Hand over one event.

        Raises:
            ValueError: If the emitter is closed.
        """
        if self._is_closed:
            raise ValueError(f"emitter {self._source!r} is closed; {event.event_type.name} came too late")
        if not self._config.records(event.event_type.name):
            return
        self._buffer.setdefault(event.event_type, []).append(event)
        self._num_buffered += 1
        self._num_emitted += 1
        if self._num_buffered >= self._config.flush_rows or self._clock() - self._last_flush_sec >= self._config.flush_sec:
            self.flush()

    def flush(self) -> None:
        """Ship what is gathered and whatever was held back, as far as the transport has room."""
        self._last_flush_sec = self._clock()
        self._collect_acknowledgements()
        self._cut()
        self._send(self._config.resend_sec)
        self._collect_acknowledgements()

    def settle(self, timeout_sec: float | None = None) -> int:
        """Ship what is gathered and wait until it is stored, so that this process may die without taking anything along.

        Args:
            timeout_sec: Longest wait; None takes it from the settings. What is not stored by then is put on disk, where whoever
                takes this process's place finds it.

        Returns:
            Sequence number of this life's newest batch.
        """
        self.flush()
        if len(self._spool):
            self._transport.hurry()
        deadline = time.monotonic() + (self._config.settle_sec if timeout_sec is None else timeout_sec)
        while len(self._spool) and time.monotonic() < deadline:
            time.sleep(0.01)
            self._collect_acknowledgements()
            if self._send(min(self._config.resend_sec, SETTLE_RESEND_SEC)):
                self._transport.hurry()
        self._num_without_room = self._spool.spill()
        return self._seq

    def renew(self, incarnation: int) -> None:
        """Begin another life: what this one has gathered and not shipped is forgotten, and numbers start anew.

        Args:
            incarnation: Of the new life; the sink is told elsewhere what it shall forget of the old one.
        """
        self._buffer, self._num_buffered = {}, 0
        self._incarnation = incarnation
        self._seq = max(self._transport.acknowledged(self._source, incarnation), self._spool.last_seq(incarnation))

    def close(self, timeout_sec: float | None = 0.0) -> EmitterStats:
        """Ship the rest, wait for the sink, and leave what it did not take on disk.

        Args:
            timeout_sec: Longest wait; None takes it from the settings.

        Returns:
            Final counts; `held_batches`, without the lost ones, is what the next life of this source finds on disk.
        """
        if self._is_closed:
            return self.stats()
        self.settle(timeout_sec)
        self._is_closed = True
        return self.stats()

    def stats(self) -> EmitterStats:
        """Counts so far."""
        num_on_disk = self._spool.num_on_disk
        num_lost = min(self._num_without_room, len(self._spool) - num_on_disk)
        return EmitterStats(self._num_emitted, self._num_dropped, len(self._spool), num_on_disk, num_lost)

    def _cut(self) -> None:
        buffer, self._buffer, self._num_buffered = self._buffer, {}, 0
        for events in buffer.values():
            batch = self._encode(events)
            if batch is None:
                continue
            batch = with_ids(batch, self._source, self._incarnation, self._seq + 1)
            self._keep(batch)
            twin = legacy_twin(batch) if self._config.legacy_events else None
            if twin is not None:
                self._keep(twin)

    def _encode(self, events: list[TelemetryEvent]) -> pa.RecordBatch | None:
        """Events of one type as a batch, without those that hold what their columns cannot; None if that leaves none."""
        try:
            return record_batch(events)
        except UNENCODABLE as error:
            sound = [event for event in events if _is_encodable(event)]
            num_lost = len(events) - len(sound)
            self._num_dropped += num_lost
            kind = events[0].event_type.name
            logger.error("telemetry of %s: %d events of type %s cannot be encoded and are lost: %r", self._source, num_lost, kind, error)
            return record_batch(sound) if sound else None

    def _keep(self, batch: pa.RecordBatch) -> None:
        identity = BatchId(
            source=self._source,
            incarnation=self._incarnation,
            seq=self._seq + 1,
            after=self._seq,
            event_type=batch.column("event_type")[0].as_py(),
            dropped_events=self._num_dropped,
        )
        if self._spool.add(self._incarnation, identity.seq, encode(stamp(batch, identity))):
            self._seq = identity.seq
        else:
            self._num_dropped += batch.num_rows

    def _send(self, patience_sec: float) -> bool:
        """Put what waits, as far as there is room; says whether that was anything."""
        if self._clock() - self._last_progress_sec >= patience_sec:
            self._spool.rewind()
            self._last_progress_sec = self._clock()
        num_put = 0
        while self._spool.num_waiting:
            batches = self._spool.peek(SEND_BATCHES)
            if not self._transport.try_put(batches):
                self._transport.hurry()
                break
            self._spool.mark_sent(len(batches))
            num_put += len(batches)
        return num_put > 0

    def _collect_acknowledgements(self) -> None:
        oldest = self._spool.oldest()
        if oldest is None:
            self._last_progress_sec = self._clock()
        while oldest is not None:
            incarnation, seq = oldest
            stored = self._transport.acknowledged(self._source, incarnation)
            if stored < self._stored.get(incarnation, 0):
                self._bridge(incarnation, seq, stored)
                return
            self._stored[incarnation] = stored
            if not self._spool.release(incarnation, stored):
                return
            self._last_progress_sec = self._clock()
            oldest = self._spool.oldest()

    def _bridge(self, incarnation: int, oldest_seq: int, stored: int) -> None:
        """Go on behind what a damaged store has lost after it had acknowledged it; the store keeps a record of the damage."""
        logger.error("telemetry of %s: the sink has lost batches %d to %d", self._source, stored + 1, oldest_seq - 1)
        self._stored[incarnation] = stored
        self._spool.rechain(incarnation, stored)


def _is_encodable(event: TelemetryEvent) -> bool:
    try:
        record_batch([event])
    except UNENCODABLE:
        return False
    return True
