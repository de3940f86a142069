"""Models of users that break under what training and validation do to them, beside others that do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.config import GrowthConfig
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.wrap import wrap
from esper.leyline.host import WrapError
from esper.leyline.load import ConfigError
from esper.leyline.rng import SeedTree
from esper.tolaria import EngineConfig, OneByOne, SequentialEngine, TrainingPlan
from esper.tolaria.data import Dataset
from esper.tolaria.engine.base import Evaluate, Evaluation, TrainEpoch
from esper.tolaria.engine.sequential import MOST_EVALUATED_ROWS
from esper.tolaria.engine.together import Together
from tests.fakes.users import NUM_CLASSES, Vectors, vectors
from tests.tolaria.populations import STANDARD, World, furthest
from tests.tolaria.trials import are_equal, weights

if TYPE_CHECKING:
    from esper.tolaria.engine.base import Call

PLAIN = World("mlp", dtype=torch.float32, sizes=(40, 20, 20))
NUM_VAL = MOST_EVALUATED_ROWS + 1
"""Samples of which the last one is evaluated by itself."""


class Whimsical(Vectors):
    """Answers with fewer classes as soon as it is told to."""

    num_classes = NUM_CLASSES

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return logits[:, : self.num_classes]


class Impatient(nn.Module):
    """Fails on a single sample, in training and in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 8)
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            raise IndexError("one sample is not enough")
        logits: Tensor = self.head(torch.relu(self.layer(x)))
        return logits


def engine_of(model: nn.Module, slot: str) -> SequentialEngine:
    generator = SeedTree(4).child("data").torch()
    counts = (40, NUM_VAL, 5)
    xs = [torch.randn(count, 10, generator=generator) for count in counts]
    ys = [torch.randint(NUM_CLASSES, (count,), generator=generator) for count in counts]
    data = Dataset(xs[0], ys[0], xs[1], ys[1], xs[2], ys[2], num_classes=NUM_CLASSES, kind="vector")
    host = wrap(model, [slot], example=vectors())
    grown = MorphogeneticModel(host, STANDARD, GrowthConfig(), SeedTree(7))
    return SequentialEngine(grown, data, EngineConfig(), plan=TrainingPlan(4, 20, 0.01), seeds=SeedTree(9))


def companions() -> list[SequentialEngine]:
    return PLAIN.engines(0, 2)


@pytest.mark.parametrize("call", [Evaluate("val", ((),)), TrainEpoch(0)])
def test_a_model_that_breaks_on_one_sample_is_evaluated_with_a_rest_of_one(call: Call) -> None:
    with SeedTree(1).torch_scope():
        engine = engine_of(Impatient(), "layer")
    alone, beside = companions(), companions()
    expected = [OneByOne().answer([(one, call)])[0] for one in alone]
    first, own, second = OneByOne().answer([(beside[0], call), (engine, Evaluate("val", ((),))), (beside[1], call)])
    assert furthest(expected, [first, second])[0] == 0.0
    assert all(are_equal(weights(a.model), weights(b.model)) for a, b in zip(alone, beside, strict=True))
    assert isinstance(own, Evaluation)
    with torch.no_grad():
        hits = engine.model.eval()(engine.dataset.val_x).argmax(-1) == engine.dataset.val_y
    assert own.accuracies[0] == pytest.approx(100.0 * float(hits.float().mean()))


@pytest.mark.parametrize("call", [Evaluate("val", ((),)), TrainEpoch(0)])
def test_logits_that_change_their_shape_are_refused_and_concern_nobody_else(call: Call) -> None:
    with SeedTree(1).torch_scope():
        user = Whimsical()
        engine = engine_of(user, "2")
    assert isinstance(OneByOne().answer([(engine, Evaluate("test", ((),)))])[0], Evaluation)
    user.num_classes = 3
    alone, beside = companions(), companions()
    expected = [OneByOne().answer([(one, call)])[0] for one in alone]
    for trainer in (OneByOne(), Together(lambda _: 0)):
        first, error, second = trainer.answer([(beside[0], call), (engine, call), (beside[1], call)])
        assert isinstance(error, WrapError)
        assert str(error).startswith("this Whimsical returned a float32 tensor [")
        assert str(error).endswith(f", 3], but logits [B, {NUM_CLASSES}] when it was wrapped; they need one shape")
        assert furthest(expected, [first, second])[0] == 0.0
        beside = companions()


def test_a_slot_that_does_not_exist_is_named() -> None:
    host = wrap(Vectors(), ["2"], example=vectors())
    with pytest.raises(ConfigError, match=r"growth\.slots: r7c7 do not exist; the host has r0c0"):
        MorphogeneticModel(host, STANDARD, GrowthConfig(slots=("r7c7",)), SeedTree(7))
