"""What a producer holds until the sink has it: a bounded queue in memory that continues, bounded too, on disk.

Order is kept, nothing blocks, and files left by a life that died are found again by the next.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from esper.nissa.wire import WireError, decode, encode, identity_of, stamp

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Held:
    """One batch; its bytes are in `payload` or, once there is a `path`, in that file."""

    incarnation: int
    seq: int
    payload: bytes
    path: Path | None
    size_bytes: int
    after: int | None = None
    """The batch that it follows now, where another one is written in its bytes."""

    def told(self) -> bytes:
        """What is to be sent."""
        payload = self.payload if self.path is None else self.path.read_bytes()
        if self.after is None:
            return payload
        return encode(_chained(decode(payload), self.after))


class Spool:
    """Batches of one source in order: those in flight (sent, unacknowledged), then those waiting.

    Args:
        source: Producer whose batches these are.
        memory_batches: Batches held in memory.
        folder: Where further batches go; None keeps to memory.
        disk_bytes: Room for this source in `folder`.
    """

    def __init__(self, source: str, *, memory_batches: int, folder: Path | None = None, disk_bytes: int = 0) -> None:
        self._memory_batches = memory_batches
        self._folder = folder
        self._disk_bytes = disk_bytes
        self._stem = quote(source, safe="")
        self._in_flight: deque[_Held] = deque()
        self._waiting: deque[_Held] = deque()
        self._num_in_memory = 0
        self._used_bytes = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._recover(folder)

    def __len__(self) -> int:
        return len(self._in_flight) + len(self._waiting)

    @property
    def num_waiting(self) -> int:
        """Batches not yet handed to the transport."""
        return len(self._waiting)

    @property
    def num_on_disk(self) -> int:
        """Batches held in files."""
        return len(self) - self._num_in_memory

    def oldest(self) -> tuple[int, int] | None:
        """(incarnation, seq) of the oldest batch held."""
        queue = self._in_flight or self._waiting
        return (queue[0].incarnation, queue[0].seq) if queue else None

    def last_seq(self, incarnation: int) -> int:
        """Highest sequence number held for an incarnation; 0 if none."""
        return max((held.seq for held in (*self._in_flight, *self._waiting) if held.incarnation == incarnation), default=0)

    def add(self, incarnation: int, seq: int, payload: bytes) -> bool:
        """Hold one more batch; False if neither memory nor disk has room."""
        held = _Held(incarnation, seq, payload, None, len(payload))
        if self._num_in_memory < self._memory_batches:
            self._num_in_memory += 1
        elif not self._move_to_disk(held):
            return False
        self._waiting.append(held)
        return True

    def peek(self, limit: int) -> list[bytes]:
        """The next waiting batches, oldest first."""
        return [held.told() for held, _ in zip(self._waiting, range(limit), strict=False)]

    def mark_sent(self, num: int) -> None:
        """Count the oldest `num` waiting batches as in flight."""
        for _ in range(num):
            self._in_flight.append(self._waiting.popleft())

    def rewind(self) -> None:
        """Count everything unacknowledged as waiting again."""
        self._in_flight.extend(self._waiting)
        self._waiting, self._in_flight = self._in_flight, deque()

    def rechain(self, incarnation: int, after: int) -> None:
        """Count everything as waiting again, the oldest batch of `incarnation` as the one that follows `after`."""
        self.rewind()
        held = next((one for one in self._waiting if one.incarnation == incarnation), None)
        if held is not None:
            held.after = after

    def release(self, incarnation: int, seq: int) -> int:
        """Forget the batches of an incarnation up to and including `seq`.

        Returns:
            How many were forgotten.
        """
        num = 0
        for queue in (self._in_flight, self._waiting):
            while queue and queue[0].incarnation == incarnation and queue[0].seq <= seq:
                self._forget(queue.popleft())
                num += 1
        return num

    def spill(self) -> int:
        """Write what is in memory to disk, for the next life to send.

        Returns:
            Batches that had no room and are lost with this process.
        """
        in_memory = [held for held in (*self._in_flight, *self._waiting) if held.path is None]
        self._num_in_memory = sum(not self._move_to_disk(held) for held in in_memory)
        return self._num_in_memory

    def _move_to_disk(self, held: _Held) -> bool:
        if self._folder is None or self._used_bytes + held.size_bytes > self._disk_bytes:
            return False
        path = self._folder / f"{self._stem}@{held.incarnation:08d}@{held.seq:012d}.arrow"
        try:
            _write_atomically(path, held.payload)
        except OSError as error:
            logger.warning("telemetry spool %s: %s", path, error)
            return False
        held.payload, held.path = b"", path
        self._used_bytes += held.size_bytes
        return True

    def _forget(self, held: _Held) -> None:
        if held.path is None:
            self._num_in_memory -= 1
        else:
            held.path.unlink(missing_ok=True)
            self._used_bytes -= held.size_bytes

    def _recover(self, folder: Path) -> None:
        """Queue the files of earlier lives, chained past whatever died in their memory."""
        previous: dict[int, int] = {}
        for path in sorted(folder.glob(f"{self._stem}@*.arrow")):
            try:
                batch = decode(path.read_bytes())
            except WireError as error:
                logger.warning("telemetry spool: %s is unreadable and set aside (%s)", path, error)
                path.rename(path.with_suffix(".corrupt"))
                continue
            identity = identity_of(batch)
            after = previous.get(identity.incarnation, 0)
            previous[identity.incarnation] = identity.seq
            held = _Held(identity.incarnation, identity.seq, b"", path, path.stat().st_size)
            held.after = None if after == identity.after else after
            self._waiting.append(held)
            self._used_bytes += held.size_bytes


def left_behind(folder: Path, source: str, incarnation: int, *, after: int, up_to: int) -> list[pa.RecordBatch]:
    """What a life that is over left in files.

    Args:
        folder: Where it put them; they stay there.
        source: The producer.
        incarnation: Its life.
        after: Number of the last batch that is stored.
        up_to: Number of the last batch that is wanted.

    Returns:
        Its batches between those numbers, in order, each as the one that follows the one before it.
    """
    found: list[pa.RecordBatch] = []
    for path in sorted(folder.glob(f"{quote(source, safe='')}@{incarnation:08d}@*.arrow")):
        try:
            batch = decode(path.read_bytes())
        except (WireError, OSError) as error:
            logger.warning("telemetry spool: %s cannot be read (%s)", path, error)
            continue
        seq = identity_of(batch).seq
        if after < seq <= up_to:
            found.append(_chained(batch, after))
            after = seq
    return found


def _chained(batch: pa.RecordBatch, after: int) -> pa.RecordBatch:
    return stamp(batch, replace(identity_of(batch), after=after))


def _write_atomically(path: Path, payload: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(payload)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
