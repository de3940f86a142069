"""On a GPU, reading a number back makes the host wait. That may happen once an epoch, not once a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from esper.tolaria import EngineConfig
from esper.tolaria.engine.population import PopulationEngine
from tests.tolaria.populations import World, grown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.host import HostFamily


class ReadingsBack(TorchDispatchMode):
    """Counts how often the value of a tensor is asked for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Sequence[Any], args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["cnn", "mlp", "transformer"])
def test_an_epoch_of_many_steps_waits_as_often_as_one_of_few(family: HostFamily) -> None:
    counts = []
    for num_train in (64, 256):
        # SGD, because AdamW counts its steps in a tensor that its kernel for the CPU alone reads.
        world = World(family=family, sizes=(num_train, 32, 16), max_epochs=8, engine=EngineConfig(optimizer="sgd"))
        engine = PopulationEngine([trial.engine for trial in grown(world, 3, 3, epochs=4)])
        engine.train_epoch(4)
        with ReadingsBack() as readings:
            engine.train_epoch(5)
        counts.append(readings.count)
    assert counts[0] == counts[1]
