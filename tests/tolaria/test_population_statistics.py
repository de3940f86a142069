"""Over many episodes the two ways to train give the same results on average, though rounding lets single ones drift apart."""

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
MAX_MEAN_POINTS = 0.25
"""Bound on the mean difference of accuracy and utility, in points; test accuracies are counted in steps of 2 points."""
WORLD = World(
    "cnn", dtype=torch.float32, growth=GrowthConfig(**OPEN, auto_advance=True), sizes=(96, 50, 50), max_epochs=10, augmentation="shift"
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
    accuracies = np.array([(a.test_accuracy, b.test_accuracy) for a, b in ends], dtype=float)
    utilities = np.array([(utility(a, reward), utility(b, reward)) for a, b in ends])
    assert accuracies.std(axis=0).min() > 1.0
    for scores in (accuracies, utilities):
        difference = scores[:, 1] - scores[:, 0]
        mean, half_width = difference.mean(), 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
        assert abs(mean) <= half_width, (mean, half_width)
        assert abs(mean) < MAX_MEAN_POINTS
