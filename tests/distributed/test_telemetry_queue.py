"""The queue of telemetry when its process is gone, killed for memory, or has stopped where it stands."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError

from esper.distributed.actors import close_session, open_session, start_part
from esper.distributed.config import ClusterConfig
from esper.distributed.telemetry_queue import Drain, QueueTransport, make_queue
from esper.nissa.config import TelemetryConfig
from esper.nissa.emitter import BufferedEmitter
from esper.nissa.wire import decode
from tests.distributed.faults import living
from tests.fakes.sinks import MemorySink
from tests.fakes.telemetry import heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SEC = 240.0
GONE = (RayActorError(), OutOfMemoryError("killed to free memory"), GetTimeoutError("late"))


class Sink:
    """Knows of nothing stored."""

    def acknowledged(self, source: str, incarnation: int) -> int:
        return 0


def whose_calls_end_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A queue and an actor, of which every call is over at once, and badly."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ray, "wait", lambda refs, **_: (refs, []))
    monkeypatch.setattr(ray, "get", fail)
    method = SimpleNamespace(remote=lambda *_: object())
    actor = SimpleNamespace(put_nowait_batch=method, get_nowait_batch=method, qsize=method, call=method)
    return SimpleNamespace(actor=actor, call=method)


@pytest.mark.parametrize("error", GONE, ids=lambda error: type(error).__name__)
def test_a_queue_that_is_gone_is_no_error_of_those_who_use_it(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = whose_calls_end_with(error, monkeypatch)
    transport = QueueTransport(gone, gone)
    assert not transport.try_put([b"1"])
    assert [transport.acknowledged("env-0", 0) for _ in range(2)] == [0, 0]
    transport.hurry()
    assert Drain(gone)() == ([] if isinstance(error, GetTimeoutError) else None)


def within(seconds: float, act: Callable[[], object]) -> bool:
    """Whether `act` came to its end."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


@pytest.mark.ray
@pytest.mark.slow
def test_a_queue_that_has_stopped_holds_nobody_up_and_nothing_is_lost_or_stored_twice() -> None:
    open_session(ClusterConfig(), namespace="test-queue")
    stopped = 0
    try:
        queue, stored, told = make_queue(256, "test-queue"), MemorySink(), range(1, 41)
        transport, drain = QueueTransport(queue, start_part("part", Sink, (), cpus=0.1)), Drain(queue)
        emitter = BufferedEmitter("driver", 0, transport=transport, config=TelemetryConfig(flush_rows=1, resend_sec=1e9))
        emitter.emit(heartbeat(1.0))
        assert queue.qsize() <= 1  # it has started
        actor = living("queue")
        assert actor is not None
        stopped = int(actor["Pid"])
        os.kill(stopped, signal.SIGSTOP)

        def tell() -> None:
            for number in told[1:]:
                emitter.emit(heartbeat(float(number)))

        assert within(PATIENCE_SEC, tell)
        assert drain() == []
        os.kill(stopped, signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE_SEC
        while len(stored.batches) < len(told) and time.monotonic() < deadline:
            emitter.flush()
            stored.write([decode(payload) for payload in drain() or []])
        assert [row["uptime_sec"] for row in stored.rows("HEARTBEAT")] == [float(number) for number in told]
    finally:
        if stopped:
            os.kill(stopped, signal.SIGCONT)
        close_session()
