"""Small growing models for tests: one per host family, and the shortest ways to bring a seed to a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.config import GrowthConfig
from esper.kasmina.hosts import CNNHost, CNNHostConfig, MLPHost, MLPHostConfig, TransformerHost, TransformerHostConfig
from esper.kasmina.model import MorphogeneticModel
from esper.leyline.actions import BlendStyle, FactoredAction, LifecycleOp
from esper.leyline.rng import SeedTree
from tests.fakes.catalogue import PLACES, FakeCatalogue

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.leyline.host import HostFamily, HostProtocol

BLUEPRINT: dict[HostFamily, str] = {"cnn": "conv", "transformer": "linear", "mlp": "linear"}
EAGER: dict[str, Any] = {
    "min_training_epochs": 0,
    "min_gradient_health": 0.0,
    "min_prune_age_epochs": 0,
    "max_developing": 3,
    "max_fossils": 3,
}


class NormedHost(CNNHost):
    """A host with batch statistics, as users' models have them."""

    def __init__(self) -> None:
        super().__init__(CNNHostConfig(image_size=8, num_classes=5))
        self.norm = nn.BatchNorm2d(8)

    def run(self, x: Tensor, visit: Callable[[int, Tensor], Tensor]) -> Tensor:
        last = len(self.stages) - 1
        return super().run(x, lambda segment, value: self.norm(visit(segment, value)) if segment == last else visit(segment, value))


def make_host(family: HostFamily) -> CNNHost | TransformerHost | MLPHost:
    with SeedTree(7).child("host").torch_scope():
        if family == "cnn":
            return CNNHost(CNNHostConfig(image_size=8, num_classes=5))
        if family == "transformer":
            return TransformerHost(TransformerHostConfig(vocab_size=11, context_length=6, num_classes=5))
        return MLPHost(MLPHostConfig(in_features=10, num_classes=5, widths=(8, 8, 8)))


def make_model(family: HostFamily = "cnn", **config: Any) -> MorphogeneticModel:
    return MorphogeneticModel(make_host(family), FakeCatalogue(), GrowthConfig(**{**EAGER, **config}), SeedTree(7))


def run_plain(host: HostProtocol, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """Logits of a host without seeds, and the value of every segment."""
    values: dict[int, Tensor] = {}

    def note(segment: int, value: Tensor) -> Tensor:
        values[segment] = value
        return value

    return host.run(x, note), values


def make_batch(family: HostFamily = "cnn", batch: int = 6) -> tuple[Tensor, Tensor]:
    generator = SeedTree(11).child(family).torch()
    y = torch.randint(5, (batch,), generator=generator)
    if family == "cnn":
        return torch.randn(batch, 1, 8, 8, generator=generator), y
    if family == "transformer":
        return torch.randint(11, (batch, 6), generator=generator), y
    return torch.randn(batch, 10, generator=generator), y


def germinate(
    slot: int, family: HostFamily = "cnn", *, blueprint: str | None = None, style: BlendStyle = BlendStyle.LINEAR_ADD
) -> FactoredAction:
    place = PLACES[blueprint or BLUEPRINT[family]]
    return FactoredAction(op=LifecycleOp.GERMINATE, slot=slot, blueprint=place, style=style)


def advance(slot: int) -> FactoredAction:
    return FactoredAction(op=LifecycleOp.ADVANCE, slot=slot)


def backward(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    model.zero_grad(set_to_none=True)
    logits: Tensor = model(x)
    torch.autograd.backward(F.cross_entropy(logits, y))
    return logits


def begin_training(
    model: MorphogeneticModel, slot: int, *, blueprint: str | None = None, style: BlendStyle = BlendStyle.LINEAR_ADD
) -> None:
    model.apply(germinate(slot, model.host.family, blueprint=blueprint, style=style), val_accuracy=20.0)
    model.apply(advance(slot), val_accuracy=20.0)


def begin_blending(
    model: MorphogeneticModel,
    slot: int,
    *,
    ticks: int = 1,
    blueprint: str | None = None,
    style: BlendStyle = BlendStyle.LINEAR_ADD,
    is_random: bool = True,
) -> None:
    """A blending seed whose weights are random, so that it is no longer the identity."""
    begin_training(model, slot, blueprint=blueprint, style=style)
    if is_random:
        randomise(model, slot)
    backward(model, *make_batch(model.host.family))
    model.observe_gradients()
    model.apply(advance(slot), val_accuracy=20.0)
    for _ in range(ticks):
        end_epoch(model)


def begin_holding(model: MorphogeneticModel, slot: int, **options: Any) -> None:
    begin_blending(model, slot, ticks=3, **options)
    model.apply(advance(slot), val_accuracy=20.0)


def fossilize(model: MorphogeneticModel, slot: int, **options: Any) -> None:
    begin_holding(model, slot, **options)
    end_epoch(model)
    model.apply(FactoredAction(op=LifecycleOp.FOSSILIZE, slot=slot), val_accuracy=20.0)


def end_epoch(model: MorphogeneticModel, *, val_accuracy: float = 20.0, contribution: float = 2.0) -> None:
    contributions = dict.fromkeys(range(len(model.specs)), contribution)
    model.tick(val_accuracy=val_accuracy, contributions=contributions, solo={})


@torch.no_grad()
def randomise(model: MorphogeneticModel, slot: int) -> None:
    generator = SeedTree(3).child(slot).torch()
    for parameter in model.slots[slot].parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
