from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from esper.leyline.telemetry.tamiyo import FieldReportPayload
from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.transport import InProcessTransport
from esper.nissa.wire import identity_of
from tests.fakes.sinks import MemorySink
from tests.fakes.telemetry import FakeClock, FlakyTransport, event, heartbeat, outcome

if TYPE_CHECKING:
    from pathlib import Path

    from esper.leyline.telemetry.event import TelemetryEvent
    from esper.nissa.transport import Transport

EVERY_EVENT = TelemetryConfig(flush_rows=1)


def make(
    transport: Transport, config: TelemetryConfig = EVERY_EVENT, *, clock: FakeClock | None = None, folder: Path | None = None
) -> BufferedEmitter:
    return BufferedEmitter("env-0", 0, transport=transport, config=config, clock=clock or FakeClock(), spool_folder=folder)


def uptimes(sink: MemorySink) -> list[object]:
    return [row["uptime_sec"] for row in sink.rows("HEARTBEAT")]


def test_ships_when_rows_or_time_are_up() -> None:
    sink, clock = MemorySink(), FakeClock()
    emitter = make(InProcessTransport(sink), TelemetryConfig(flush_rows=3, flush_sec=1.0), clock=clock)
    emitter.emit(heartbeat(1.0))
    emitter.emit(heartbeat(2.0))
    assert uptimes(sink) == []
    emitter.emit(heartbeat(3.0))
    assert uptimes(sink) == [1.0, 2.0, 3.0]
    clock.advance(1.0)
    emitter.emit(heartbeat(4.0))
    assert uptimes(sink) == [1.0, 2.0, 3.0, 4.0]


def test_one_batch_per_type_with_consecutive_numbers() -> None:
    sink = MemorySink()
    emitter = make(InProcessTransport(sink), TelemetryConfig(flush_rows=100))
    for index in range(4):
        emitter.emit(heartbeat(float(index)))
        emitter.emit(event("EPISODE_OUTCOME", outcome(index, 0, 50.0)))
    emitter.flush()
    identities = [identity_of(batch) for batch in sink.batches]
    assert [(i.event_type, i.seq, i.after) for i in identities] == [("HEARTBEAT", 1, 0), ("EPISODE_OUTCOME", 2, 1)]
    assert [batch.num_rows for batch in sink.batches] == [4, 4]


def test_events_are_named_by_producer_life_batch_and_place() -> None:
    sink = MemorySink()
    emitter = make(InProcessTransport(sink), TelemetryConfig(flush_rows=3))
    for _ in range(5):
        emitter.emit(heartbeat(1.0))
    emitter.renew(1)
    emitter.emit(replace(heartbeat(1.0), event_id="given"))
    emitter.emit(heartbeat(1.0))
    emitter.close()
    told = [row["event_id"] for row in sink.rows("HEARTBEAT")]
    assert told == ["env-0/0/1/0", "env-0/0/1/1", "env-0/0/1/2", "given", "env-0/1/1/1"]


def test_muted_types_are_left_out() -> None:
    sink = MemorySink()
    emitter = make(InProcessTransport(sink), TelemetryConfig(flush_rows=1, muted=("HEARTBEAT",)))
    emitter.emit(heartbeat())
    assert sink.batches == []
    emitter.emit(event("EPISODE_OUTCOME", outcome(0, 0, 50.0)))
    assert len(sink.batches) == 1


def test_a_full_queue_never_blocks_and_loses_nothing_within_bounds(tmp_path: Path) -> None:
    sink = MemorySink()
    transport = FlakyTransport(sink)
    transport.is_full = True
    emitter = make(transport, TelemetryConfig(flush_rows=1, spool_batches=2), folder=tmp_path)
    for index in range(1, 8):
        emitter.emit(heartbeat(float(index)))
    assert emitter.stats().disk_batches == 5
    transport.is_full = False
    emitter.flush()
    transport.drain()
    emitter.flush()
    assert uptimes(sink) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert emitter.stats().held_batches == 0
    assert list(tmp_path.iterdir()) == []


