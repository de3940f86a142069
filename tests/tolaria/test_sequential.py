from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.kasmina.config import GrowthConfig
from esper.kasmina.hosts import CNNHost, CNNHostConfig, TransformerHost, TransformerHostConfig
from esper.kasmina.model import MorphogeneticModel
from esper.kasmina.surgery import GrowthTransaction
from esper.leyline.actions import BlendStyle, LifecycleOp
from esper.leyline.rng import SeedTree
from esper.tolaria import EngineConfig, SequentialEngine, TrainingPlan
from esper.tolaria.data import Dataset
from esper.tolaria.engine.compiled import Graphs, run_host
from esper.tolaria.engine.schedule import hold_then_decay
from esper.tolaria.tasks import make_episode
from tests.fakes.growth import (
    NormedHost,
    backward,
    begin_blending,
    begin_holding,
    begin_training,
    fossilize,
    make_batch,
    make_host,
    make_model,
    randomise,
)
from tests.tolaria.trials import CATALOGUE, CONTEXT, LIVELY, TASK, act, are_equal, weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.leyline.host import HostProtocol

PLAN = TrainingPlan(max_epochs=8, batch_size=32, learning_rate=0.015)


class DroppingHost(CNNHost):
    """A host whose training draws random numbers."""

    def __init__(self) -> None:
        super().__init__(CNNHostConfig(image_size=8, num_classes=5))

    def run(self, x: Tensor, visit: Callable[[int, Tensor], Tensor]) -> Tensor:
        return super().run(x, lambda segment, value: nn.functional.dropout(visit(segment, value), 0.3, training=self.training))


def make_engine(seed: int = 0, *, plan: TrainingPlan = PLAN, **config: Any) -> SequentialEngine:
    seeds = SeedTree(seed)
    episode = make_episode(TASK, "train", seeds, CONTEXT)
    model = MorphogeneticModel(episode.host, CATALOGUE, GrowthConfig(**LIVELY), seeds.child("growth"))
    return SequentialEngine(model, episode.dataset, EngineConfig(**config), plan=plan, seeds=seeds)


def images(num: int = 40) -> Dataset:
    generator = SeedTree(5).torch()
    x, y = torch.randn(3 * num, 1, 8, 8, generator=generator), torch.randint(5, (3 * num,), generator=generator)
    (a, b, c), (p, q, r) = x.split(num), y.split(num)
    return Dataset(a, p, b, q, c, r, num_classes=5, kind="image")


def engine_for(model: MorphogeneticModel, dataset: Dataset, **config: Any) -> SequentialEngine:
    return SequentialEngine(model, dataset, EngineConfig(**config), plan=PLAN, seeds=SeedTree(2))


def engine_with(host: HostProtocol, dataset: Dataset | None = None) -> SequentialEngine:
    return engine_for(MorphogeneticModel(host, CATALOGUE, GrowthConfig(), SeedTree(1)), dataset or images())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_reduces_the_loss(optimizer: str) -> None:
    engine = make_engine(optimizer=optimizer)
    before = engine.evaluate("val", [()])
    results = [engine.train_epoch(epoch) for epoch in range(PLAN.max_epochs)]
    assert results[-1].loss < results[0].loss
    assert engine.evaluate("val", [()]).losses[0] < before.losses[0]
    assert all(result.num_batches == 2 and 0.0 <= result.accuracy <= 100.0 for result in results)


def test_equal_seeds_train_to_equal_bits_and_others_do_not() -> None:
    engines = [make_engine(seed) for seed in (0, 0, 1)]
    for engine in engines:
        engine.train_epoch(0)
    first, again, other = (weights(engine.model) for engine in engines)
    assert are_equal(first, again)
    assert not are_equal(first, other)


def test_training_neither_reads_nor_moves_the_ambient_generator() -> None:
    trained = []
    for ambient in (1, 2):
        with SeedTree(0).torch_scope():
            engine = engine_with(DroppingHost())
        with SeedTree(ambient).torch_scope():
            before = torch.random.get_rng_state()
            engine.train_epoch(0)
            assert torch.equal(before, torch.random.get_rng_state())
        trained.append(weights(engine.model))
    assert are_equal(*trained)


