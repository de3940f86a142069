from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.sinks.fan_out import FanOutSink
from esper.nissa.wire import identity_of
from tests.fakes.sinks import MemorySink
from tests.fakes.telemetry import heartbeat_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa


class Watcher:
    def __init__(self, error: Exception | None = None) -> None:
        self.seqs: list[int] = []
        self.is_closed = False
        self._error = error

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        if self._error is not None:
            raise self._error
        self.seqs += [identity_of(batch).seq for batch in batches]

    def close(self) -> None:
        self.is_closed = True


def test_watchers_see_each_stored_batch_once() -> None:
    watcher = Watcher()
    sink = FanOutSink(MemorySink(), [watcher])
    sink.write([heartbeat_batch(1), heartbeat_batch(2)])
    sink.write([heartbeat_batch(2), heartbeat_batch(4)])
    sink.write([heartbeat_batch(3), heartbeat_batch(4)])
    assert watcher.seqs == [1, 2, 3, 4]
    assert sink.high_water_mark("env-0", 0) == 4


def test_an_unavailable_watcher_is_counted_and_hurts_nobody() -> None:
    primary, healthy = MemorySink(), Watcher()
    sink = FanOutSink(primary, [Watcher(SinkUnavailableError("offline")), healthy])
    sink.write([heartbeat_batch(1)])
    assert (sink.missed(), len(primary.batches), healthy.seqs) == ({"Watcher": 1}, 1, [1])


def test_a_broken_watcher_is_not_hidden() -> None:
    with pytest.raises(KeyError):
        FanOutSink(MemorySink(), [Watcher(KeyError("utility"))]).write([heartbeat_batch(1)])


def test_closing_closes_everyone() -> None:
    watcher = Watcher()
    FanOutSink(MemorySink(), [watcher]).close()
    assert watcher.is_closed


class Stubborn(Watcher):
    def close(self) -> None:
        super().close()
        raise SinkUnavailableError("no network")


def test_a_watcher_that_cannot_close_keeps_nobody_from_closing() -> None:
    first, last, primary = Stubborn(), Watcher(), ClosingSink()
    with pytest.raises(SinkUnavailableError, match="no network"):
        FanOutSink(primary, [first, last]).close()
    assert (first.is_closed, last.is_closed, primary.is_closed) == (True, True, True)


class ClosingSink(MemorySink):
    is_closed = False

    def close(self) -> None:
        self.is_closed = True
