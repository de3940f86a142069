"""Plays episodes: carries observations from environments to the learner and decisions back, as references.

It never looks into what it carries. Which worker answers first does not matter to the result: every batch is one worker's
trials, and randomness is keyed by trial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.distributed.env_worker import ScriptedSpec
    from esper.distributed.executor import Executor, Ref
    from esper.leyline.reports import EpisodeOutcome
    from esper.tolaria.trial import EpisodeRequest


class InterruptedRound(Exception):  # noqa: N818
    """The user asked to stop; the episodes in flight were dropped."""


class Collector:
    """Steps workers and learner until every episode asked for has ended.

    Args:
        executor: How parts are called.
        workers: Environment parts, each holding one group of trials.
        learner: The part that decides.
        num_steps: Steps of every episode.
        should_stop: Asked after each step; True abandons the episodes in flight.
    """

    def __init__(
        self, executor: Executor, workers: Sequence[Any], learner: Any, *, num_steps: int, should_stop: Callable[[], bool]
    ) -> None:
        self._executor = executor
        self._workers = tuple(workers)
        self._learner = learner
        self._num_steps = num_steps
        self._should_stop = should_stop

    def play(self, groups: Sequence[Sequence[EpisodeRequest]], *, greedy: bool) -> list[EpisodeOutcome]:
        """Play one episode per request with the learner's policy.

        Groups are dealt to workers in order and one worker plays its groups one after another. At most one call per worker
        is under way, so nothing queues up in front of a slow part.

        Args:
            groups: Episodes that are played in lockstep.
            greedy: Take the most probable action and do not record transitions for learning.

        Returns:
            Outcomes in the order of the requests.

        Raises:
            InterruptedRound: If `should_stop` said so.
        """
        waiting = [list(range(w, len(groups), len(self._workers)))[::-1] for w in range(len(self._workers))]
        outcomes: dict[int, Ref] = {}
        under_way: dict[Ref, tuple[int, int, int]] = {}

        def begin(worker: int) -> None:
            if waiting[worker]:
                group = waiting[worker].pop()
                ref = self._executor.call(self._workers[worker], "start", group, tuple(groups[group]))
                under_way[ref] = (worker, group, 0)

        for worker in range(len(self._workers)):
            begin(worker)
        while under_way:
            ready, _ = self._executor.wait(list(under_way))
            for ref in ready:
                worker, group, step = under_way.pop(ref)
                decision = self._executor.call(self._learner, "act", ref, greedy)
                if step < self._num_steps:
                    under_way[self._executor.call(self._workers[worker], "step", decision)] = (worker, group, step + 1)
                else:
                    self._executor.get(decision)
                    outcomes[group] = self._executor.call(self._workers[worker], "outcomes")
                    begin(worker)
            if self._should_stop():
                raise InterruptedRound("stopped by request while episodes were in flight; they will be replayed on resume")
        return [outcome for group in range(len(groups)) for outcome in self._executor.get(outcomes[group])]

    def play_scripted(self, policies: Sequence[Sequence[ScriptedSpec]], groups: Sequence[Sequence[EpisodeRequest]]) -> list[EpisodeOutcome]:
        """Play one episode per request, each with its own policy that needs no learner, inside the workers.

        Returns:
            Outcomes in the order of the requests.

        Raises:
            InterruptedRound: If `should_stop` said so.
        """
        outcomes: dict[int, list[EpisodeOutcome]] = {}
        under_way: dict[Ref, tuple[int, int]] = {}
        waiting = list(range(len(groups)))[::-1]
        idle = list(range(len(self._workers)))
        while waiting or under_way:
            while waiting and idle:
                worker, group = idle.pop(0), waiting.pop()
                ref = self._executor.call(self._workers[worker], "play_scripted", tuple(policies[group]), tuple(groups[group]))
                under_way[ref] = (worker, group)
            ready, _ = self._executor.wait(list(under_way))
            for ref in ready:
                worker, group = under_way.pop(ref)
                outcomes[group] = self._executor.get(ref)
                idle.append(worker)
            if self._should_stop():
                raise InterruptedRound("stopped by request while scripted episodes were in flight")
        return [outcome for group in range(len(groups)) for outcome in outcomes[group]]
