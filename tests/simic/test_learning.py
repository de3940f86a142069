"""PPO finds the optimum of small worlds, where dynamic programming says what it is."""

from __future__ import annotations

import numpy as np
import pytest

from esper.leyline.rng import SeedTree
from esper.leyline.rollout import ActMode
from esper.simic.config import PPOConfig
from esper.simic.learner import Learner
from tests.fakes.policy import FakePolicy
from tests.simic.world import NUM_CHANNELS, NUM_SLOTS, World, play_round


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_ppo_comes_within_two_percent_of_the_optimum_of_a_known_world(seed: int) -> None:
    world = World(seed)
    with SeedTree(seed).torch_scope():
        policy = FakePolicy(NUM_CHANNELS, NUM_SLOTS)
    config = PPOConfig(learning_rate=0.01, minibatch_size=64, entropy_coef=0.02, entropy_coef_final=0.0, anneal_updates=45)
    learner = Learner(policy, config, SeedTree(seed))
    first = play_round(world, learner, 0).mean()
    learner.update()
    for episode in range(1, 60):
        play_round(world, learner, episode)
        report = learner.update()
    best = world.optimum()
    greedy = world.play(learner, 0, (0, 1, 2), episode=1000, mode=ActMode.GREEDY)
    assert first < best.mean() - 0.5
    assert greedy == pytest.approx(best, rel=0.02)
    assert report.mean_episode_return > best.mean() - 0.3
    assert report.values.value_prediction_error_std < np.abs(best).max()