def test_epochs_draw_different_orders() -> None:
    trained = []
    for epoch in (0, 1):
        engine = make_engine(hold_frac=1.0)
        engine.train_epoch(epoch)
        trained.append(weights(engine.model))
    assert not are_equal(*trained)


def test_training_batches_are_augmented_and_validation_is_not() -> None:
    plain, varied, again = (engine_for(make_model(), replace(images(), augmentation=kind)) for kind in ("none", "crop_flip", "crop_flip"))
    assert plain.evaluate("val", [()]) == varied.evaluate("val", [()])
    for engine in (plain, varied, again):
        engine.train_epoch(0)
    assert not are_equal(weights(plain.model), weights(varied.model))
    assert are_equal(weights(varied.model), weights(again.model))


@pytest.mark.parametrize("is_training", [True, False])
def test_looking_changes_nothing(is_training: bool) -> None:
    with SeedTree(0).torch_scope():
        engine = engine_with(NormedHost())
    engine.train_epoch(0)
    engine.model.train(is_training)
    engine.model.get_submodule("host.norm").eval()
    modes = [module.training for module in engine.model.modules()]
    before, generator = weights(engine.model), torch.random.get_rng_state()
    gradients = [None if p.grad is None else p.grad.clone() for p in engine.model.parameters()]
    engine.evaluate("val", [(), ()])
    engine.evaluate("test", [()])
    engine.probe()
    assert are_equal(before, weights(engine.model))
    assert torch.equal(generator, torch.random.get_rng_state())
    assert [module.training for module in engine.model.modules()] == modes
    after = [p.grad for p in engine.model.parameters()]
    assert all(
        (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(gradients, after, strict=True)
    )


def test_batch_statistics_do_move_in_training() -> None:
    engine = engine_with(NormedHost())
    before = weights(engine.model)["host.norm.running_mean"]
    engine.train_epoch(0)
    assert not torch.equal(before, weights(engine.model)["host.norm.running_mean"])


def test_evaluating_configurations_together_equals_one_by_one() -> None:
    model = make_model()
    fossilize(model, 1)
    begin_holding(model, 0)
    begin_blending(model, 2)
    engine = engine_for(model, images())
    configurations = [(0, 1, 2), (1,), (), (0, 2), (2,)]
    together = engine.evaluate("val", configurations)
    alone = [engine.evaluate("val", [configuration]) for configuration in configurations]
    assert together.accuracies == pytest.approx([e.accuracies[0] for e in alone])
    assert together.losses == pytest.approx([e.losses[0] for e in alone], rel=1e-5)
    assert len(set(together.losses)) == len(configurations)


def test_an_evaluation_in_several_passes_equals_a_single_one() -> None:
    dataset = images(3000)
    model = make_model()
    evaluation = engine_for(model, dataset).evaluate("test", [(), ()])
    with torch.no_grad():
        logits = model.eval()(dataset.test_x)
    assert evaluation.accuracies[0] == pytest.approx(100.0 * (logits.argmax(-1) == dataset.test_y).float().mean().item(), abs=0.05)
    assert evaluation.losses[1] == pytest.approx(nn.functional.cross_entropy(logits, dataset.test_y).item(), rel=1e-4)


def test_every_token_counts_where_every_token_is_classified() -> None:
    generator = SeedTree(5).torch()
    x, y = (torch.randint(high, (20, 6), generator=generator) for high in (11, 5))
    host = TransformerHost(TransformerHostConfig(vocab_size=11, context_length=6, num_classes=5, readout="every"))
    engine = engine_with(host, Dataset(x, y, x, y, x, y, num_classes=5, kind="tokens", vocab_size=11))
    with torch.no_grad():
        logits = engine.model.eval()(x)
    evaluation = engine.evaluate("val", [()])
    assert evaluation.accuracies[0] == pytest.approx(100.0 * (logits.argmax(-1) == y).float().mean().item())
    assert evaluation.losses[0] == pytest.approx(nn.functional.cross_entropy(logits.transpose(1, 2), y).item(), rel=1e-5)
    assert engine.train_epoch(0).loss > 0.0


@settings(max_examples=50, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 0.99), st.floats(0.0, 1.0))
def test_the_learning_rate_holds_and_never_rises(a: float, b: float, hold_frac: float, final_frac: float) -> None:
    early, late = (hold_then_decay(progress, hold_frac=hold_frac, final_frac=final_frac) for progress in sorted((a, b)))
    assert early >= late >= final_frac - 1e-9
    assert hold_then_decay(hold_frac, hold_frac=hold_frac, final_frac=final_frac) == 1.0
    assert hold_then_decay(1.0, hold_frac=hold_frac, final_frac=final_frac) == pytest.approx(final_frac)


