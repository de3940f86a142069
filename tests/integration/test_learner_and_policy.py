"""The learner with the real policy: what their contract promises beyond what a small policy can show."""

from __future__ import annotations

import numpy as np
import pytest

from esper.leyline.rng import SeedTree
from esper.leyline.rollout import ActMode
from esper.simic.config import PPOConfig
from esper.simic.learner import Learner
from esper.tamiyo import TamiyoPolicy
from tests.simic.world import Episode, World, play_round
from tests.tamiyo.graphs import SMALL

WORLD = World(0)


def make_learner(config: PPOConfig) -> Learner:
    with SeedTree(0).torch_scope():
        return Learner(TamiyoPolicy(SMALL), config, SeedTree(7))


@pytest.mark.parametrize("popart", [True, False])
def test_only_popart_keeps_what_values_mean_while_their_statistics_move(popart: bool) -> None:
    """Steps too small to change a weight leave the statistics as all that an update moves."""
    learner = make_learner(PPOConfig(learning_rate=1e-30, epochs=1, popart=popart))
    message = Episode(WORLD, 9, tuple(range(6)), 99).message()
    told = []
    for episode in range(3):
        told.append(learner.act(message, ActMode.GREEDY).value)
        play_round(WORLD, learner, episode)
        learner.update()
    told.append(learner.act(message, ActMode.GREEDY).value)
    drift = max(float(np.abs(value - told[0]).max()) for value in told[1:])
    assert np.ptp(told[0]) > 1e-3
    assert (drift < 1e-5) == popart


def test_a_learner_that_rescales_values_continues_bit_for_bit() -> None:
    config = PPOConfig(learning_rate=0.01, epochs=1, popart=True)
    straight, resumed = make_learner(config), make_learner(config)
    play_round(WORLD, straight, 0)
    straight.update()
    resumed.load_state(straight.state_tensors(), straight.state_json())
    for learner in (straight, resumed):
        play_round(WORLD, learner, 1)
        learner.update()
    ours, theirs = straight.state_tensors(), resumed.state_tensors()
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name].numpy(), theirs[name].numpy()) for name in ours)
