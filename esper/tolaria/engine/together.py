"""Who trains with whom: trials whose hosts are alike share a population engine."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from esper.kasmina.population.model import find_obstacle
from esper.leyline.layer_ops import BlueprintError
from esper.leyline.load import ConfigError
from esper.leyline.tf32 import tf32
from esper.tolaria.engine.base import Answer, Evaluate, Probe, TrainEpoch, answer
from esper.tolaria.engine.population import PopulationEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from esper.tolaria.engine.base import Call, Engine

    Engines = dict[Hashable, PopulationEngine]
    """By likeness, and the part of those that are alike."""


class Together:
    """Lets population engines answer for members that are alike, and every other member's own engine for itself.

    Populations are kept from one call to the next, and let go when the next call does not ask them.

    Args:
        at_most: How many of these members run as one; they are alike, and may be a single one. More are divided evenly, and 0
            leaves each of them to its own engine. All of them unless given.
        insists: Refuse hosts that cannot run as one.
        make_engine: Makes the engine of a population.
    """

    def __init__(
        self,
        at_most: Callable[[Sequence[Engine]], int] = len,
        *,
        insists: bool = False,
        make_engine: Callable[[Sequence[Engine]], PopulationEngine] = PopulationEngine,
    ) -> None:
        self._at_most = at_most
        self._make_engine = make_engine
        self._insists = insists
        self._engines: Engines = {}

    def answer(self, calls: Sequence[tuple[Engine, Call]]) -> list[Answer | Exception]:
        """One answer per call, in their order; all calls are of one kind.

        Where seeds of some members fail, that is these members' answer, and the others are asked again without them.

        Raises:
            ConfigError: If it insists and a host cannot run as one.
            BlueprintError: If seeds fail and nobody knows whose, or members have moved on.
        """
        answers: dict[int, Answer | Exception] = {}
        groups: dict[tuple[Hashable, int | None], list[int]] = {}
        known, self._engines = self._engines, {}
        for i, (engine, call) in enumerate(calls):
            kind = likeness(engine)
            if kind is None and self._insists:
                raise ConfigError(f"engine.kind=population: {find_obstacle(engine.model)}; choose sequential or auto")
            if kind is None:
                answers[i] = answer(engine, call)
            else:
                groups.setdefault((kind, call.epoch if isinstance(call, TrainEpoch) else None), []).append(i)
        for (kind, _), indices in groups.items():
            own = self._answer_alike(kind, [calls[i] for i in indices], known)
            answers.update(zip(indices, own, strict=True))
        return [answers[i] for i in range(len(calls))]

    def _answer_alike(self, kind: Hashable, calls: Sequence[tuple[Engine, Call]], known: Engines) -> Sequence[Answer | Exception]:
        members = [engine for engine, _ in calls]
        at_most = self._at_most(members)
        if not at_most:
            return [answer(engine, call) for engine, call in calls]
        num_parts = -(-len(members) // at_most)
        bounds = [part * len(members) // num_parts for part in range(num_parts + 1)]
        parts = [self._answer_as_one((kind, part), calls[bounds[part] : bounds[part + 1]], known) for part in range(num_parts)]
        return list(chain.from_iterable(parts))

    def _answer_as_one(self, place: Hashable, calls: Sequence[tuple[Engine, Call]], known: Engines) -> Sequence[Answer | Exception]:
        if not calls:
            return ()
        members = tuple(engine for engine, _ in calls)
        engine = known.get(place)
        if engine is None or engine.members != members:
            engine = self._make_engine(members)
        self._engines[place] = engine
        try:
            return _ask(engine, [call for _, call in calls])
        except BlueprintError as error:
            if not error.members:
                raise
            failed = error
        others = iter(self._answer_as_one(place, [call for i, call in enumerate(calls) if i not in failed.members], known))
        return [failed.for_members() if i in failed.members else next(others) for i in range(len(calls))]


def _ask(engine: PopulationEngine, calls: Sequence[Call]) -> Sequence[Answer]:
    """Let a population do what all of its members are asked for."""
    first, member = calls[0], engine.members[0]
    with tf32(member.dataset.train_x.device, is_allowed=member.config.tf32):
        if isinstance(first, TrainEpoch):
            return engine.train_epoch(first.epoch, is_timed=first.is_timed)
        if isinstance(first, Probe):
            return engine.probe()
        evaluations = [call for call in calls if isinstance(call, Evaluate)]
        return engine.evaluate(evaluations[0].split, [call.configurations for call in evaluations])


def likeness(engine: Engine) -> Hashable | None:
    """Equal for engines that can run as one; None for a host that always runs alone."""
    if find_obstacle(engine.model) is not None:
        return None
    host, data = engine.model.get_submodule("host"), engine.dataset
    shapes = tuple(tuple(tensor.shape) for tensor in (data.train_x, data.train_y, data.val_x, data.val_y, data.test_x, data.test_y))
    slots = tuple(slot.spec for slot in engine.model.seed_slots)
    like = getattr(host, "config", None)
    dtypes = next(host.parameters()).dtype, data.train_x.dtype
    return type(host), like, slots, shapes, data.augmentation, dtypes, data.train_x.device, engine.plan, engine.config
