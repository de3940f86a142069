"""Losses and replacements, with parts that fail on demand and without Ray."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from esper.distributed.collector import Collector
from esper.distributed.config import ClusterConfig
from esper.distributed.crew import Crew
from esper.distributed.driver import never
from esper.distributed.executor import DataLostError, InterruptedRound, LearnerLostError, LocalExecutor, PartLostError, RunFailedError
from esper.distributed.supervise import Fault
from esper.leyline.rollout import ActMode
from esper.leyline.telemetry import TelemetryEventType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.distributed.executor import Ref
    from tests.conftest import ListEmitter

CLUSTER = ClusterConfig(max_restarts=2, restart_delay_sec=0.0, regrow_sec=1000.0, call_timeout_sec=1000.0)
GROUPS: Any = [(f"{group}a", f"{group}b") for group in range(4)]
NUM_STEPS = 3


SILENCE = replace(CLUSTER, heartbeat_sec=0.01, heartbeat_timeout_sec=0.1)
"""Long before a call is late, whoever is at work on it is asked for a sign of life."""


class Lost:
    """A call whose part died, or that will never end."""

    def __init__(self, error: PartLostError | DataLostError | None) -> None:
        self.error = error


class FaultyExecutor(LocalExecutor):
    """Parts raise what a lost process would, and the caller sees it only when it looks; None of an answer never comes."""

    def call(self, part: Any, method: str, *args: Any) -> Ref:
        lost = next((arg for arg in args if isinstance(arg, Lost)), None)
        if lost is not None:
            return lost
        try:
            return super().call(part, method, *args)
        except (PartLostError, DataLostError) as error:
            return Lost(error)
        except TimeoutError:
            lost = Lost(None)
            if isinstance(part, Service):
                part.owed.append(lost)
            return lost

    def ping(self, part: Any) -> Ref:
        return Lost(None) if part.is_silent else super().ping(part)

    def wait(self, refs: Sequence[Ref], timeout_sec: float | None = None) -> tuple[list[Ref], list[Ref]]:
        ended = [ref for ref in refs if self.is_done(ref)]
        return ended, [ref for ref in refs if ref not in ended]

    def is_done(self, ref: Ref) -> bool:
        return not isinstance(ref, Lost) or ref.error is not None

    def check(self, ref: Ref) -> None:
        if isinstance(ref, Lost) and ref.error is not None:
            raise ref.error

    def get(self, ref: Ref) -> Any:
        self.check(ref)
        return super().get(ref)


class Worker:
    """An environment part that fails at given calls, counted over all its lives; of a hung one the process may have stopped, too."""

    def __init__(
        self, name: str, deaths: Sequence[int] = (), hangs: Sequence[int] = (), losses: Sequence[int] = (), *, stops: bool = False
    ) -> None:
        self.name = name
        self._losses = set(losses)
        self.lives = [0]
        self.is_alive = True
        self.is_silent = False
        self._stops = stops
        self._deaths = set(deaths)
        self._hangs = set(hangs)
        self._num_calls = 0
        self._requests: tuple[Any, ...] = ()

    def replace(self, incarnation: int) -> None:
        self.lives.append(incarnation)
        self.is_alive = True
        self.is_silent = False

    def kill(self) -> None:
        self.is_alive = False

    def ready(self) -> None:
        self._answer()

    def start(self, group: int, requests: tuple[Any, ...]) -> tuple[int, int]:
        self._answer()
        self._requests = requests
        return group, 0

    def step(self, decision: tuple[int, int]) -> tuple[int, int]:
        self._answer()
        return decision[0], decision[1] + 1

    def outcomes(self) -> list[Any]:
        self._answer()
        return list(self._requests)

    def settle(self) -> int:
        self._answer()
        return 7

    def renew(self, incarnation: int) -> None:
        self.lives.append(incarnation)

    def _answer(self) -> None:
        self._num_calls += 1
        if self._num_calls in self._losses:
            raise DataLostError(f"what {self.name} handed over is lost")
        if self._num_calls in self._deaths:
            self.is_alive = False
        if self._num_calls in self._hangs or self.is_silent:
            self.is_silent = self._stops
            raise TimeoutError
        if not self.is_alive:
            raise PartLostError(f"{self.name} has died")


class Learner(Worker):
    """Refuses to see a step twice, as the real one does."""

    def __init__(self, deaths: Sequence[int] = (), hangs: Sequence[int] = (), *, stops: bool = False) -> None:
        super().__init__("learner", deaths, hangs, stops=stops)
        self.seen: set[tuple[int, int]] = set()

    def act(self, step: tuple[int, int], mode: ActMode) -> tuple[int, int]:
        self._answer()
        assert mode is not ActMode.TRAIN or step not in self.seen
        self.seen.add(step)
        return step

    def discard(self, group: int, episode_idx: int) -> None:
        self.seen = {step for step in self.seen if step[0] != group}


class Service:
    """A process of telemetry's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_silent = False
        self.num_restarts = 0
        self.owed: list[Lost] = []

    def restart(self) -> None:
        self.is_silent = False
        self.num_restarts += 1
        for call in self.owed:
            call.error = PartLostError(f"{self.name} has died")


