"""Signs of life: tells a part that is busy from one that has stopped. Who is asked, and what silence means, others decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from esper.distributed.executor import Ref

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.distributed.executor import Executor


class Named(Protocol):
    """A part that can be asked."""

    name: str


@dataclass(slots=True)
class _Question:
    ref: Ref
    """None once it is answered."""
    since: float
    looked_at: float


class Pulse:
    """Asks parts for signs of life, each at most every so often and one question at a time.

        if pulse.is_silent(part): replace(part); pulse.forget(part)

    Args:
        executor: How parts are asked; the answer does not wait for the call that a part is at work on.
        every_sec: Time between an answer and the next question; 0 never asks.
        timeout_sec: Time without an answer after which a part is silent.
        clock: Monotonic seconds.
    """

    def __init__(self, executor: Executor, *, every_sec: float, timeout_sec: float, clock: Callable[[], float]) -> None:
        self._executor = executor
        self._every_sec = every_sec
        self._timeout_sec = timeout_sec
        self._clock = clock
        self._questions: dict[str, _Question] = {}

    def is_silent(self, part: Any) -> bool:
        """Ask if it is time to; returns whether the part has owed its answer for too long.

        A caller that itself has not looked for long has not listened either, so that the wait begins anew.
        """
        if not self._every_sec:
            return False
        now, question = self._clock(), self._questions.get(part.name)
        if question is None or (question.ref is None and now - question.since >= self._every_sec):
            self._questions[part.name] = _Question(self._executor.ping(part), now, now)
            return False
        gap, question.looked_at = now - question.looked_at, now
        if question.ref is None:
            return False
        if self._executor.is_done(question.ref):
            question.ref, question.since = None, now
            return False
        if gap > self._timeout_sec / 2:
            question.since = now
        return now - question.since > self._timeout_sec

    def forget(self, part: Named) -> None:
        """Another process fills the part; it owes nothing."""
        self._questions.pop(part.name, None)
