from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from esper.distributed.sink_worker import POLL_SEC, SinkWorker
from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.wire import encode, identity_of
from tests.fakes.telemetry import heartbeat_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from esper.distributed.telemetry_store import TelemetryStore

PATIENCE_SEC = 20.0


class FakeStore:
    """A telemetry store in memory; refuses a number of writes first."""

    incarnation = 3

    def __init__(self, num_refusals: int = 0) -> None:
        self.sink = self
        self.seqs: list[int] = []
        self.is_closed = False
        self.threads = {threading.get_ident()}
        self._num_refusals = num_refusals
        self.num_openings = 1
        self.notes = ["a note"]

    def abandon(self, source: str, incarnation: int, after_seq: int) -> int:
        self.threads.add(threading.get_ident())
        if self._num_refusals:
            self._num_refusals -= 1
            raise SinkUnavailableError("disk full")
        return after_seq

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        self.threads.add(threading.get_ident())
        if self._num_refusals:
            self._num_refusals -= 1
            raise SinkUnavailableError("disk full")
        self.seqs += [identity_of(batch).seq for batch in batches]

    def high_water_mark(self, source: str, incarnation: int) -> int:
        return max(self.seqs, default=0)

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.is_closed = True


class Waiting:
    """What waits in the queue."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def put(self, *seqs: int) -> None:
        for seq in seqs:
            self._queue.put(encode(heartbeat_batch(seq)))

    def drain(self) -> list[bytes]:
        return [self._queue.get() for _ in range(self._queue.qsize())]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SEC
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_so()


class Opened:
    """A worker, and the store that it opened."""

    def __init__(self, num_refusals: int = 0) -> None:
        self.waiting = Waiting()
        self.stores: list[FakeStore] = []
        self._num_refusals = num_refusals
        self.worker = SinkWorker(cast("Any", self._open), self.waiting.drain)

    def _open(self) -> TelemetryStore:
        self.stores.append(FakeStore(self._num_refusals))
        return cast("TelemetryStore", self.stores[-1])


def test_what_waits_is_stored_and_acknowledged() -> None:
    opened = Opened()
    assert opened.worker.ready() == FakeStore.incarnation
    opened.waiting.put(1, 2)
    deadline = time.monotonic() + PATIENCE_SEC
    while opened.worker.acknowledged("env-0", 0) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert opened.stores[0].seqs == [1, 2]
    opened.worker.close()


def test_it_rests_between_two_transactions_unless_somebody_is_in_a_hurry() -> None:
    waiting, store = Waiting(), FakeStore()
    worker = SinkWorker(cast("Any", lambda: store), waiting.drain, rest_sec=3600.0)
    worker.ready()
    waiting.put(1)
    worker.acknowledged("env-0", 0)
    wait_until(lambda: store.seqs == [1])
    waiting.put(2)
    worker.acknowledged("env-0", 0)
    time.sleep(10 * POLL_SEC)
    assert store.seqs == [1]
    worker.hurry()
    wait_until(lambda: store.seqs == [1, 2])
    waiting.put(3)
    worker.close()
    assert store.seqs == [1, 2, 3]


def test_questions_about_the_store_are_answered_by_the_thread_that_owns_it() -> None:
    opened = Opened()
    assert opened.worker.abandon("env-0", 0, 4) == 4
    assert opened.worker.outages() == (1, 0)
    assert len(opened.stores[0].threads) == 1
    opened.worker.close()


def test_what_the_user_should_know_of_the_store_is_told() -> None:
    opened = Opened()
    assert opened.worker.notes() == ("a note",)
    opened.worker.close()


def test_what_waits_is_stored_before_a_lost_producer_is_abandoned() -> None:
    waiting = Waiting()
    seen: list[list[int]] = []

    class Store(FakeStore):
        def abandon(self, source: str, incarnation: int, after_seq: int) -> int:
            seen.append(list(self.seqs))
            return 0

    worker = SinkWorker(cast("Any", Store), waiting.drain, idle_sec=3600.0)
    worker.ready()
    time.sleep(4 * POLL_SEC)
    waiting.put(1, 2)
    worker.abandon("env-0", 0, 2)
    assert seen == [[1, 2]]
    worker.close()


def test_a_change_of_the_store_waits_until_there_is_room() -> None:
    opened = Opened(num_refusals=3)
    assert opened.worker.abandon("env-0", 0, 4) == 4
    opened.worker.close()


def test_each_outage_of_the_queue_is_counted_once() -> None:
    drained: Any = iter([[], None, None, [], None, []])
    worker = SinkWorker(cast("Any", FakeStore), lambda: next(drained, []))
    deadline = time.monotonic() + PATIENCE_SEC
    while worker.outages() != (1, 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert worker.outages() == (1, 2)
    worker.close()


def test_the_queue_is_left_alone_while_nobody_asks_for_anything() -> None:
    looks = 0

    def look() -> list[bytes]:
        nonlocal looks
        looks += 1
        return []

    worker = SinkWorker(cast("Any", FakeStore), look, idle_sec=3600.0)
    worker.ready()
    deadline = time.monotonic() + PATIENCE_SEC
    while looks == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(10 * POLL_SEC)
    assert looks == 1
    worker.acknowledged("env-0", 0)
    asked = looks
    deadline = time.monotonic() + PATIENCE_SEC
    while looks == asked and time.monotonic() < deadline:
        time.sleep(0.01)
    assert looks > asked
    worker.close()


def test_closing_stores_what_still_waits_and_then_closes_the_store() -> None:
    opened = Opened()
    opened.worker.ready()
    opened.waiting.put(*range(1, 50))
    opened.worker.close()
    assert opened.stores[0].seqs == list(range(1, 50))
    assert opened.stores[0].is_closed


def test_the_store_is_used_by_one_thread_alone() -> None:
    opened = Opened()
    opened.worker.ready()
    opened.waiting.put(1)
    opened.worker.close()
    assert len(opened.stores[0].threads) == 1
    assert threading.get_ident() not in opened.stores[0].threads


def test_batches_wait_in_order_while_the_store_is_unavailable() -> None:
    opened = Opened(num_refusals=3)
    opened.worker.ready()
    opened.waiting.put(1, 2)
    deadline = time.monotonic() + PATIENCE_SEC
    while not opened.stores[0].seqs and time.monotonic() < deadline:
        time.sleep(0.01)
    opened.waiting.put(3)
    opened.worker.close()
    assert opened.stores[0].seqs == [1, 2, 3]


def test_a_store_that_cannot_be_opened_is_reported_to_whoever_waits() -> None:
    def fail() -> TelemetryStore:
        raise SinkUnavailableError("locked by another process")

    worker = SinkWorker(fail, list)
    with pytest.raises(SinkUnavailableError, match="locked"):
        worker.ready()
    with pytest.raises(SinkUnavailableError, match="locked"):
        worker.acknowledged("env-0", 0)
    with pytest.raises(SinkUnavailableError, match="locked"):
        worker.close()


def test_a_damaged_batch_is_not_swallowed() -> None:
    opened = Opened()
    opened.worker.ready()
    worker = SinkWorker(cast("Any", FakeStore), lambda: [b"noise"])
    with pytest.raises(ValueError, match=r".+"):
        worker.ready()
        worker.close()
    opened.worker.close()
