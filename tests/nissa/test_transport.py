from __future__ import annotations

from typing import TYPE_CHECKING

from esper.nissa.sinks.base import SinkUnavailableError
from esper.nissa.transport import InProcessTransport
from esper.nissa.wire import encode
from tests.fakes.sinks import MemorySink
from tests.fakes.telemetry import heartbeat_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa


class SometimesFull(MemorySink):
    is_full = True

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        if self.is_full:
            raise SinkUnavailableError("disk full")
        super().write(batches)


def test_what_is_put_is_stored_and_acknowledged_per_life() -> None:
    transport = InProcessTransport(MemorySink())
    assert transport.try_put([encode(heartbeat_batch(1)), encode(heartbeat_batch(2)), encode(heartbeat_batch(1, incarnation=1))])
    assert [transport.acknowledged("env-0", incarnation) for incarnation in (0, 1, 2)] == [2, 1, 0]


def test_an_unavailable_sink_is_a_full_queue_not_an_error() -> None:
    sink = SometimesFull()
    transport = InProcessTransport(sink)
    assert not transport.try_put([encode(heartbeat_batch(1))])
    assert transport.acknowledged("env-0", 0) == 0
    sink.is_full = False
    assert transport.try_put([encode(heartbeat_batch(1))])
    assert transport.acknowledged("env-0", 0) == 1
