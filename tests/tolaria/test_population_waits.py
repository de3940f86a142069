"""On a GPU, reading a number back makes the host wait, and so does handing one over. That may happen once an epoch, not once a step.

Tensors of the device `meta` have no numbers: whatever asks for one fails, and so does what mixes them with those of the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from esper.tolaria import EngineConfig, SequentialEngine
from esper.tolaria.engine.population import PopulationEngine
from tests.tolaria.populations import FAMILIES, World, grown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.host import HostFamily
    from esper.tolaria.data import Augmentation

META = torch.device("meta")
EPOCH = 5


class Transfers(TorchDispatchMode):
    """Counts what would wait for a device, and numbers that are written down on the host."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_moved = 0
        self.num_written = 0

    def __torch_dispatch__(self, func: Any, types: Sequence[Any], args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        aten = torch.ops.aten
        self.num_written += func is aten.lift_fresh.default
        self.num_moved += func in (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default)
        self.num_moved += func is aten._to_copy.default and out.device != args[0].device
        self.num_moved += func is aten.copy_.default and args[0].device != args[1].device
        return out


class ReadingsBack:
    """Stands in for `Tensor.tolist`: counts, and answers with numbers that nobody computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        own = Tensor.tolist

        def tolist(tensor: Tensor) -> Any:
            if tensor.device != META:
                return own(tensor)
            self.count += 1
            return own(torch.ones(tensor.shape))

        monkeypatch.setattr(Tensor, "tolist", tolist)


def world_of(family: HostFamily, num_train: int = 128, **fields: Any) -> World:
    # SGD, because AdamW's fused kernel takes no tensors without numbers, and the one for the CPU alone reads its count of steps.
    engine = EngineConfig(optimizer="sgd", weight_decay=0.01, max_grad_norm=fields.pop("max_grad_norm", None), compile="off")
    augmentation: Augmentation = "crop_flip" if family == "cnn" else "none"
    return World(family, sizes=(num_train, 32, 16), max_epochs=8, engine=engine, augmentation=augmentation, **fields)


def engines_of(world: World, device: torch.device) -> list[SequentialEngine]:
    """Engines of members that have grown, on a device."""
    own = [trial.engine for trial in grown(world, 3, 3, epochs=4)]
    assert any(slot.computes for engine in own for slot in engine.model.seed_slots)
    return [SequentialEngine(e.model.to(device), e.dataset.to(device), e.config, plan=e.plan, seeds=e.seeds) for e in own]


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_epoch_of_a_population_reads_back_once_and_its_seeds_gradients_once(
    family: HostFamily, max_grad_norm: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = PopulationEngine(engines_of(world_of(family, max_grad_norm=max_grad_norm), META))
    readings = ReadingsBack(monkeypatch)
    for num_epochs in (1, 2):
        engine.train_epoch(EPOCH - 2 + num_epochs)
        assert readings.count == 2 * num_epochs


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_epoch_of_one_host_reads_back_once_and_its_seeds_gradients_once(
    family: HostFamily, max_grad_norm: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines_of(world_of(family, max_grad_norm=max_grad_norm), META)[0]
    readings = ReadingsBack(monkeypatch)
    engine.train_epoch(EPOCH)
    assert readings.count == 1 + engine.model.observes_gradients


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("runs_as_one", [False, True])
def test_steps_hand_nothing_over(family: HostFamily, runs_as_one: bool) -> None:
    """Between the devices at hand: what an epoch brings and reads does not depend on its number of steps."""
    counts = []
    for num_train in (64, 256):
        own = engines_of(world_of(family, num_train), torch.device("cpu"))
        engine: Any = PopulationEngine(own) if runs_as_one else own[0]
        engine.train_epoch(EPOCH - 1)
        with Transfers() as transfers:
            engine.train_epoch(EPOCH)
        counts.append((transfers.num_moved, transfers.num_written))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_bring_nothing_to_a_device(family: HostFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    ReadingsBack(monkeypatch)
    counts = []
    for num_train in (64, 256):
        engine = PopulationEngine(engines_of(world_of(family, num_train), META))
        engine.train_epoch(EPOCH - 1)
        with Transfers() as transfers:
            engine.train_epoch(EPOCH)
        counts.append(transfers.num_moved)
    assert counts[0] == counts[1]
    assert counts[0] <= 3  # orders, moves of images, and how often was trained
