"""What a host network tells about itself, so that seeds can be placed and the policy can see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

HostFamily = Literal["cnn", "transformer", "mlp"]
"""Shape of the values at a slot: cnn [B, C, H, W], transformer [B, T, C], mlp [B, C]."""


@dataclass(frozen=True, slots=True)
class InjectionSpec:
    """One place where a seed may grow."""

    slot_id: str
    """`r{row}c{column}`; row-major order is the index order of the slot head."""
    channels: int
    """C at the slot."""
    positions: int
    """Values a channel has at the slot: H·W, T or 1. Costs in FLOPs scale with it."""
    segment: int
    """Index of the host segment whose output the slot receives."""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Static description of one host layer, as the policy may see it."""

    layer_id: str
    layer_type: str
    """Name in the layer-type registry, e.g. `conv2d`, `linear`, `attention`, `embedding`."""
    activation_type: str | None
    """Name in the activation registry; None where the host does not say."""
    input_channels: int
    output_channels: int
    dropout_rate: float
    num_parameters: int
    flops: int
    """Multiply-accumulates for one sample."""
    segment: int


class HostProtocol(Protocol):
    """A network cut into segments; slot `i` stands behind the segment its spec names.

    The forward pass of a grown host is exactly:

        for i in range(num_segments):
            x = host.forward_segment(i, x)
            for slot in slots_behind[i]:
                x = slot(x)
        logits = host.head(x)
    """

    @property
    def family(self) -> HostFamily:
        """Shape family of the values at the slots."""
        ...

    @property
    def num_segments(self) -> int:
        """Number of segments before the head."""
        ...

    def injection_specs(self) -> Sequence[InjectionSpec]:
        """Slots in row-major order."""
        ...

    def layer_specs(self) -> Sequence[LayerSpec]:
        """Layers in execution order, the head last."""
        ...

    def forward_segment(self, index: int, x: Tensor) -> Tensor:
        """Run one segment."""
        ...

    def head(self, x: Tensor) -> Tensor:
        """Map the last segment's output to logits: [B, classes], or [B, T, classes] for per-token tasks."""
        ...