def test_epochs_train_at_the_scheduled_rate() -> None:
    engine = make_engine(hold_frac=0.5, final_lr_frac=0.1)
    rates = [engine.train_epoch(epoch).learning_rate for epoch in range(PLAN.max_epochs)]
    assert rates[:4] == [PLAN.learning_rate] * 4
    assert rates[4:] == sorted(rates[4:], reverse=True)
    last_step = (PLAN.max_epochs - 0.5) / PLAN.max_epochs
    assert rates[-1] == pytest.approx(PLAN.learning_rate * hold_then_decay(last_step, hold_frac=0.5, final_frac=0.1))


def test_the_gradient_norm_is_told_before_clipping() -> None:
    one_step = replace(PLAN, batch_size=64)
    free, clipped = (make_engine(plan=one_step, optimizer="sgd", max_grad_norm=limit) for limit in (None, 1e-6))
    before = weights(clipped.model)
    assert clipped.train_epoch(0).gradient_norm == pytest.approx(free.train_epoch(0).gradient_norm)
    moved = sum(float((tensor - before[name]).square().sum()) for name, tensor in weights(clipped.model).items()) ** 0.5
    assert moved <= 1.1e-6 * PLAN.learning_rate


def test_growth_keeps_the_hosts_moments_and_trains_the_newcomer() -> None:
    engine = make_engine()
    model, optimizer = engine.model, engine.optimizer
    engine.train_epoch(0)
    host = list(model.get_submodule("host").parameters())
    moments = [{key: value.clone() for key, value in optimizer.state[p].items()} for p in host]
    with GrowthTransaction(model, optimizer):
        model.apply(act(LifecycleOp.GERMINATE, 1), val_accuracy=20.0)
        model.apply(act(LifecycleOp.ADVANCE, 1), val_accuracy=20.0)
    newcomer = [p for p in model.slots[1].parameters() if p.requires_grad]
    assert newcomer
    assert all(torch.equal(value, optimizer.state[p][key]) for p, kept in zip(host, moments, strict=True) for key, value in kept.items())
    born = [p.detach().clone() for p in newcomer]
    engine.train_epoch(1)
    assert any(not torch.equal(a, b) for a, b in zip(born, newcomer, strict=True))
    assert all(float(optimizer.state[p]["step"]) > float(kept["step"]) for p, kept in zip(host, moments, strict=True))


def test_a_probe_measures_every_slot_and_layer() -> None:
    model = make_model()
    begin_blending(model, 0)
    randomise(model, 0)
    engine = engine_for(model, images())
    measured = engine.probe()
    assert len(measured.slots) == len(model.specs)
    assert len(measured.layers) == len(model.host.layer_specs())
    assert measured == engine.probe()


def test_a_frozen_host_is_not_trained() -> None:
    host = make_host("cnn")
    for parameter in host.parameters():
        parameter.requires_grad_(False)
    host.classifier.requires_grad_(True)
    engine = engine_with(host, images())
    before = weights(engine.model)
    engine.train_epoch(0)
    changed = {name for name, tensor in weights(engine.model).items() if not torch.equal(tensor, before[name])}
    assert changed == {"host.classifier.weight", "host.classifier.bias"}


def grown_engine(**config: Any) -> SequentialEngine:
    model = make_model()
    fossilize(model, 1)
    begin_blending(model, 0)
    begin_training(model, 2)
    return engine_for(model, images(), **config)