def test_beyond_the_last_bound_losses_are_counted_and_told() -> None:
    sink = MemorySink()
    transport = FlakyTransport(sink)
    transport.is_full = True
    emitter = make(transport, TelemetryConfig(flush_rows=1, spool_batches=2))
    for index in range(1, 6):
        emitter.emit(heartbeat(float(index)))
    assert emitter.stats().dropped_events == 3
    transport.is_full = False
    emitter.flush()
    transport.drain()
    emitter.emit(heartbeat(6.0))
    transport.drain()
    assert uptimes(sink) == [1.0, 2.0, 6.0]
    assert identity_of(sink.batches[-1]).dropped_events == 3


def test_what_the_queue_lost_is_sent_again_in_order() -> None:
    sink, clock = MemorySink(), FakeClock()
    transport = FlakyTransport(sink)
    emitter = make(transport, TelemetryConfig(flush_rows=1, resend_sec=5.0), clock=clock)
    emitter.emit(heartbeat(1.0))
    emitter.emit(heartbeat(2.0))
    transport.lose()
    emitter.emit(heartbeat(3.0))
    transport.drain()
    assert uptimes(sink) == []
    clock.advance(5.0)
    emitter.flush()
    transport.drain()
    emitter.flush()
    assert uptimes(sink) == [1.0, 2.0, 3.0]
    assert emitter.stats().held_batches == 0


def test_a_slow_sink_gets_duplicates_but_stores_once() -> None:
    sink, clock = MemorySink(), FakeClock()
    transport = FlakyTransport(sink)
    emitter = make(transport, TelemetryConfig(flush_rows=1, resend_sec=5.0), clock=clock)
    emitter.emit(heartbeat(1.0))
    clock.advance(6.0)
    emitter.emit(heartbeat(2.0))
    assert len(transport.queue) == 3
    transport.drain()
    assert uptimes(sink) == [1.0, 2.0]


def test_the_next_life_delivers_what_the_last_could_not(tmp_path: Path) -> None:
    sink = MemorySink()
    transport = FlakyTransport(sink)
    transport.is_full = True
    first = make(transport, folder=tmp_path)
    first.emit(heartbeat(1.0))
    first.emit(heartbeat(2.0))
    stats = first.close()
    assert (stats.held_batches, stats.disk_batches) == (2, 2)
    second = BufferedEmitter("env-0", 1, transport=InProcessTransport(sink), config=EVERY_EVENT, clock=FakeClock(), spool_folder=tmp_path)
    second.emit(heartbeat(3.0))
    assert uptimes(sink) == [1.0, 2.0, 3.0]
    assert second.stats().held_batches == 0


def test_a_reused_incarnation_goes_on_after_what_is_stored() -> None:
    sink = MemorySink()
    make(InProcessTransport(sink)).emit(heartbeat(1.0))
    make(InProcessTransport(sink)).emit(heartbeat(2.0))
    assert uptimes(sink) == [1.0, 2.0]


def test_close_waits_no_longer_than_told_and_refuses_later_events() -> None:
    transport = FlakyTransport(MemorySink())
    emitter = make(transport)
    emitter.emit(heartbeat())
    assert emitter.close(timeout_sec=0.05).held_batches == 1
    with pytest.raises(ValueError, match="closed"):
        emitter.emit(heartbeat())


def test_settling_waits_until_everything_is_stored_and_sends_again_what_was_lost() -> None:
    sink = MemorySink()
    transport = FlakyTransport(sink)
    clock = FakeClock()
    emitter = make(transport, clock=clock)
    emitter.emit(heartbeat(1.0))
    transport.lose()
    clock.advance(2.0)
    assert emitter.settle(0.05) == 1
    transport.drain()
    assert uptimes(sink) == [1.0]
    assert emitter.stats().held_batches == 1
    assert emitter.settle(1.0) == 1
    assert emitter.stats().held_batches == 0


