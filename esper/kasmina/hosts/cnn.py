"""A small convolutional host with a slot behind every stage. It has biases and no norm layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from esper.leyline.host import HostFamily, InjectionSpec, LayerSpec
from esper.leyline.load import ConfigError, setting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class CNNHostConfig:
    """Shape of a convolutional host. Sequences have one entry per stage."""

    in_channels: int = setting(1, "channels of the image", ge=1)
    image_size: int = setting(8, "height and width of the image", unit="pixels", ge=1)
    num_classes: int = setting(10, "outputs", ge=1)
    widths: tuple[int, ...] = setting((4, 6, 8), "channels that each stage puts out", ge=1)
    kernels: tuple[int, ...] = setting((3, 1, 1), "odd kernel size of each stage", ge=1)
    pools: tuple[int, ...] = setting((1, 2, 2), "average pooling before each stage; 1 is none", ge=1)
    activation: Literal["relu", "identity"] = setting("relu", "nonlinearity of each stage; identity makes a linear host")
    attenuated_stage: int | None = setting(None, "stage whose signal is drowned in a constant; None is none", ge=0)
    attenuation: float = setting(0.02, "factor on the attenuated stage's signal")
    offset: float = setting(1.0, "constant added to the attenuated stage's signal")

    def __post_init__(self) -> None:
        """Check that the stages fit together.

        Raises:
            ConfigError: If lengths differ, a kernel is even, the image is pooled away, or a stage does not exist.
        """
        stages = len(self.widths)
        if not stages or {len(self.kernels), len(self.pools)} != {stages}:
            raise ConfigError(f"widths {self.widths}, kernels {self.kernels} and pools {self.pools} should be equally long")
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ConfigError(f"kernels {self.kernels} should be odd, so that they keep the image's size")
        if self.stage_sizes()[-1] < 1:
            raise ConfigError(f"pools {self.pools} leave nothing of a {self.image_size} pixel image")
        if self.attenuated_stage is not None and self.attenuated_stage >= stages:
            raise ConfigError(f"attenuated_stage={self.attenuated_stage} should be below {stages}")

    def stage_sizes(self) -> tuple[int, ...]:
        """Height and width of the image behind each stage."""
        sizes, size = [], self.image_size
        for pool in self.pools:
            size //= pool
            sizes.append(size)
        return tuple(sizes)


class ConvStage(nn.Module):
    """Average pool → convolution → optional attenuation → activation.

    The attenuation is a fixed defect that training cannot undo: information survives only as a faint variation on a
    large constant, until something renormalises it.
    """

    def __init__(self, config: CNNHostConfig, index: int) -> None:
        super().__init__()
        in_channels = config.widths[index - 1] if index else config.in_channels
        kernel = config.kernels[index]
        self.conv = nn.Conv2d(in_channels, config.widths[index], kernel, padding=kernel // 2)
        self.pool = config.pools[index]
        self.attenuation = (config.attenuation, config.offset) if index == config.attenuated_stage else None
        self.is_linear = config.activation == "identity"

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', H / pool, W / pool]."""
        if self.pool > 1:
            x = F.avg_pool2d(x, self.pool)
        x = self.conv(x)
        if self.attenuation is not None:
            x = x * self.attenuation[0] + self.attenuation[1]
        return x if self.is_linear else torch.relu(x)


class CNNHost(nn.Module):
    """Stages, then global average pooling and a linear head. Implements `HostProtocol`."""

    def __init__(self, config: CNNHostConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(ConvStage(config, index) for index in range(len(config.widths)))
        self.classifier = nn.Linear(config.widths[-1], config.num_classes)
        self._segments = tuple(self.stages)

    @property
    def family(self) -> HostFamily:
        """Values at the slots are [B, C, H, W]."""
        return "cnn"

    @property
    def shares_prefixes(self) -> bool:
        """Samples do not know of one another, and nothing bypasses a slot."""
        return True

    def injection_specs(self) -> Sequence[InjectionSpec]:
        """One slot behind every stage."""
        sizes = self.config.stage_sizes()
        return tuple(InjectionSpec(f"r0c{i}", width, sizes[i] ** 2, segment=i) for i, width in enumerate(self.config.widths))

    def layer_specs(self) -> Sequence[LayerSpec]:
        """Every stage's convolution, then the head; a layer's id is the path of its submodule."""
        config, sizes = self.config, self.config.stage_sizes()
        inputs = (config.in_channels, *config.widths)
        layers = [
            LayerSpec(
                layer_id=f"stages.{i}",
                layer_type="conv2d",
                activation_type=config.activation,
                input_channels=inputs[i],
                output_channels=width,
                dropout_rate=0.0,
                num_parameters=width * (inputs[i] * config.kernels[i] ** 2 + 1),
                flops=width * inputs[i] * config.kernels[i] ** 2 * sizes[i] ** 2,
                segment=i,
            )
            for i, width in enumerate(config.widths)
        ]
        width, classes = config.widths[-1], config.num_classes
        head = LayerSpec("classifier", "linear", None, width, classes, 0.0, classes * (width + 1), classes * width, len(self._segments))
        return (*layers, head)

    def run(self, x: Tensor, visit: Callable[[int, Tensor], Tensor]) -> Tensor:
        """[B, C, H, W] images → logits [B, classes]; every stage is visited."""
        for segment, stage in enumerate(self._segments):
            x = visit(segment, stage(x))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