def test_channels_last_gives_the_numbers_of_contiguous_values() -> None:
    plain, other = (grown_engine(memory_format=name) for name in ("contiguous", "channels_last"))
    for epoch in range(2):
        a, b = plain.train_epoch(epoch), other.train_epoch(epoch)
        assert b.loss == pytest.approx(a.loss, rel=1e-4)
        assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=1e-3)
    configurations = [(), (0, 1, 2), (1,)]
    assert other.evaluate("test", configurations).losses == pytest.approx(plain.evaluate("test", configurations).losses, rel=1e-3)
    assert all(p.is_contiguous() for p in other.model.parameters())


def test_bf16_stays_close_to_fp32_and_leaves_weights_and_optimizer_in_fp32() -> None:
    full, half = (grown_engine(precision=name) for name in ("fp32", "bf16"))
    losses = [engine.train_epoch(0).loss for engine in (full, half)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    configurations = [(), (0, 1, 2), (1,)]
    evaluations = [engine.evaluate("test", configurations).losses for engine in (full, half)]
    assert evaluations[1] == pytest.approx(evaluations[0], rel=0.02)
    states = [value for state in half.optimizer.state.values() for value in state.values()]
    assert all(tensor.dtype is torch.float32 for tensor in [*half.model.parameters(), *states])


def blending_model(blueprint: str, style: BlendStyle) -> MorphogeneticModel:
    """A seed of the real catalogue that is half blended in."""
    rules = GrowthConfig(auto_advance=True, min_training_epochs=0, min_gradient_health=0.0)
    model = MorphogeneticModel(make_host("cnn"), CATALOGUE, rules, SeedTree(1))
    model.apply(act(LifecycleOp.GERMINATE, 1, blueprint=CATALOGUE.place(blueprint), style=style), val_accuracy=20.0)
    randomise(model, 1)
    for _ in range(5):
        backward(model.train(), *make_batch())
        model.observe_gradients()
        model.tick(val_accuracy=20.0, contributions={}, solo={})
        if model.seed_slots[1].alpha > 0.0:
            return model
    raise AssertionError(f"{blueprint} was not blended in")


@pytest.mark.parametrize("style", [BlendStyle.LINEAR_ADD, BlendStyle.LINEAR_MULTIPLY, BlendStyle.GATED_GATE])
def test_every_blueprint_and_mix_trains_alike_in_every_layout(style: BlendStyle) -> None:
    one_batch = replace(PLAN, batch_size=40)
    layouts: list[dict[str, Any]] = [{}, {"memory_format": "channels_last"}, {"memory_format": "channels_last", "precision": "bf16"}]
    for blueprint in CATALOGUE.names("cnn"):
        found = []
        for config in layouts:
            settings_of = EngineConfig(**{"memory_format": "contiguous", "precision": "fp32", **config})
            engine = SequentialEngine(blending_model(blueprint, style), images(), settings_of, plan=one_batch, seeds=SeedTree(2))
            before = engine.evaluate("val", [(), (1,)]).losses
            result = engine.train_epoch(0)
            found.append((before, result.loss, result.gradient_norm))
        (losses, loss, norm), same, close = found
        assert same[0] == pytest.approx(losses, rel=1e-4), blueprint
        assert same[1:] == pytest.approx((loss, norm), rel=1e-3), blueprint
        assert close[0] == pytest.approx(losses, rel=0.05), blueprint
        assert close[1:] == pytest.approx((loss, norm), rel=0.15), blueprint


def test_hosts_that_share_graphs_are_compiled_once() -> None:
    made: list[int] = []

    def make() -> Any:
        made.append(1)
        return run_host

    graphs = Graphs(make)
    for seed in (2, 3):
        engine = SequentialEngine(
            make_model(), images(), EngineConfig(compile="on"), plan=replace(PLAN, batch_size=20), seeds=SeedTree(seed), graphs=graphs
        )
        engine.train_epoch(0)
    assert (len(made), len(graphs)) == (1, 1)
