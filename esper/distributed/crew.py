"""A run's processes when some of them are lost: replaces them, and keeps telemetry free of what will be done again.

What to do is decided in `esper.distributed.supervise`; here it is done.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from esper.distributed.executor import InterruptedRound, PartHungError, PartLostError, RunFailedError
from esper.distributed.pulse import Pulse
from esper.distributed.supervise import Decision, Fault, Health, Remedy, after_fault, can_do_without, due, not_aged, overdue
from esper.leyline.telemetry import PartFaultPayload, TelemetryEvent, TelemetryEventType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.distributed.config import ClusterConfig
    from esper.distributed.executor import Executor, Ref
    from esper.leyline.ports import Emitter

RETRY_SEC = 0.25
"""Pause before the store is asked again while its actor is being restarted."""
POLL_SEC = 0.25
"""Longest wait for a call before signs of life are looked for."""
LEARNER = "learner"


class Part(Protocol):
    """A place in the run that one process after another can fill."""

    name: str

    def replace(self, incarnation: int) -> None:
        """End the process that is here, if it lives, and start another one."""
        ...

    def kill(self) -> None:
        """End the process that is here, if it lives."""
        ...


class Service(Protocol):
    """A process of telemetry's, which is started again without anybody's doing once it has ended."""

    name: str

    def restart(self) -> None:
        """End it, so that it is started again."""
        ...


@dataclass(slots=True)
class _Seat:
    """What is known of whoever fills a part."""

    part: Part
    life: int
    health: Health = field(default_factory=Health)
    committed: int = 0
    """Number of the last telemetry batch about work that is finished."""
    lost_at: float = 0.0
    fault: Fault = Fault.DIED


class Crew:
    """The parts that may be lost and replaced.

        crew.begin_restarts()                          # again and again, while work goes on
        crew.lost(worker, Fault.DIED, detail, work)    # then give its work to another one
        for ref in ready & crew.starting: crew.started(ref)

    Args:
        executor: How parts are called.
        workers: Environment parts.
        learner: The part that learns.
        services: The part that owns telemetry, and the queue before it.
        incarnation: Of the first lives; later ones count up from it.
        cluster: Settings.
        clock: Monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 - called once, where the parts are started
        self,
        executor: Executor,
        workers: Sequence[Part],
        learner: Part,
        services: tuple[Service, Service],
        *,
        incarnation: int,
        cluster: ClusterConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = executor
        self._seats = [_Seat(part, incarnation) for part in workers]
        self._learner = _Seat(learner, incarnation)
        self._store, _ = self._services = services
        self._newest = incarnation
        self._cluster = cluster
        self._clock = clock
        self._starting: dict[Ref, tuple[int, float]] = {}
        self._emitter: Emitter | None = None
        self._outages = (1, 0)
        self._num_ended = Counter[str]()
        self._pulse = Pulse(executor, every_sec=cluster.heartbeat_sec, timeout_sec=cluster.heartbeat_timeout_sec, clock=clock)

    @property
    def starting(self) -> list[Ref]:
        """Answers of workers that have not come up yet; give them to `started` when they exist."""
        return list(self._starting)

    @property
    def call_timeout_sec(self) -> float:
        """Age at which a call counts as lost."""
        return self._cluster.call_timeout_sec

    @property
    def patience_sec(self) -> float:
        """Age of a call from which it is looked after."""
        return min(self._cluster.heartbeat_sec or math.inf, self.call_timeout_sec)

    @property
    def num_faults(self) -> int:
        """Losses so far, of environments and learner and, as of the last look, of telemetry's sink and queue."""
        num_openings, num_queues_lost = self._outages
        return sum(seat.health.num_faults for seat in (*self._seats, self._learner)) + num_openings - 1 + num_queues_lost

    def report_to(self, emitter: Emitter) -> None:
        """Tell losses and recoveries to `emitter` from now on."""
        self._emitter = emitter

    def working(self) -> list[int]:
        """Workers that can be given work."""
        return [i for i, seat in enumerate(self._seats) if seat.health.is_working]

    def committed(self, worker: int, seq: int) -> None:
        """A worker's work is finished and its telemetry is stored up to batch `seq`."""
        self._seats[worker].committed = seq

    def learner_committed(self, seq: int) -> None:
        """A checkpoint covers the learner's work, and its telemetry is stored up to batch `seq`."""
        self._learner.committed = seq

    def lost(self, worker: int, fault: Fault, detail: str, *, work: str = "") -> None:
        """A worker is lost; forget what it told of unfinished work and decide what becomes of it.

        Raises:
            RunFailedError: If no worker is left.
        """
        seat = self._seats[worker]
        is_needed = not can_do_without(worker, [other.health for other in self._seats])
        decision = self._lose(seat, fault, detail, is_needed=is_needed, work=work)
        if decision.remedy is Remedy.GIVE_UP:
            raise RunFailedError(
                f"{seat.part.name} was lost {len(seat.health.faults)} times within {self._cluster.restart_window_sec:g} s "
                f"(cluster.max_restarts={self._cluster.max_restarts}) and no other environment actor is left; last: {detail}"
            )

    def find_silence(self, worker: int | None) -> str:
        """Look for a sign of life of a part whose call takes long: a worker, or with None the learner.

        Returns:
            What to say of it if it is silent, and nothing if it is not.
        """
        part = self._learner.part if worker is None else self._seats[worker].part
        return f"gave no sign of life for {self._cluster.heartbeat_timeout_sec:g} s" if self._pulse.is_silent(part) else ""

    def answer_of_learner(self, ref: Ref) -> Any:
        """Wait for a call to the learner and return its result.

        Raises:
            PartLostError: If it died, is silent, or takes longer than a call may.
        """
        return self._answer(ref, self._learner.part)

    def begin_restarts(self) -> None:
        """Start the workers that are due, count those that do not come up as lost once more, and end services that are silent."""
        self._end_silent_services()
        now = self._clock()
        for worker in due({i: seat.health for i, seat in enumerate(self._seats)}, now):
            self._begin(worker, now)
        for ref in overdue({ref: begun for ref, (_, begun) in self._starting.items()}, now, self.call_timeout_sec):
            worker, begun = self._starting.pop(ref)
            seat = self._seats[worker]
            seat.health = not_aged(seat.health, now - begun)
            self.lost(worker, Fault.HUNG, f"did not come up within {self.call_timeout_sec:g} s")

    def started(self, ref: Ref) -> int | None:
        """A worker that was started again has answered; returns which, or None if it was lost at once."""
        worker, _ = self._starting.pop(ref)
        try:
            self._executor.check(ref)
        except PartLostError as error:
            self.lost(worker, Fault.DIED, str(error))
            return None
        self._recovered(self._seats[worker])
        return worker

    def dismiss(self) -> None:
        """Kill the workers: what they are doing is not wanted any more."""
        for seat in self._seats:
            self._end(seat.part)
            seat.health = replace(seat.health, is_working=False)

    def replace_learner(self, fault: Fault, detail: str, *, work: str, should_stop: Callable[[], bool]) -> None:
        """Put a fresh learner in the place of the one that was lost, and let all workers begin new lives.

        Raises:
            RunFailedError: If learners were lost too often.
            InterruptedRound: If `should_stop` said so before there was one.
        """
        seat = self._learner
        while True:
            decision = self._lose(seat, fault, detail, is_needed=True, work=work)
            if decision.remedy is Remedy.GIVE_UP:
                raise RunFailedError(f"the learner was lost {len(seat.health.faults)} times (cluster.max_restarts); last: {detail}")
            while (pause_sec := (seat.health.due_at or 0.0) - self._clock()) > 0.0:
                _require_go(should_stop)
                time.sleep(min(pause_sec, POLL_SEC))
            seat.life, seat.committed = self._new_life(), 0
            seat.part.replace(seat.life)
            begun = self._clock()
            try:
                self._come_up(seat.part, should_stop)
                break
            except PartLostError as error:
                fault, detail = Fault.HUNG if isinstance(error, PartHungError) else Fault.DIED, str(error)
                seat.health = not_aged(seat.health, self._clock() - begun)
        self._recovered(seat)
        self._renew_workers()

    def forget_after(self, num_rounds: int) -> None:
        """Take back what was told of later rounds, which will be played again."""
        self._ask_store("forget_after", num_rounds)

    def look_at_store(self) -> None:
        """Tell of telemetry's own losses since the last look; nothing of the run was lost with them."""
        before, self._outages = self._outages, tuple(self._ask_store("outages"))
        for name, was, now in zip(("sink", "queue"), before, self._outages, strict=True):
            for number in range(was + 1, now + 1):
                fault, self._num_ended[name] = Fault.HUNG if self._num_ended[name] else Fault.DIED, max(self._num_ended[name] - 1, 0)
                payload = PartFaultPayload(
                    part=name, fault=str(fault), remedy=str(Remedy.RESTART), num_faults=number - (name == "sink"), life=self._newest
                )
                self._tell(TelemetryEventType.PART_LOST, replace(payload, detail="restarted by Ray; producers sent again"))
                self._tell(TelemetryEventType.PART_RECOVERED, payload)

    def _lose(self, seat: _Seat, fault: Fault, detail: str, *, is_needed: bool, work: str) -> Decision:
        now = self._clock()
        decision = after_fault(seat.health, now, self._cluster, is_needed=is_needed)
        seat.health, seat.lost_at, seat.fault = decision.health, now, fault
        self._end(seat.part)
        self._ask_store("abandon", seat.part.name, seat.life, seat.committed)
        payload = self._payload(seat, decision.remedy)
        delay = seat.health.due_at - now if seat.health.due_at is not None else None
        self._tell(TelemetryEventType.PART_LOST, replace(payload, delay_sec=delay, lost=work, detail=first_line(detail)))
        return decision

    def _begin(self, worker: int, now: float) -> None:
        seat = self._seats[worker]
        seat.life, seat.committed = self._new_life(), 0
        seat.health = replace(seat.health, due_at=None)
        seat.part.replace(seat.life)
        self._starting[self._executor.call(seat.part, "ready")] = (worker, now)

    def _recovered(self, seat: _Seat) -> None:
        payload = self._payload(seat, Remedy.RESTART)
        seat.health = replace(seat.health, is_working=True, is_dropped=False, due_at=None)
        self._tell(TelemetryEventType.PART_RECOVERED, replace(payload, recovered_in_sec=self._clock() - seat.lost_at))

    def _renew_workers(self) -> None:
        """Abandon the episodes in flight of all workers, which decided with a policy that is gone."""
        for worker in self.working():
            seat = self._seats[worker]
            old, committed = seat.life, seat.committed
            seat.life, seat.committed = self._new_life(), 0
            try:
                self._executor.check(self._executor.call(seat.part, "renew", seat.life))
            except PartLostError as error:
                seat.life, seat.committed = old, committed
                self.lost(worker, Fault.DIED, str(error))
                continue
            self._ask_store("abandon", seat.part.name, old, committed)

    def _new_life(self) -> int:
        self._newest += 1
        return self._newest

    def _ask_store(self, method: str, *args: Any) -> Any:
        deadline = self._clock() + self.call_timeout_sec
        while True:
            try:
                return self._answer(self._executor.call(self._store, method, *args), self._store)
            except PartLostError:
                if self._clock() > deadline:
                    raise
            time.sleep(RETRY_SEC)

    def _answer(self, ref: Ref, part: Any) -> Any:
        """Wait for a call to `part`, and see to telemetry's processes meanwhile, for which it may be waiting."""
        begun = self._clock()
        while not self._executor.wait([ref], POLL_SEC)[0]:
            self._end_silent_services()
            age = self._clock() - begun
            if age > self.call_timeout_sec:
                raise PartHungError(f"a call did not finish within {self.call_timeout_sec:g} s (cluster.call_timeout_sec)")
            if age > self.patience_sec and part not in self._services and self._pulse.is_silent(part):
                raise PartHungError(f"{part.name} gave no sign of life for {self._cluster.heartbeat_timeout_sec:g} s")
        return self._executor.get(ref)

    def _come_up(self, part: Part, should_stop: Callable[[], bool]) -> None:
        """Wait for a part that was just started. It may wait for room, so that silence says nothing of it.

        Raises:
            PartLostError: If it dies, or takes longer than a call may.
            InterruptedRound: If `should_stop` said so; the part is ended.
        """
        ref, begun = self._executor.call(part, "ready"), self._clock()
        while not self._executor.wait([ref], POLL_SEC)[0]:
            self._end_silent_services()
            try:
                _require_go(should_stop)
            except InterruptedRound:
                self._end(part)
                raise
            if self._clock() - begun > self.call_timeout_sec:
                raise PartHungError(f"did not come up within {self.call_timeout_sec:g} s (cluster.call_timeout_sec); is there room for it?")
        self._executor.check(ref)

    def _end_silent_services(self) -> None:
        for service in self._services:
            if self._pulse.is_silent(service):
                self._num_ended[service.name] += 1
                self._pulse.forget(service)
                service.restart()

    def _end(self, part: Part) -> None:
        self._pulse.forget(part)
        part.kill()

    def _payload(self, seat: _Seat, remedy: Remedy) -> PartFaultPayload:
        return PartFaultPayload(
            part=seat.part.name, fault=str(seat.fault), remedy=str(remedy), num_faults=seat.health.num_faults, life=seat.life
        )

    def _tell(self, event_type: TelemetryEventType, payload: PartFaultPayload) -> None:
        is_loss = event_type is TelemetryEventType.PART_LOST
        if self._emitter is not None:
            self._emitter.emit(TelemetryEvent(event_type, payload, severity="warning" if is_loss else "info"))


def _require_go(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise InterruptedRound("stopped by request while a learner was awaited; what came after the last checkpoint is replayed on resume")


def first_line(text: str) -> str:
    """What a long message begins with."""
    lines = text.strip().splitlines()
    return lines[0] if lines else ""
