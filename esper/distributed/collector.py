"""Plays episodes: carries observations from environments to the learner and decisions back, as references.

It never looks into what it carries. Which worker answers first does not matter to the result: every batch is one worker's
trials, and randomness is keyed by trial. So an episode whose worker was lost is played again, elsewhere, with the same outcome.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from esper.distributed.executor import DataLostError, InterruptedRound, LearnerHungError, PartLostError, without_learner
from esper.distributed.supervise import Fault, overdue
from esper.leyline.rollout import ActMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.distributed.crew import Crew
    from esper.distributed.env_worker import ScriptedSpec
    from esper.distributed.executor import Executor, Ref
    from esper.leyline.reports import EpisodeOutcome
    from esper.tolaria.trial import EpisodeRequest

POLL_SEC = 0.25
"""Longest wait before it is asked whether to stop, who is overdue, and who is to be started again."""


class Collector:
    """Steps workers and learner until every episode asked for has ended.

    Args:
        executor: How parts are called.
        workers: Environment parts, each holding one group of trials.
        learner: The part that decides.
        num_steps: Steps of every episode.
        should_stop: Asked after each step; True abandons the episodes in flight.
        crew: Replaces workers that are lost; without it a loss ends the run.
    """

    def __init__(
        self,
        executor: Executor,
        workers: Sequence[Any],
        learner: Any,
        *,
        num_steps: int,
        should_stop: Callable[[], bool],
        crew: Crew | None = None,
    ) -> None:
        self._executor = executor
        self._workers = tuple(workers)
        self._learner = learner
        self._num_steps = num_steps
        self._should_stop = should_stop
        self._crew = crew

    def play(self, groups: Sequence[Sequence[EpisodeRequest]], mode: ActMode) -> list[EpisodeOutcome]:
        """Play one episode per request with the learner's policy.

        Whoever is idle takes the next group. At most one call per worker is under way, so nothing queues up in front of a
        slow part.

        Args:
            groups: Episodes that are played in lockstep.
            mode: How the learner decides, and whether it learns from it.

        Returns:
            Outcomes in the order of the requests.

        Raises:
            InterruptedRound: If `should_stop` said so.
            LearnerLostError: If the learner is gone; what this round brought is gone with it.
        """
        work = [(i, tuple(group)) for i, group in enumerate(groups)]
        return self._play([_LearnedGroup(self._executor, self._learner, own, self._num_steps, mode) for own in work])

    def play_scripted(self, policies: Sequence[Sequence[ScriptedSpec]], groups: Sequence[Sequence[EpisodeRequest]]) -> list[EpisodeOutcome]:
        """Play one episode per request, each with its own policy that needs no learner, inside the workers.

        Returns:
            Outcomes in the order of the requests.

        Raises:
            InterruptedRound: If `should_stop` said so.
        """
        return self._play([_ScriptedGroup(self._executor, tuple(p), tuple(g)) for p, g in zip(policies, groups, strict=True)])

    def _play(self, plays: Sequence[_Play]) -> list[EpisodeOutcome]:
        return _Round(self._executor, self._workers, plays, crew=self._crew, should_stop=self._should_stop).run()


class _Play(Protocol):
    """One group's episodes, call by call."""

    outcomes: Ref
    """Made by the last call but one."""

    def begin(self, worker: Any) -> Ref:
        """The first call; also when all is to be done again."""
        ...

    def check(self, ref: Ref) -> None:
        """Raise what went wrong with a call that has ended."""
        ...

    def proceed(self, worker: Any, ref: Ref) -> Ref | None:
        """The call that follows; None if that was the last, whose result is the number of the worker's last telemetry batch."""
        ...

    def is_stuck_in_learner(self) -> bool:
        """Whether the call under way waits for a decision."""
        ...

    def discard(self) -> None:
        """Undo what a lost worker's episodes left behind elsewhere."""
        ...


class _LearnedGroup:
    """start, then a decision and a step for every epoch, then outcomes, then settle."""

    def __init__(
        self, executor: Executor, learner: Any, work: tuple[int, tuple[EpisodeRequest, ...]], num_steps: int, mode: ActMode
    ) -> None:
        self._executor = executor
        self._learner = learner
        self._group, self._requests = work
        self._num_steps = num_steps
        self._mode = mode
        self._step = 0
        self._decision: Ref | None = None
        self.outcomes: Ref = None

    def begin(self, worker: Any) -> Ref:
        self._step, self._decision = 0, None
        return self._executor.call(worker, "start", self._group, self._requests)

    def check(self, ref: Ref) -> None:
        if self._decision is not None:
            try:
                self._executor.check(self._decision)
            except PartLostError as error:
                raise without_learner(error) from error
        self._executor.check(ref)

    def proceed(self, worker: Any, ref: Ref) -> Ref | None:
        step, self._step = self._step, self._step + 1
        if step <= self._num_steps:
            self._decision = self._executor.call(self._learner, "act", ref, self._mode)
        if step < self._num_steps:
            return self._executor.call(worker, "step", self._decision)
        if step == self._num_steps:
            self.outcomes = self._executor.call(worker, "outcomes")
            return self.outcomes
        return self._executor.call(worker, "settle") if step == self._num_steps + 1 else None

    def is_stuck_in_learner(self) -> bool:
        return self._decision is not None and not self._executor.is_done(self._decision)

    def discard(self) -> None:
        if self._mode is ActMode.TRAIN:
            self._executor.call(self._learner, "discard", self._group, self._requests[0].episode_idx)


