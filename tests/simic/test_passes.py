"""A pass hardly ever waits: what it tells is read at its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from esper.leyline.rng import SeedTree
from esper.leyline.uncompiled import AdamW
from esper.simic.config import PPOConfig
from esper.simic.learner import Learner
from tests.fakes.policy import FakePolicy
from tests.simic.world import NUM_CHANNELS, NUM_SLOTS, World, play_round

READS = ("tolist", "item", "__float__", "__int__", "__bool__", "cpu", "numpy", "nonzero", "isfinite")
NUM_PASSES = 3


class Reads(TorchFunctionMode):
    """Counts what would wait for a GPU, an index that is a mask included."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = getattr(func, "__name__", "")
        is_masked = name == "__getitem__" and isinstance(args[1], torch.Tensor) and args[1].dtype is torch.bool
        self.count[name] += name in READS or is_masked
        return func(*args, **(kwargs or {}))


def reads_of_an_update(config: PPOConfig) -> tuple[int, int]:
    """Reads, and optimizer steps."""
    with SeedTree(0).torch_scope():
        policy = FakePolicy(NUM_CHANNELS, NUM_SLOTS)
    learner = Learner(policy, config, SeedTree(7))
    play_round(World(0), learner, 0)
    with Reads() as reads:
        report = learner.update()
    return reads.count.total(), sum(each.num_steps for each in report.passes)


@pytest.fixture(autouse=True)
def _optimizers_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """They count their steps on the CPU wherever the parameters are, and read them there."""
    step = AdamW.step

    def uncounted(self: AdamW) -> Any:
        with torch._C.DisableTorchFunction():
            return step(self)

    monkeypatch.setattr(AdamW, "step", uncounted)


@pytest.mark.parametrize(("target_kl", "at_most"), [(None, 1), (1e6, 2)])
def test_a_step_is_waited_for_once_and_once_more_for_a_target(target_kl: float | None, at_most: int) -> None:
    config = PPOConfig(epochs=NUM_PASSES, target_kl=target_kl)
    few, many = (reads_of_an_update(replace(config, minibatch_size=size)) for size in (32, 4))
    assert many[1] > 2 * few[1]
    assert many[0] - few[0] <= at_most * (many[1] - few[1])
