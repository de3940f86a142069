"""Who trains with whom, and for how long they are remembered."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from esper.leyline.load import ConfigError
from esper.leyline.rng import SeedTree
from esper.tolaria import OneByOne, SequentialEngine
from esper.tolaria.engine.base import Evaluate, Probe, TrainEpoch
from esper.tolaria.engine.together import Together, likeness
from esper.tolaria.tasks.base import Context
from tests.fakes.growth import NormedHost
from tests.tolaria.populations import World, as_one, furthest
from tests.tolaria.test_sequential import DroppingHost, engine_with, images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.tolaria.engine.base import Engine

DIGITS = World("cnn", sizes=(40, 20, 20))
WIDER = replace(DIGITS, context=Context("digits8", "atten", 1.0))
VECTORS = World("mlp", sizes=(40, 20, 20))


def mixed(seed: int = 0) -> list[SequentialEngine]:
    """Members of three shapes, not in order."""
    worlds = [DIGITS, WIDER, VECTORS]
    return [world.engines(seed, 2)[i] for i in range(2) for world in worlds]


def test_answers_come_in_the_order_of_the_calls_whatever_the_shapes() -> None:
    alone, together, trainer = mixed(), mixed(), as_one()
    for call in (Probe(), TrainEpoch(0), TrainEpoch(1), Evaluate("val", ((), (0,))), Evaluate("test", ((),)), Probe()):
        own = OneByOne().answer([(engine, call) for engine in alone])
        ours = trainer.answer([(engine, call) for engine in together])
        assert furthest(own, ours)[0] < 1e-6
        assert [type(answer) for answer in own] == [type(answer) for answer in ours]


def test_every_member_may_ask_for_its_own_configurations_and_epoch() -> None:
    alone, together = DIGITS.engines(0, 3), DIGITS.engines(0, 3)
    for calls in ([TrainEpoch(2), TrainEpoch(0), TrainEpoch(2)], [Evaluate("val", ((),) * n) for n in (1, 3, 2)]):
        own = OneByOne().answer(list(zip(alone, calls, strict=True)))
        ours = as_one().answer(list(zip(together, calls, strict=True)))
        assert furthest(own, ours)[0] < 1e-6


def test_only_equals_are_alike() -> None:
    first, second = DIGITS.engines(0, 2)
    assert likeness(first) == likeness(second)
    others = [
        WIDER.engines(0, 1)[0],
        VECTORS.engines(0, 1)[0],
        replace(DIGITS, sizes=(41, 20, 20)).engines(0, 1)[0],
        replace(DIGITS, augmentation="shift").engines(0, 1)[0],
        replace(DIGITS, max_epochs=11).engines(0, 1)[0],
        replace(DIGITS, engine=replace(DIGITS.engine, weight_decay=0.1)).engines(0, 1)[0],
    ]
    kinds = [likeness(engine) for engine in (first, *others)]
    assert len(set(kinds)) == len(kinds)
    second.model.float()
    assert likeness(first) != likeness(second)


def test_a_host_that_runs_only_by_itself_does_so_or_is_refused() -> None:
    frozen = DIGITS.engines(0, 1)[0]
    next(frozen.model.get_submodule("host").parameters()).requires_grad_(False)
    with SeedTree(0).torch_scope():
        normed, dropping = engine_with(NormedHost()), engine_with(DroppingHost(), images())
    for engine, reason in ((frozen, "frozen"), (normed, "NormedHost"), (dropping, "DroppingHost")):
        assert likeness(engine) is None
        (result,) = Together().answer([(engine, TrainEpoch(0))])
        assert type(result).__name__ == "EpochResult"
        with pytest.raises(ConfigError, match=reason):
            as_one().answer([(engine, TrainEpoch(0))])


def test_it_is_asked_whether_members_are_worth_it() -> None:
    asked: list[int] = []

    def at_most(members: Sequence[Engine]) -> int:
        asked.append(len(members))
        return len(members) if len(members) > 2 else 0

    alone, together = DIGITS.engines(0, 3) + WIDER.engines(1, 1), DIGITS.engines(0, 3) + WIDER.engines(1, 1)
    own = OneByOne().answer([(engine, TrainEpoch(0)) for engine in alone])
    ours = Together(at_most).answer([(engine, TrainEpoch(0)) for engine in together])
    assert furthest(own, ours)[0] < 1e-6
    assert asked == [3, 1]


def test_members_that_are_asked_no_more_are_let_go() -> None:
    trainer, first = as_one(), mixed()
    trainer.answer([(engine, TrainEpoch(0)) for engine in first])
    models = [weakref.ref(engine.model) for engine in first]
    del first
    trainer.answer([(engine, Probe()) for engine in VECTORS.engines(1, 2)])
    gc.collect()
    assert [model() for model in models] == [None] * len(models)