class _ScriptedGroup:
    """play_scripted, then settle."""

    def __init__(self, executor: Executor, specs: tuple[ScriptedSpec, ...], requests: tuple[EpisodeRequest, ...]) -> None:
        self._executor = executor
        self._specs = specs
        self._requests = requests
        self.outcomes: Ref = None

    def begin(self, worker: Any) -> Ref:
        self.outcomes = self._executor.call(worker, "play_scripted", self._specs, self._requests)
        return self.outcomes

    def check(self, ref: Ref) -> None:
        self._executor.check(ref)

    def proceed(self, worker: Any, ref: Ref) -> Ref | None:
        return self._executor.call(worker, "settle") if ref is self.outcomes else None

    def is_stuck_in_learner(self) -> bool:
        return False

    def discard(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Call:
    worker: int
    group: int
    begun: float


class _Round:
    """Groups on their way through the workers."""

    def __init__(
        self, executor: Executor, workers: Sequence[Any], plays: Sequence[_Play], *, crew: Crew | None, should_stop: Callable[[], bool]
    ) -> None:
        self._executor = executor
        self._workers = workers
        self._plays = plays
        self._crew = crew
        self._should_stop = should_stop
        self._waiting = deque(range(len(plays)))
        self._idle = deque(crew.working() if crew else range(len(workers)))
        self._under_way: dict[Ref, _Call] = {}
        self._outcomes: dict[int, list[EpisodeOutcome]] = {}

    def run(self) -> list[EpisodeOutcome]:
        while len(self._outcomes) < len(self._plays):
            if self._crew:
                self._crew.begin_restarts()
                self._end_overdue(self._crew)
            while self._waiting and self._idle:
                self._begin(self._idle.popleft(), self._waiting.popleft())
            for ref in self._wait():
                self._take(ref)
            if self._should_stop():
                raise InterruptedRound("stopped by request while episodes were in flight; they will be replayed on resume")
        return [outcome for group in range(len(self._plays)) for outcome in self._outcomes[group]]

    def _begin(self, worker: int, group: int) -> None:
        self._put(self._plays[group].begin(self._workers[worker]), worker, group)

    def _put(self, ref: Ref, worker: int, group: int) -> None:
        self._under_way[ref] = _Call(worker, group, time.monotonic())

    def _wait(self) -> list[Ref]:
        refs = [*self._under_way, *(self._crew.starting if self._crew else ())]
        if not refs:
            time.sleep(POLL_SEC)
            return []
        return self._executor.wait(refs, POLL_SEC)[0]

    def _take(self, ref: Ref) -> None:
        """A call has ended: make the one that follows it."""
        if ref not in self._under_way:
            self._admit(ref)
            return
        call = self._under_way.pop(ref)
        play, worker = self._plays[call.group], self._workers[call.worker]
        try:
            play.check(ref)
            following = play.proceed(worker, ref)
            if following is not None:
                self._put(following, call.worker, call.group)
                return
            seq, outcomes = self._executor.get(ref), self._executor.get(play.outcomes)
        except (PartLostError, DataLostError) as error:
            fault = Fault.DIED if isinstance(error, PartLostError) else Fault.DATA_LOST
            self._lose(call, fault, error)
            return
        self._outcomes[call.group] = outcomes
        self._idle.append(call.worker)
        if self._crew:
            self._crew.committed(call.worker, seq)

    def _admit(self, ref: Ref) -> None:
        if self._crew and ref in self._crew.starting:
            worker = self._crew.started(ref)
            if worker is not None:
                self._idle.append(worker)

    def _end_overdue(self, crew: Crew) -> None:
        calls = {ref: call.begun for ref, call in self._under_way.items()}
        now = time.monotonic()
        too_late = overdue(calls, now, crew.call_timeout_sec)
        for ref in overdue(calls, now, crew.patience_sec):
            call = self._under_way[ref]
            is_in_learner = self._plays[call.group].is_stuck_in_learner()
            message = crew.find_silence(None if is_in_learner else call.worker)
            if ref in too_late:
                message = f"did not answer within {crew.call_timeout_sec:g} s (cluster.call_timeout_sec)"
            if message and is_in_learner:
                raise LearnerHungError(f"the learner {message}")
            if message:
                del self._under_way[ref]
                self._lose(call, Fault.HUNG, PartLostError(message))

    def _lose(self, call: _Call, fault: Fault, error: PartLostError | DataLostError) -> None:
        """Discard a lost worker's episodes whole, and let them be played again first."""
        if self._crew is None:
            raise error
        self._plays[call.group].discard()
        self._waiting.appendleft(call.group)
        self._crew.lost(call.worker, fault, str(error), work=f"group {call.group} of the round")
