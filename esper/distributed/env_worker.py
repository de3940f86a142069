"""A group of trials as a part: steps them, rewards them, shows them to the policy, and tells telemetry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esper.distributed.event_group import LEARNED, group_id
from esper.distributed.narrate import StepStory, tell_outcome, tell_step
from esper.leyline.actions import FactoredAction
from esper.leyline.reports import EpisodeOutcome, TrialReport
from esper.leyline.rollout import DecisionBatch, GroupId, StepBatch
from esper.simic.outcomes import episode_outcome
from esper.simic.rewards import compute_reward
from esper.simic.risk import growth_regression

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.distributed.env_watch import EnvWatch
    from esper.leyline.ports import GraphEncoder, ScriptedPolicy
    from esper.leyline.reward import RewardComponents
    from esper.nissa.emitter import BufferedEmitter, EmitterStats
    from esper.simic.config import RewardConfig
    from esper.tolaria.trial import EpisodeRequest, TrialBatch


@dataclass(frozen=True, slots=True)
class ScriptedSpec:
    """Which scripted policy plays."""

    name: str
    plan: tuple[tuple[int, int, int], ...] = ()
    """For `fixed`: epoch, slot index and blueprint place of each germination."""


class _Thought(NamedTuple):
    """What a policy thought when it decided for one trial; None is what it does not tell."""

    value: float | None
    confidence: float
    op_prob: list[float] | None


@dataclass(slots=True)
class _Diary:
    """What one trial did so far in its episode."""

    reports: list[TrialReport]
    rewards: list[float] = field(default_factory=list)


class EnvWorker:
    """Plays episodes, one group of trials at a time.

        step = worker.start(group, requests)
        while not step.done.all():
            step = worker.step(decide(step))
        outcomes = worker.outcomes()

    Args:
        trials: The trials.
        encoder: Makes the policy's observation.
        make_policy: Makes a scripted policy.
        reward: What is rewarded.
        gamma: PPO's discount.
        emitter: Way to telemetry.
        watch: Tells what lies beyond single steps.
        device: Where the hosts live.
        is_full: Whether to tell what is bulky, too.
        require_folder: Raises if what is told, and waits here on disk to be stored, would not lie in the run's folder; None where it must.
    """

    def __init__(  # noqa: PLR0913 - called once, in the composition root
        self,
        trials: TrialBatch,
        encoder: GraphEncoder,
        *,
        make_policy: Callable[[ScriptedSpec], ScriptedPolicy],
        reward: RewardConfig,
        gamma: float,
        emitter: BufferedEmitter,
        watch: EnvWatch,
        device: str,
        is_full: bool,
        require_folder: Callable[[], None] | None = None,
    ) -> None:
        self._trials = trials
        self._encoder = encoder
        self._make_policy = make_policy
        self._reward = reward
        self._gamma = gamma
        self._emitter = emitter
        self._watch = watch
        self._device = device
        self._is_full = is_full
        self._require_folder = require_folder
        self._reports: list[TrialReport] = []
        self._diaries: list[_Diary] = []
        self._group = 0
        self._step = 0
        self._policy = LEARNED

    def ready(self) -> str:
        """The device; answers once the part is built.

        Raises:
            ClusterError: If the run's folder is not to be seen from here.
        """
        if self._require_folder is not None:
            self._require_folder()
        return self._device

    def start(self, group: int, requests: Sequence[EpisodeRequest]) -> StepBatch:
        """Begin one episode per request; for learning, all of them have the same episode index."""
        self._begin(group, requests, LEARNED)
        size = len(requests)
        return StepBatch(
            key=self._key(),
            observation=self._encoder.build(self._reports),
            reward=np.full(size, np.nan, dtype=np.float32),
            done=np.zeros(size, dtype=bool),
            valid=np.ones(size, dtype=bool),
            regression=np.full(size, np.nan, dtype=np.float32),
            panicked=np.zeros(size, dtype=bool),
        )

    def step(self, decision: DecisionBatch) -> StepBatch:
        """Execute decisions, train an epoch, and report."""
        actions = [FactoredAction.from_row(row) for row in decision.actions.tolist()]
        valid = np.array([not report.done for report in self._reports])
        op_probs = decision.op_prob.tolist() if decision.op_prob is not None else [None] * len(actions)
        thoughts = [_Thought(*own) for own in zip(decision.value.tolist(), np.exp(decision.log_prob).tolist(), op_probs, strict=True)]
        rewards = self._advance(actions, thoughts)
        return StepBatch(
            key=self._key(),
            observation=self._encoder.build(self._reports),
            reward=np.array(rewards, dtype=np.float32),
            done=np.array([report.done for report in self._reports]),
            valid=valid,
            regression=np.array([growth_regression(diary.reports) for diary in self._diaries], dtype=np.float32),
            panicked=np.array([report.is_rolled_back for report in self._reports]),
        )

    def outcomes(self) -> list[EpisodeOutcome]:
        """How the episodes just played ended, in the order of their requests."""
        outcomes = []
        for trial, diary in zip(self._trials.trials, self._diaries, strict=True):
            outcome = episode_outcome(
                diary.reports, diary.rewards, context=trial.context.name, split=trial.request.split, config=self._reward
            )
            self._emitter.emit(tell_outcome(self._group_id(), outcome, policy=self._policy, reward_mode=self._reward.mode))
            outcomes.append(outcome)
        self._watch.finish(self._group_id(), self._reports, [trial.request.seeds for trial in self._trials.trials])
        self._emitter.flush()
        return outcomes

    def play_scripted(self, specs: Sequence[ScriptedSpec], requests: Sequence[EpisodeRequest]) -> list[EpisodeOutcome]:
        """Play whole episodes, each with its own scripted policy; the policies of a group have one name."""
        self._begin(0, requests, specs[0].name)
        players = [self._make_policy(spec) for spec in specs]
        for player, request in zip(players, requests, strict=True):
            player.reset(request.seeds.child("policy", player.name).numpy())
        while not all(report.done for report in self._reports):
            actions = [
                FactoredAction() if report.done else player.decide(report) for player, report in zip(players, self._reports, strict=True)
            ]
            self._advance(actions, [_Thought(None, 1.0, None)] * len(actions))
        return self.outcomes()

    def settle(self) -> int:
        """Wait until what was told is stored; returns the number of the last telemetry batch."""
        return self._emitter.settle()

    def telemetry_stats(self) -> EmitterStats:
        """What became of the events of this process, after waiting for the sink."""
        self._emitter.settle()
        return self._emitter.stats()

    def renew(self, incarnation: int) -> None:
        """Forget the episodes in flight and what of them was not told yet; what follows is told as another life."""
        self._emitter.renew(incarnation)

    def close(self) -> None:
        """Ship what telemetry is left."""
        self._watch.close()
        self._emitter.close(timeout_sec=None)

    def _begin(self, group: int, requests: Sequence[EpisodeRequest], policy: str) -> None:
        self._group = group
        self._step = 0
        self._policy = policy
        self._reports = self._trials.start(requests)
        self._diaries = [_Diary([report]) for report in self._reports]
        self._watch.begin(self._reports)

    def _advance(self, actions: Sequence[FactoredAction], thoughts: Sequence[_Thought]) -> list[float]:
        """Step the trials; returns each one's reward as the learner sees it, 0 for one that had ended."""
        before, after = self._reports, self._trials.step(actions)
        rewards = []
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            if old.done:
                rewards.append(0.0)
                continue
            reward = compute_reward(self._reward, old, new, actions[i], gamma=self._gamma)
            self._diaries[i].rewards.append(reward.total_reward)
            self._diaries[i].reports.append(new)
            rewards.append(self._reward.scale * reward.total_reward)
            self._tell(old, new, actions[i], reward, thoughts[i])
            self._watch.step(self._group_id(), i, new, actions[i].op.name)
        self._reports = after
        self._step += 1
        return rewards

    def _tell(self, before: TrialReport, report: TrialReport, action: FactoredAction, reward: RewardComponents, thought: _Thought) -> None:
        story = StepStory(
            group_id=self._group_id(),
            report=report,
            action=action,
            reward=reward,
            value_estimate=thought.value,
            confidence=thought.confidence,
            device=self._device,
            before=before,
            op_prob=thought.op_prob,
            reward_scale=self._reward.scale,
            is_full=self._is_full,
        )
        for event in tell_step(story):
            self._emitter.emit(event)

    def _key(self) -> GroupId:
        first = self._reports[0]
        return GroupId(
            group=self._group,
            env_ids=tuple(report.env_id for report in self._reports),
            episode_idx=first.episode_idx,
            step=self._step,
        )

    def _group_id(self) -> str:
        request = self._trials.trials[0].request
        return group_id(request.split, self._policy, request.episode_idx)
