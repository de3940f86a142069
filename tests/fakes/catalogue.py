"""A catalogue of three tiny blueprints, each the identity at birth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from esper.leyline.schemas import BlueprintSpec, RiskLevel

if TYPE_CHECKING:
    from esper.leyline.host import HostFamily

PLACES = {"conv": 0, "norm": 3, "linear": 5}
FAMILIES: dict[HostFamily, tuple[str, ...]] = {"cnn": ("conv", "norm"), "transformer": ("linear",), "mlp": ("linear",)}


class Conv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor) -> Tensor:
        value: Tensor = h + self.conv(h)
        return value


class Norm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, h: Tensor) -> Tensor:
        value: Tensor = h + self.scale * self.norm(h)
        return value


class Linear(nn.Module):
    """Random inside, zero at the end, so that its parameters tell which generator made them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Linear(channels, 2)
        self.outer = nn.Linear(2, channels)
        for parameter in self.outer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor) -> Tensor:
        value: Tensor = h + self.outer(torch.relu(self.inner(h)))
        return value


class FakeCatalogue:
    """Implements `Catalogue`; cnn hosts have conv and norm, the others linear."""

    digest = "fake"

    def names(self, family: HostFamily) -> tuple[str, ...]:
        return FAMILIES[family]

    def place(self, name: str) -> int:
        return PLACES[name]

    def name(self, place: int) -> str:
        return {number: name for name, number in PLACES.items()}[place]

    def spec(self, name: str, family: HostFamily, channels: int, positions: int) -> BlueprintSpec:
        num_parameters = {"conv": channels * (9 * channels + 1), "norm": 2 * channels + 1, "linear": 5 * channels + 2}[name]
        return BlueprintSpec(name, family, PLACES[name], channels, positions, num_parameters, num_parameters * positions, RiskLevel.GREEN)

    def build(self, name: str, family: HostFamily, channels: int, positions: int) -> nn.Module:
        module: nn.Module = {"conv": Conv, "norm": Norm, "linear": Linear}[name](channels)
        return module
