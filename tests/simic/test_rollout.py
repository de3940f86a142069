from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from esper.leyline.actions import NUM_HEADS
from esper.leyline.rollout import ActMode, DecisionBatch, GroupId, StepBatch
from esper.simic.rollout import RolloutError, RolloutStore
from tests.fakes.policy import FakePolicy
from tests.simic.world import NUM_CHANNELS, NUM_SLOTS, World, play_round

Message = StepBatch | DecisionBatch


class Recorder:
    """Acts at random and keeps what went to and fro; decisions for ended trials are NaN."""

    def __init__(self) -> None:
        self.policy = FakePolicy(NUM_CHANNELS, NUM_SLOTS)
        self.messages: list[Message] = []

    def act(self, step: StepBatch, mode: ActMode = ActMode.TRAIN) -> DecisionBatch:
        key = step.key
        noise = np.random.default_rng([key.group, key.episode_idx, key.step]).random((len(key.env_ids), NUM_HEADS))
        output = self.policy.act(step.observation, noise)
        ended = np.where(step.done, np.nan, 1.0).astype(np.float32)
        value = np.arange(len(ended), dtype=np.float32) * ended
        decision = DecisionBatch(key, output.actions, output.log_prob * ended, value, output.head_log_prob, 0)
        self.messages += [step] if step.done.all() else [step, decision]
        return decision


def recorded(groups: tuple[int, ...] = (0, 1, 2)) -> list[Message]:
    torch.manual_seed(0)
    recorder = Recorder()
    for episode in (4, 5):
        play_round(World(0), recorder, episode, groups=groups, size=3)
    return recorder.messages


def fill(messages: list[Message]) -> RolloutStore:
    store = RolloutStore()
    for message in messages:
        if isinstance(message, StepBatch):
            store.observe(message)
        else:
            store.record(message)
    return store


def test_rows_are_ordered_by_environment_then_episode_then_step() -> None:
    rollout = fill(recorded()).assemble()
    keys = list(zip(rollout.env_id, rollout.episode_idx, rollout.step, strict=True))
    assert keys == sorted(keys)
    assert len(set(keys)) == len(rollout)
    assert set(rollout.env_id.tolist()) == set(range(9))
    assert rollout.done.sum() == 18


def test_arrival_order_does_not_matter() -> None:
    messages = recorded()
    straight = fill(messages).assemble()
    shuffled = [messages[i] for i in np.random.default_rng(1).permutation(len(messages))]
    mixed = fill(shuffled).assemble()
    for name in ("actions", "log_prob", "head_log_prob", "value", "reward", "done", "env_id", "step"):
        np.testing.assert_array_equal(getattr(straight, name), getattr(mixed, name))
    np.testing.assert_array_equal(straight.observations.nodes["layer"], mixed.observations.nodes["layer"])
    np.testing.assert_array_equal(straight.observations.masks.op, mixed.observations.masks.op)


def test_observations_and_rewards_belong_to_their_decisions() -> None:
    messages = recorded()
    rollout = fill(messages).assemble()
    steps = {(m.key.group, m.key.episode_idx, m.key.step): m for m in messages if isinstance(m, StepBatch)}
    for row in range(len(rollout)):
        group, member = divmod(int(rollout.env_id[row]), 3)
        episode, step = int(rollout.episode_idx[row]), int(rollout.step[row])
        seen = steps[group, episode, step].observation.nodes["layer"][member]
        np.testing.assert_array_equal(rollout.observations.nodes["layer"][row], seen)
        assert rollout.reward[row] == steps[group, episode, step + 1].reward[member]
        assert rollout.done[row] == steps[group, episode, step + 1].done[member]


def test_a_trial_that_ended_early_contributes_nothing_after_its_end() -> None:
    rollout = fill(recorded()).assemble()
    ends = rollout.to_grid(rollout.done.astype(np.float32))
    reward = rollout.to_grid(rollout.reward)
    assert np.isnan(reward).any(), "the world should end some trials early"
    for column in range(reward.shape[1]):
        length = int(np.flatnonzero(ends[:, column] == 1.0)[0]) + 1
        assert np.isfinite(reward[:length, column]).all()
        assert np.isnan(reward[length:, column]).all()
    np.testing.assert_array_equal(rollout.to_rows(reward), rollout.reward)


@pytest.mark.parametrize("kind", [StepBatch, DecisionBatch])
def test_what_is_missing_is_named(kind: type) -> None:
    messages = [m for m in recorded() if not (isinstance(m, kind) and (m.key.group, m.key.episode_idx, m.key.step) == (1, 5, 1))]
    with pytest.raises(RolloutError, match="group 1, episode 5, step 1 was never"):
        fill(messages).assemble()


@pytest.mark.parametrize("kind", [StepBatch, DecisionBatch])
def test_what_comes_twice_is_named(kind: type) -> None:
    messages = recorded()
    twice = next(m for m in messages if isinstance(m, kind) and m.key.step == 2)
    with pytest.raises(RolloutError, match=r"episode \d, step 2 was .* twice"):
        fill([*messages, twice])


def test_an_unfinished_episode_is_refused() -> None:
    messages = [m for m in recorded((0,)) if m.key.step < 2 or (m.key.step == 2 and isinstance(m, StepBatch))]
    with pytest.raises(RolloutError, match="still running"):
        fill(messages).assemble()


def test_poison_that_would_be_used_is_refused() -> None:
    messages = recorded((0,))
    first = next(i for i, m in enumerate(messages) if m.key.step == 1 and isinstance(m, StepBatch))
    step = messages[first]
    assert isinstance(step, StepBatch)
    messages[first] = replace(step, reward=np.full_like(step.reward, np.nan))
    with pytest.raises(RolloutError, match="reward is nan at env_id 0, episode_idx 4, step 0"):
        fill(messages).assemble()


def test_one_round_has_one_policy_version() -> None:
    messages = recorded((0,))
    last = next(i for i in reversed(range(len(messages))) if isinstance(messages[i], DecisionBatch))
    decision = messages[last]
    assert isinstance(decision, DecisionBatch)
    messages[last] = replace(decision, policy_version=3)
    with pytest.raises(RolloutError, match=r"versions \[0, 3\]"):
        fill(messages).assemble()


def test_an_environment_plays_in_one_group() -> None:
    messages = recorded((0,))
    stolen = [replace(m, key=GroupId(7, m.key.env_ids, m.key.episode_idx, m.key.step)) for m in messages]
    with pytest.raises(RolloutError, match="groups 0 and 7"):
        fill([*messages, *stolen]).assemble()


def test_a_discarded_episode_can_be_played_again() -> None:
    messages = recorded()
    store = fill(messages)
    store.discard(1, 5)
    for message in messages:
        if (message.key.group, message.key.episode_idx) == (1, 5):
            if isinstance(message, StepBatch):
                store.observe(message)
            else:
                store.record(message)
    np.testing.assert_array_equal(store.assemble().reward, fill(messages).assemble().reward)


def test_nothing_cannot_be_assembled() -> None:
    store = fill(recorded())
    store.clear()
    with pytest.raises(RolloutError, match="nothing"):
        store.assemble()
