"""Training of models that users wrote in ways which get between a seed and its gradient, and of compiled ones."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch

from esper.kasmina.config import GrowthConfig
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.surgery import GrowthTransaction
from esper.kasmina.wrap import wrap
from esper.leyline.actions import FactoredAction, LifecycleOp
from esper.leyline.rng import SeedTree
from esper.tolaria import EngineConfig, SequentialEngine, TrainingPlan
from esper.tolaria.data import Dataset
from tests.fakes.users import NUM_CLASSES, Backboned, Padded, padded
from tests.tolaria.populations import STANDARD

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


def engine_of(make: Callable[[], nn.Module], slots: Any, x: Tensor, y: Tensor, **config: Any) -> SequentialEngine:
    """One seed in the first slot."""
    data = Dataset(x, y, x[:20], y[:20], x[20:], y[20:], num_classes=NUM_CLASSES, kind="tokens" if y.ndim == 2 else "vector")
    if y.ndim == 2:
        data = replace(data, vocab_size=11)
    with SeedTree(1).torch_scope():
        host = wrap(make(), slots, example=x[:4])
    model = MorphogeneticModel(host, STANDARD, GrowthConfig(), SeedTree(7))
    engine = SequentialEngine(model, data, EngineConfig(**config), plan=TrainingPlan(4, 20, 0.01), seeds=SeedTree(9))
    blueprint = int(model.masks().blueprint[0].nonzero()[0][1])
    with GrowthTransaction(model, engine.optimizer):
        for op in (LifecycleOp.GERMINATE, LifecycleOp.ADVANCE):
            model.apply(FactoredAction(op=op, slot=0, blueprint=blueprint), val_accuracy=20.0)
    return engine


def vector_data() -> tuple[Tensor, Tensor]:
    generator = SeedTree(4).child("data").torch()
    return torch.randn(40, 10, generator=generator), torch.randint(NUM_CLASSES, (40,), generator=generator)


def weights(engine: SequentialEngine, part: str) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in engine.model.named_parameters() if name.startswith(part)}


@pytest.mark.parametrize("kind", ["recomputed", "reentrant"])
def test_a_checkpointed_model_trains_its_seed_as_one_that_is_not(kind: Literal["recomputed", "reentrant"]) -> None:
    engines = [engine_of(lambda k=k: Backboned(k, always=False), ["body.1"], *vector_data()) for k in ("plain", kind)]  # type: ignore[misc]
    before = weights(engines[1], "slots.")
    losses = [[engine.train_epoch(epoch).loss for epoch in range(2)] for engine in engines]
    assert losses[0] == pytest.approx(losses[1])
    expected, found = (weights(engine, "") for engine in engines)
    torch.testing.assert_close(found, expected)
    assert any(not torch.equal(found[name], tensor) for name, tensor in before.items())
    assert engines[0].evaluate("val", ((), (0,))).losses == pytest.approx(engines[1].evaluate("val", ((), (0,))).losses)
    assert [slot.gradient_norm for slot in engines[1].probe().slots] == pytest.approx([s.gradient_norm for s in engines[0].probe().slots])


def test_a_model_with_padding_is_trained_evaluated_and_probed() -> None:
    x = padded(tuple(3 + i % 4 for i in range(40)))
    engine = engine_of(Padded, "auto", x, x % NUM_CLASSES)
    before = weights(engine, "slots.")
    losses = [engine.train_epoch(epoch).loss for epoch in range(3)]
    assert losses[-1] < losses[0]
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(engine, "slots.").items())
    evaluation = engine.evaluate("val", ((),))
    with torch.no_grad():
        hits = engine.model.eval()(engine.dataset.val_x).argmax(-1) == engine.dataset.val_y
    assert evaluation.accuracies[0] == pytest.approx(100.0 * float(hits.float().mean()))
    assert all(slot.gradient_norm > 0 for slot in engine.probe().slots)


def test_evaluation_and_probes_leave_a_users_data_as_they_were() -> None:
    x, y = vector_data()
    engine = engine_of(lambda: Backboned("plain"), ["body"], x, y)
    engine.train_epoch(0)
    engine.evaluate("val", ((),))
    engine.probe()
    assert torch.equal(engine.dataset.train_x, vector_data()[0])


@pytest.mark.parametrize("kind", ["plain", "recomputed"])
def test_a_wrapped_model_that_is_to_be_compiled_stays_eager_says_so_and_learns_the_same(
    kind: Literal["plain", "recomputed"], caplog: pytest.LogCaptureFixture
) -> None:
    results = []
    for compile_ in ("off", "on"):
        engine = engine_of(lambda: Backboned(kind), ["body"], *vector_data(), compile=compile_)
        with caplog.at_level(logging.WARNING):
            results.append(([engine.train_epoch(epoch).loss for epoch in range(2)], weights(engine, "")))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(tensor, results[1][1][name]) for name, tensor in results[0][1].items())
    assert len([r for r in caplog.records if "cannot be compiled and stays eager" in r.getMessage()]) == 1
