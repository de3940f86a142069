from __future__ import annotations

from typing import Any

from esper.distributed.executor import LocalExecutor
from esper.distributed.pulse import Pulse


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Part:
    """One that may be asked."""

    def __init__(self, name: str = "env-0") -> None:
        self.name = name
        self.num_asked = 0
        self.answers = True


class Switchboard(LocalExecutor):
    """Counts questions, and knows whether they are answered."""

    def ping(self, part: Any) -> Any:
        part.num_asked += 1
        return part

    def is_done(self, ref: Any) -> bool:
        return bool(ref.answers)


def pulse(clock: Clock, every_sec: float = 10.0) -> Pulse:
    return Pulse(Switchboard(), every_sec=every_sec, timeout_sec=60.0, clock=clock)


def watch(watcher: Pulse, part: Part, clock: Clock, seconds: int) -> list[bool]:
    """What is said of the part, second by second."""
    said = []
    for _ in range(seconds):
        clock.advance(1.0)
        said.append(watcher.is_silent(part))
    return said


def test_a_part_that_answers_is_asked_now_and_then_and_never_silent() -> None:
    clock, part = Clock(), Part()
    assert not any(watch(pulse(clock), part, clock, 100))
    assert 8 <= part.num_asked <= 10


def test_a_part_that_owes_an_answer_for_too_long_is_silent() -> None:
    clock, part = Clock(), Part()
    watcher = pulse(clock)
    assert not any(watch(watcher, part, clock, 30))
    part.answers = False
    said = watch(watcher, part, clock, 90)
    assert said == [False] * said.index(True) + [True] * (90 - said.index(True))
    assert 60 <= said.index(True) <= 72


def test_an_answer_that_comes_late_is_an_answer() -> None:
    clock, part = Clock(), Part()
    watcher = pulse(clock)
    part.answers = False
    assert not any(watch(watcher, part, clock, 50))
    part.answers = True
    assert not any(watch(watcher, part, clock, 100))


def test_a_caller_that_was_away_has_not_listened() -> None:
    clock, part = Clock(), Part()
    watcher = pulse(clock)
    part.answers = False
    watcher.is_silent(part)
    clock.advance(1000.0)
    assert not watcher.is_silent(part)
    assert any(watch(watcher, part, clock, 70))


def test_whoever_takes_the_place_of_a_silent_part_begins_anew() -> None:
    clock, part = Clock(), Part()
    watcher = pulse(clock)
    part.answers = False
    assert any(watch(watcher, part, clock, 70))
    watcher.forget(part)
    assert not any(watch(watcher, part, clock, 50))


def test_parts_are_told_apart() -> None:
    clock, silent, alive = Clock(), Part("env-0"), Part("env-1")
    watcher = pulse(clock)
    silent.answers = False
    for _ in range(80):
        clock.advance(1.0)
        said = watcher.is_silent(silent), watcher.is_silent(alive)
    assert said == (True, False)


def test_without_an_interval_nobody_is_asked() -> None:
    clock, part = Clock(), Part()
    part.answers = False
    assert not any(watch(pulse(clock, every_sec=0.0), part, clock, 200))
    assert part.num_asked == 0
