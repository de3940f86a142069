"""Members of a population stay themselves: between its calls they may train, grow, be restored or fail on their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from esper.kasmina.surgery import GrowthTransaction
from esper.leyline.actions import BlendStyle, FactoredAction, LifecycleOp
from esper.tolaria import EngineConfig
from esper.tolaria.engine.population import PopulationEngine
from tests.tolaria.populations import World, furthest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper.leyline.host import HostFamily
    from esper.tolaria import SequentialEngine

MEMBERS = 3
OPTIMIZERS = ("adamw", "sgd")
TIGHT = 1e-9


def world_with(family: HostFamily = "cnn", optimizer: str = "adamw") -> World:
    engine = EngineConfig(optimizer=optimizer, weight_decay=0.03, max_grad_norm=2.0)  # type: ignore[arg-type]
    return World(family, engine=engine, sizes=(70, 30, 20))


def germinate(engine: SequentialEngine, slot: int, style: BlendStyle = BlendStyle.LINEAR_ADD) -> None:
    """Plant a seed and let it begin to learn."""
    place = engine.model.masks().blueprint[0].nonzero()[0][-1]
    with GrowthTransaction(engine.model, engine.optimizer):
        engine.model.apply(FactoredAction(op=LifecycleOp.GERMINATE, slot=slot, blueprint=int(place), style=style), val_accuracy=20.0)
        engine.model.apply(FactoredAction(op=LifecycleOp.ADVANCE, slot=slot), val_accuracy=20.0)


def blend(engine: SequentialEngine, slot: int) -> None:
    with GrowthTransaction(engine.model, engine.optimizer):
        for _ in range(2):
            engine.model.tick(val_accuracy=20.0, contributions={}, solo={})
        engine.model.apply(FactoredAction(op=LifecycleOp.ADVANCE, slot=slot), val_accuracy=20.0)
        engine.model.tick(val_accuracy=20.0, contributions={}, solo={})


def prune(engine: SequentialEngine) -> None:
    with GrowthTransaction(engine.model, engine.optimizer):
        engine.model.prune_all("governor")


def state_of(engine: SequentialEngine) -> dict[str, dict[str, Any]]:
    """Weights, and what the optimizer remembers, by parameter name."""
    return {name: {"weight": p.detach(), **engine.optimizer.state.get(p, {})} for name, p in engine.model.named_parameters()}


def assert_equal_state(alone: Sequence[SequentialEngine], together: Sequence[SequentialEngine]) -> None:
    for a, b in zip(alone, together, strict=True):
        ours, theirs = state_of(b), state_of(a)
        assert ours.keys() == theirs.keys()
        for name, own in theirs.items():
            assert {key: value for key, value in own.items() if value is not None}.keys() <= ours[name].keys(), name
            for key, value in own.items():
                if value is not None:
                    torch.testing.assert_close(ours[name][key], value, rtol=TIGHT, atol=TIGHT, msg=f"{name}.{key}")
        assert a.optimizer.param_groups[0]["lr"] == b.optimizer.param_groups[0]["lr"]


def change_alike(engines: Sequence[Sequence[SequentialEngine]], change: Callable[[Sequence[SequentialEngine]], None]) -> None:
    for own in engines:
        change(own)


def both(world: World, seed: int = 0) -> tuple[list[SequentialEngine], list[SequentialEngine], PopulationEngine]:
    """Engines to be used one by one, their twins, and a population of those."""
    alone, together = (world.engines(seed, MEMBERS) for _ in range(2))
    return alone, together, PopulationEngine(together)


@pytest.mark.parametrize(("family", "optimizer"), [("cnn", "adamw"), ("transformer", "sgd"), ("mlp", "adamw"), ("mlp", "sgd")])
def test_epochs_together_and_alone_may_alternate_while_members_grow(family: HostFamily, optimizer: str) -> None:
    alone, together, population = both(world_with(family, optimizer))
    growth: dict[int, Callable[[Sequence[SequentialEngine]], None]] = {
        1: lambda engines: germinate(engines[0], 0),
        2: lambda engines: germinate(engines[2], 1, BlendStyle.GATED_GATE),
        3: lambda engines: blend(engines[0], 0),
        4: lambda engines: blend(engines[2], 1),
        6: lambda engines: prune(engines[0]),
    }
    for epoch in range(8):
        if epoch in growth:
            change_alike((alone, together), growth[epoch])
        results = [engine.train_epoch(epoch) for engine in alone]
        ours = population.train_epoch(epoch) if epoch % 3 != 2 else [engine.train_epoch(epoch) for engine in together]
        assert furthest(results, ours)[0] < 1e-6
        assert_equal_state(alone, together)
    assert furthest([engine.probe() for engine in alone], population.probe())[0] < 1e-6
    assert furthest([engine.probe() for engine in alone], [engine.probe() for engine in together])[0] < 1e-6


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_member_may_train_more_than_the_others(optimizer: str) -> None:
    alone, together, population = both(world_with(optimizer=optimizer))
    for epoch in (0, 1):
        for engine in alone:
            engine.train_epoch(epoch)
        population.train_epoch(epoch)
        for engines in (alone, together):
            engines[1].train_epoch(epoch + 5)
        assert_equal_state(alone, together)


def test_a_population_of_some_members_leaves_the_rest_alone() -> None:
    alone, together, population = both(world_with())
    for engine in alone:
        engine.train_epoch(0)
    alone[0].train_epoch(1)
    alone[2].train_epoch(1)
    for engine in alone:
        engine.train_epoch(2)
    population.train_epoch(0)
    PopulationEngine([together[2], together[0]]).train_epoch(1)
    population.train_epoch(2)
    assert_equal_state(alone, together)


def test_a_restored_member_goes_on_from_there() -> None:
    alone, together, population = both(world_with())

    def remember_and_return(engines: Sequence[SequentialEngine], train: Callable[[int], object]) -> None:
        train(0)
        snapshot = engines[1].model.snapshot()
        train(1)
        engines[1].model.restore(snapshot)
        engines[1].optimizer.state.clear()
        train(2)

    remember_and_return(alone, lambda epoch: [engine.train_epoch(epoch) for engine in alone])
    remember_and_return(together, population.train_epoch)
    assert_equal_state(alone, together)


def test_growth_that_fails_leaves_the_member_as_it_was() -> None:
    alone, together, population = both(world_with())
    for engine in alone:
        engine.train_epoch(0)
    population.train_epoch(0)
    for engines in (alone, together):
        germinate(engines[1], 0)

    def grow_and_fail(engine: SequentialEngine) -> None:
        with pytest.raises(RuntimeError, match="power cut"), GrowthTransaction(engine.model, engine.optimizer):
            engine.model.apply(FactoredAction(op=LifecycleOp.GERMINATE, slot=1), val_accuracy=20.0)
            engine.model.prune_all("governor")
            with torch.no_grad():
                for parameter in engine.model.parameters():
                    parameter.zero_()
            raise RuntimeError("power cut")

    for epoch in (1, 2):
        for engine in (alone[1], together[1]):
            grow_and_fail(engine)
        for engine in alone:
            engine.train_epoch(epoch)
        population.train_epoch(epoch)
        assert_equal_state(alone, together)


def test_looking_at_a_population_changes_nothing() -> None:
    _, together, population = both(world_with())
    population.train_epoch(0)
    before = [{name: {key: value.clone() for key, value in own.items()} for name, own in state_of(e).items()} for e in together]
    first = population.evaluate("val", [[(), (0,)]] * MEMBERS), population.probe()
    again = population.evaluate("val", [[(), (0,)]] * MEMBERS), population.probe()
    assert furthest([e.losses for e in first[0]], [e.losses for e in again[0]])[0] == 0.0
    assert first[1] == again[1]
    for engine, own in zip(together, before, strict=True):
        for name, values in state_of(engine).items():
            assert all(torch.equal(value, own[name][key]) for key, value in values.items())


def test_members_may_be_cast_and_used_again() -> None:
    world = world_with("mlp")
    alone, together, population = both(world)
    population.train_epoch(0)
    for engine in alone:
        engine.train_epoch(0)
    for engine in together:
        engine.model.float().double()
    for engine in alone:
        engine.model.float().double()
        engine.train_epoch(1)
    population.train_epoch(1)
    for a, b in zip(alone, together, strict=True):
        for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)
