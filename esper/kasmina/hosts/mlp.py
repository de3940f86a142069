"""A small multilayer perceptron as host, with a slot behind every hidden layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from esper.leyline.host import HostFamily, InjectionSpec, LayerSpec
from esper.leyline.load import ConfigError, setting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class MLPHostConfig:
    """Shape of a perceptron host."""

    in_features: int = setting(64, "values of a sample, which may come in any shape", ge=1)
    num_classes: int = setting(10, "outputs", ge=1)
    widths: tuple[int, ...] = setting((16, 16), "units of each hidden layer", ge=1)
    activation: Literal["relu", "identity"] = setting("relu", "nonlinearity of each hidden layer; identity makes a linear host")

    def __post_init__(self) -> None:
        """Ask for at least one hidden layer.

        Raises:
            ConfigError: If there is none, since a slot stands behind a hidden layer.
        """
        if not self.widths:
            raise ConfigError("widths is empty: a host needs a hidden layer to have a slot")


class MLPHost(nn.Module):
    """Hidden layers and a linear head. Implements `HostProtocol`."""

    def __init__(self, config: MLPHostConfig) -> None:
        super().__init__()
        self.config = config
        inputs = (config.in_features, *config.widths)
        self.layers = nn.ModuleList(_Hidden(inputs[i], width, config.activation) for i, width in enumerate(config.widths))
        self.classifier = nn.Linear(config.widths[-1], config.num_classes)
        self._segments = tuple(self.layers)

    @property
    def family(self) -> HostFamily:
        """Values at the slots are [B, C]."""
        return "mlp"

    @property
    def shares_prefixes(self) -> bool:
        """Samples do not know of one another, and nothing bypasses a slot."""
        return True

    def injection_specs(self) -> Sequence[InjectionSpec]:
        """One slot behind every hidden layer."""
        return tuple(InjectionSpec(f"r0c{i}", width, 1, segment=i) for i, width in enumerate(self.config.widths))

    def layer_specs(self) -> Sequence[LayerSpec]:
        """Hidden layers, then the head; a layer's id is the path of its submodule."""
        shape = (self.config.in_features, *self.config.widths, self.config.num_classes)
        names = [*(f"layers.{i}" for i in range(len(self._segments))), "classifier"]
        return tuple(
            LayerSpec(
                layer_id=name,
                layer_type="linear",
                activation_type=None if name == "classifier" else self.config.activation,
                input_channels=shape[i],
                output_channels=shape[i + 1],
                dropout_rate=0.0,
                num_parameters=shape[i + 1] * (shape[i] + 1),
                flops=shape[i + 1] * shape[i],
                segment=i,
            )
            for i, name in enumerate(names)
        )

    def run(self, x: Tensor, visit: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Samples of any shape, [B, …] → logits [B, classes]; every hidden layer is visited."""
        x = x.flatten(1)
        for segment, layer in enumerate(self._segments):
            x = visit(segment, layer(x))
        logits: Tensor = self.classifier(x)
        return logits


class _Hidden(nn.Module):
    def __init__(self, inputs: int, outputs: int, activation: str) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.is_linear = activation == "identity"

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return x if self.is_linear else torch.relu(x)