class Store(Service):
    """Telemetry, as far as a crew asks it."""

    def __init__(self) -> None:
        super().__init__("sink")
        self.abandoned: list[tuple[str, int, int]] = []

    def abandon(self, source: str, incarnation: int, after_seq: int) -> int:
        if self.is_silent:
            raise TimeoutError
        self.abandoned.append((source, incarnation, after_seq))
        return 0

    def outages(self) -> tuple[int, int]:
        if self.is_silent:
            raise TimeoutError
        return 2, 1


class Request(str):
    """An episode; of an episode the collector itself knows only this."""

    episode_idx = 0


class Setup:
    """A collector with parts that fail."""

    def __init__(self, workers: Sequence[Worker], learner: Learner | None = None, cluster: ClusterConfig = CLUSTER) -> None:
        self.workers, self.learner, self.store, self.queue = list(workers), learner or Learner(), Store(), Service("queue")
        self.executor = executor = FaultyExecutor()
        self.crew = Crew(executor, self.workers, self.learner, (self.store, self.queue), incarnation=5, cluster=cluster)
        self._collector = Collector(executor, self.workers, self.learner, num_steps=NUM_STEPS, should_stop=lambda: False, crew=self.crew)

    def play(self, mode: ActMode = ActMode.TRAIN) -> list[Any]:
        groups: Any = [tuple(Request(name) for name in group) for group in GROUPS]
        return list(self._collector.play(groups, mode))


EXPECTED = [name for group in GROUPS for name in group]
CALLS_PER_GROUP = NUM_STEPS + 3
"""start, the steps, outcomes, settle."""


@pytest.mark.parametrize("death", range(1, 2 * CALLS_PER_GROUP + 1))
def test_whenever_a_worker_dies_every_episode_is_played_whole(death: int) -> None:
    setup = Setup([Worker("env-0", deaths=[death]), Worker("env-1")])
    assert setup.play() == EXPECTED
    assert setup.learner.seen == {(group, step) for group in range(len(GROUPS)) for step in range(NUM_STEPS + 1)}


def test_what_a_lost_worker_told_of_unfinished_work_is_taken_back() -> None:
    setup = Setup([Worker("env-0", deaths=[CALLS_PER_GROUP + 2])])
    assert setup.play() == EXPECTED
    assert setup.store.abandoned == [("env-0", 5, 7)]
    assert setup.workers[0].lives == [0, 6]


def test_a_hung_worker_is_replaced_after_its_deadline() -> None:
    setup = Setup([Worker("env-0", hangs=[3])], cluster=replace(CLUSTER, call_timeout_sec=0.05))
    assert setup.play() == EXPECTED
    assert setup.workers[0].lives == [0, 6]


@pytest.mark.parametrize("call", range(1, CALLS_PER_GROUP + 1))
def test_what_vanished_on_its_way_is_made_once_more_by_another_life(call: int, list_emitter: ListEmitter) -> None:
    setup = Setup([Worker("env-0", losses=[call]), Worker("env-1")])
    setup.crew.report_to(list_emitter)
    assert setup.play() == EXPECTED
    assert setup.learner.seen == {(group, step) for group in range(len(GROUPS)) for step in range(NUM_STEPS + 1)}
    (told,) = [event.data for event in list_emitter.of_type(TelemetryEventType.PART_LOST)]
    assert (told.part, told.fault, told.remedy) == ("env-0", "data_lost", "restart")  # type: ignore[union-attr]


