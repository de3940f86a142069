"""Who trains with whom: trials whose hosts are alike share a population engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.kasmina.population.hosts import stacked_host
from esper.leyline.load import ConfigError
from esper.tolaria.engine.base import Answer, Evaluate, Probe, TrainEpoch, answer
from esper.tolaria.engine.population import PopulationEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from esper.tolaria.engine.base import Call, Engine


class Together:
    """Lets population engines answer for members that are alike, and every other member's own engine for itself.

    Args:
        is_worth_it: Whether to run these members as one; they are alike, and may be a single one.
        insists: Refuse hosts that cannot run as one.
    """

    def __init__(self, is_worth_it: Callable[[Sequence[Engine]], bool], *, insists: bool = False) -> None:
        self._is_worth_it = is_worth_it
        self._insists = insists
        self._engines: dict[Hashable, PopulationEngine] = {}

    def answer(self, calls: Sequence[tuple[Engine, Call]]) -> list[Answer]:
        """One answer per call, in their order; all calls are of one kind.

        Raises:
            ConfigError: If it insists and a host cannot run as one.
        """
        answers: dict[int, Answer] = {}
        groups: dict[Hashable, list[int]] = {}
        for i, (engine, call) in enumerate(calls):
            kind = likeness(engine)
            if kind is None and self._insists:
                name = type(engine.model.host).__name__
                raise ConfigError(f"engine.kind=population: a {name} runs only by itself; choose sequential or auto")
            if kind is None:
                answers[i] = answer(engine, call)
            else:
                groups.setdefault((kind, call.epoch if isinstance(call, TrainEpoch) else None), []).append(i)
        for key, indices in groups.items():
            own = self._answer_alike(key, [calls[i] for i in indices])
            answers.update(zip(indices, own, strict=True))
        return [answers[i] for i in range(len(calls))]

    def _answer_alike(self, key: Hashable, calls: Sequence[tuple[Engine, Call]]) -> Sequence[Answer]:
        members = [engine for engine, _ in calls]
        if not self._is_worth_it(members):
            return [answer(engine, call) for engine, call in calls]
        kind = key[0] if isinstance(key, tuple) else key
        engine = self._engines.get(kind)
        if engine is None or engine.members != tuple(members):
            engine = self._engines[kind] = PopulationEngine(members)
        first = calls[0][1]
        if isinstance(first, TrainEpoch):
            return engine.train_epoch(first.epoch)
        if isinstance(first, Probe):
            return engine.probe()
        evaluations = [call for _, call in calls if isinstance(call, Evaluate)]
        return engine.evaluate(evaluations[0].split, [call.configurations for call in evaluations])


def likeness(engine: Engine) -> Hashable | None:
    """Equal for engines that can run as one; None for a host that always runs alone."""
    host = engine.model.host
    if stacked_host(host) is None:
        return None
    data = engine.dataset
    shapes = tuple(tuple(tensor.shape) for tensor in (data.train_x, data.train_y, data.val_x, data.val_y, data.test_x, data.test_y))
    slots = tuple(slot.spec for slot in engine.model.seed_slots)
    like = getattr(host, "config", None)
    return type(host), like, slots, shapes, data.augmentation, data.train_x.dtype, data.train_x.device, engine.plan, engine.config