def test_a_sink_is_hurried_by_who_waits_for_it_and_by_who_finds_no_room() -> None:
    transport = FlakyTransport(MemorySink())
    emitter = make(transport, TelemetryConfig(flush_rows=1))
    emitter.emit(heartbeat(1.0))
    assert transport.num_hurries == 0
    transport.is_full = True
    emitter.emit(heartbeat(2.0))
    assert transport.num_hurries == 1
    transport.is_full = False
    emitter.settle(0.0)
    assert transport.num_hurries == 2


def test_a_new_life_forgets_what_was_not_shipped_and_counts_anew() -> None:
    sink = MemorySink()
    emitter = make(InProcessTransport(sink), TelemetryConfig(flush_rows=100))
    emitter.emit(heartbeat(1.0))
    emitter.settle()
    emitter.emit(heartbeat(2.0))
    emitter.renew(4)
    emitter.emit(heartbeat(3.0))
    assert emitter.settle() == 1
    assert uptimes(sink) == [1.0, 3.0]
    assert [(i.incarnation, i.seq) for i in map(identity_of, sink.batches)] == [(0, 1), (4, 1)]


def test_what_is_not_stored_in_time_lies_on_disk_for_the_next_life(tmp_path: Path) -> None:
    sink = MemorySink()
    transport = FlakyTransport(sink)
    transport.is_full = True
    emitter = make(transport, folder=tmp_path)
    emitter.emit(heartbeat(1.0))
    emitter.emit(heartbeat(2.0))
    assert emitter.settle(0.0) == 2
    stats = emitter.stats()
    assert (stats.held_batches, stats.disk_batches, stats.lost_batches) == (2, 2, 0)
    BufferedEmitter("env-0", 1, transport=InProcessTransport(sink), config=EVERY_EVENT, clock=FakeClock(), spool_folder=tmp_path).flush()
    assert uptimes(sink) == [1.0, 2.0]


def test_batches_without_room_on_disk_count_as_lost_until_the_sink_takes_them(tmp_path: Path) -> None:
    transport = FlakyTransport(MemorySink())
    emitter = make(transport, TelemetryConfig(flush_rows=1, spool_disk_mb=1e-3), folder=tmp_path)
    emitter.emit(heartbeat(1.0))
    assert emitter.settle(0.0) == 1
    stats = emitter.stats()
    assert (stats.held_batches, stats.disk_batches, stats.lost_batches) == (1, 0, 1)
    transport.drain()
    final = emitter.close()
    assert (final.held_batches, final.lost_batches) == (0, 0)


def test_what_a_closed_emitter_could_keep_nowhere_is_counted(tmp_path: Path) -> None:
    transport = FlakyTransport(MemorySink())
    final = [make(transport, folder=folder) for folder in (None, tmp_path)]
    for emitter in final:
        emitter.emit(heartbeat(1.0))
    assert [emitter.close().lost_batches for emitter in final] == [1, 0]


def odd(text: object) -> TelemetryEvent:
    payload = FieldReportPayload("r", "SUCCESS", "v1", 3, {}, blueprint_id=text)  # type: ignore[arg-type]
    return event("FIELD_REPORT", payload)


@pytest.mark.parametrize("text", ["\ud800", 7, ["list"]])
def test_what_cannot_be_encoded_is_dropped_alone(text: object, caplog: pytest.LogCaptureFixture) -> None:
    sink = MemorySink()
    emitter = make(InProcessTransport(sink), TelemetryConfig(flush_rows=100))
    for one in (heartbeat(1.0), odd("conv"), odd(text), odd(None), odd(text), heartbeat(2.0)):
        emitter.emit(one)
    emitter.flush()
    assert uptimes(sink) == [1.0, 2.0]
    assert [row["blueprint_id"] for row in sink.rows("FIELD_REPORT")] == ["conv", None]
    stats = emitter.stats()
    assert (stats.emitted_events, stats.dropped_events, stats.held_batches) == (6, 2, 0)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "2 events of type FIELD_REPORT cannot be encoded" in caplog.text
    emitter.emit(odd(text))
    emitter.emit(heartbeat(3.0))
    emitter.close()
    assert uptimes(sink) == [1.0, 2.0, 3.0]
    assert identity_of(sink.batches[-1]).dropped_events == emitter.stats().dropped_events == 3