def test_lost_data_without_anyone_to_make_it_again_ends_the_run() -> None:
    collector = Collector(FaultyExecutor(), [Worker("env-0", losses=[2])], Learner(), num_steps=NUM_STEPS, should_stop=lambda: False)
    with pytest.raises(DataLostError, match="what env-0 handed over is lost"):
        collector.play(GROUPS, ActMode.GREEDY)


@pytest.mark.parametrize("call", range(1, CALLS_PER_GROUP + 1))
def test_a_worker_that_gives_no_sign_of_life_is_replaced_long_before_its_deadline(call: int, list_emitter: ListEmitter) -> None:
    setup = Setup([Worker("env-0", hangs=[call], stops=True), Worker("env-1")], cluster=SILENCE)
    setup.crew.report_to(list_emitter)
    assert setup.play() == EXPECTED
    assert setup.workers[0].lives[:2] == [0, 6]
    assert setup.workers[1].lives == [0]
    (told,) = [event.data for event in list_emitter.of_type(TelemetryEventType.PART_LOST)]
    assert (told.part, told.fault, told.detail) == ("env-0", "hung", "gave no sign of life for 0.1 s")  # type: ignore[union-attr]


def test_a_worker_that_is_slow_and_alive_is_waited_for() -> None:
    setup = Setup([Worker("env-0", hangs=[3])], cluster=replace(SILENCE, call_timeout_sec=0.5))
    begun = time.monotonic()
    assert setup.play() == EXPECTED
    assert time.monotonic() - begun > 0.5


def test_silence_in_the_learner_is_not_blamed_on_the_workers_that_wait_for_it() -> None:
    setup = Setup([Worker("env-0"), Worker("env-1")], Learner(hangs=[3], stops=True), cluster=SILENCE)
    with pytest.raises(LearnerLostError, match=r"the learner gave no sign of life for 0\.1 s"):
        setup.play()
    assert [worker.lives for worker in setup.workers] == [[0], [0]]


def test_a_silent_learner_is_found_while_nobody_plays() -> None:
    setup = Setup([Worker("env-0")], Learner(hangs=[1], stops=True), cluster=SILENCE)
    ref = setup.executor.call(setup.learner, "ready")
    with pytest.raises(PartLostError, match=r"learner gave no sign of life for 0\.1 s"):
        setup.crew.answer_of_learner(ref)


@pytest.mark.parametrize("name", ["store", "queue"])
def test_a_silent_process_of_telemetrys_is_ended_and_told_of(name: str, list_emitter: ListEmitter) -> None:
    setup = Setup([Worker("env-0", hangs=[3])], cluster=replace(SILENCE, call_timeout_sec=1.0))
    service = getattr(setup, name)
    service.is_silent = True
    setup.crew.report_to(list_emitter)
    assert setup.play() == EXPECTED
    assert service.num_restarts == 1
    setup.crew.look_at_store()
    told = {event.data.part: event.data.fault for event in list_emitter.of_type(TelemetryEventType.PART_LOST)}  # type: ignore[union-attr]
    assert told[service.name] == "hung"


def test_the_store_is_asked_again_once_its_silence_is_ended() -> None:
    setup = Setup([Worker("env-0")], cluster=SILENCE)
    setup.store.is_silent = True
    setup.crew.look_at_store()
    assert setup.store.num_restarts == 1


def test_a_worker_that_keeps_failing_is_dropped_and_the_others_go_on(list_emitter: ListEmitter) -> None:
    setup = Setup([Worker("env-0", deaths=range(1, 100)), Worker("env-1")])
    setup.crew.report_to(list_emitter)
    for _ in range(4):
        assert setup.play(ActMode.GREEDY) == EXPECTED
    assert setup.crew.working() == [1]
    told = Counter(event.data.remedy for event in list_emitter.of_type(TelemetryEventType.PART_LOST))  # type: ignore[union-attr]
    assert told == {"restart": 2, "drop": 1}


