"""Over many episodes the two ways to train give the same results on average, though rounding lets losses drift apart a little."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from esper.kasmina.config import GrowthConfig
from esper.simic.config import RewardConfig
from esper.simic.rewards.utility import utility
from esper.tolaria import OneByOne
from tests.tolaria.populations import OPEN, World, as_one, play

if TYPE_CHECKING:
    from esper.leyline.reports import TrialReport

EPISODES = 200
AT_ONCE = 20
MAX_MEAN_POINTS = 0.1
"""Bound on the mean difference of test accuracy and utility; one of the 100 samples is a point."""
MAX_MEAN_LOSS = 1e-3
"""Bound on the mean difference of the last training loss, in nats; seen: 1e-5, and 3e-4 in single episodes."""
WORLD = World(
    "cnn", dtype=torch.float32, growth=GrowthConfig(**OPEN, auto_advance=True), sizes=(320, 100, 100), max_epochs=12, augmentation="shift"
)


def pairs() -> list[tuple[TrialReport, TrialReport]]:
    """Last report of every episode, trained one by one and as one."""
    found = []
    for first in range(0, EPISODES, AT_ONCE):
        members = range(first, first + AT_ONCE)
        alone, together = (play(WORLD, trainer, seed=9, members=members) for trainer in (OneByOne(), as_one()))
        found += [(a[-1], b[-1]) for a, b in zip(alone, together, strict=True)]
    return found


@pytest.mark.slow
def test_the_engines_differ_by_nothing_on_average() -> None:
    reward, ends = RewardConfig(), pairs()
    assert len(ends) == EPISODES
    accuracy = np.array([(a.test_accuracy, b.test_accuracy) for a, b in ends], dtype=float)
    worth = np.array([(utility(a, reward), utility(b, reward)) for a, b in ends])
    loss = np.array([(a.train_loss, b.train_loss) for a, b in ends], dtype=float)
    for scores in (accuracy, worth):
        assert scores.std(axis=0).min() > 1.0
        difference = scores[:, 1] - scores[:, 0]
        mean, half_width = difference.mean(), 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
        assert abs(mean) <= half_width, (mean, half_width)
        assert abs(mean) < MAX_MEAN_POINTS
    difference = loss[:, 1] - loss[:, 0]
    assert abs(difference.mean()) < MAX_MEAN_LOSS
    assert difference.any()