def test_a_dropped_worker_grows_back() -> None:
    setup = Setup([Worker("env-0", deaths=[1, 2, 3]), Worker("env-1")], cluster=replace(CLUSTER, regrow_sec=0.001))
    for _ in range(8):
        time.sleep(0.002)
        assert setup.play(ActMode.GREEDY) == EXPECTED
    assert setup.crew.working() == [0, 1]


def test_without_any_worker_the_run_fails() -> None:
    with pytest.raises(RunFailedError, match=r"cluster\.max_restarts=2.*no other environment actor"):
        Setup([Worker("env-0", deaths=range(1, 100)), Worker("env-1", deaths=range(1, 100))]).play()


def test_a_lost_learner_ends_the_round_and_its_workers_begin_new_lives(list_emitter: ListEmitter) -> None:
    setup = Setup([Worker("env-0"), Worker("env-1")], Learner(deaths=[6]))
    setup.crew.report_to(list_emitter)
    with pytest.raises(LearnerLostError):
        setup.play()
    setup.crew.replace_learner(Fault.DIED, "died", work="rounds after 0", should_stop=never)
    setup.learner.seen.clear()
    assert setup.play() == EXPECTED
    assert setup.store.abandoned == [("learner", 5, 0), ("env-0", 5, 0), ("env-1", 5, 0)]
    assert [event.data.part for event in list_emitter.of_type(TelemetryEventType.PART_RECOVERED)] == ["learner"]  # type: ignore[union-attr]


def test_a_learner_that_keeps_dying_ends_the_run() -> None:
    setup = Setup([Worker("env-0")], Learner(deaths=range(1, 100)))
    with pytest.raises(RunFailedError, match=r"learner was lost 3 times"):
        setup.crew.replace_learner(Fault.DIED, "died", work="", should_stop=never)


def test_a_learner_for_which_there_is_no_room_is_given_up_although_each_wait_outlasts_the_window() -> None:
    cluster = replace(CLUSTER, call_timeout_sec=0.5, restart_window_sec=0.4)
    setup = Setup([Worker("env-0")], Learner(hangs=range(1, 100)), cluster=cluster)
    with pytest.raises(RunFailedError, match=r"learner was lost 3 times.*did not come up within 0\.5 s"):
        setup.crew.replace_learner(Fault.DIED, "died", work="", should_stop=never)


@pytest.mark.parametrize("delay_sec", [0.0, 1000.0])
def test_who_waits_for_a_learner_can_be_stopped(delay_sec: float) -> None:
    cluster = replace(CLUSTER, restart_delay_sec=delay_sec, restart_delay_max_sec=delay_sec)
    setup = Setup([Worker("env-0")], Learner(hangs=range(1, 100)), cluster=cluster)
    answers = iter([False, True])
    with pytest.raises(InterruptedRound, match="while a learner was awaited"):
        setup.crew.replace_learner(Fault.DIED, "died", work="", should_stop=lambda: next(answers))
    assert not setup.learner.is_alive


def test_workers_for_which_there_is_no_room_end_the_run_although_each_wait_outlasts_the_window() -> None:
    cluster = replace(CLUSTER, call_timeout_sec=1.5, restart_window_sec=1.4)
    setup = Setup([Worker("env-0", deaths=[2], hangs=range(3, 100))], cluster=cluster)
    with pytest.raises(RunFailedError, match=r"env-0 was lost 3 times.*did not come up within 1\.5 s"):
        setup.play()


def test_outages_of_telemetry_are_told_and_counted_once(list_emitter: ListEmitter) -> None:
    setup = Setup([Worker("env-0")])
    setup.crew.report_to(list_emitter)
    setup.crew.look_at_store()
    setup.crew.look_at_store()
    assert [event.data.part for event in list_emitter.of_type(TelemetryEventType.PART_LOST)] == ["sink", "queue"]  # type: ignore[union-attr]
    assert setup.crew.num_faults == 2


def test_a_loss_without_anyone_to_replace_it_ends_the_run() -> None:
    executor = FaultyExecutor()
    collector = Collector(executor, [Worker("env-0", deaths=[2])], Learner(), num_steps=2, should_stop=lambda: False)
    with pytest.raises(PartLostError, match="env-0 has died"):
        collector.play(GROUPS, ActMode.GREEDY)
