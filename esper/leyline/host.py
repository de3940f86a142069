"""What a host network tells about itself, so that seeds can be placed and the policy can see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

HostFamily = Literal["cnn", "transformer", "mlp"]
"""Shape of the values at a slot: cnn [B, C, H, W], transformer [B, T, C], mlp [B, C]."""


class WrapError(ValueError):
    """A model, slot or input that cannot be wrapped as a host; the message says what would be right."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


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
    """Number of the host segment whose output the slot receives; segments are numbered as they run."""


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
    """Segment that the layer belongs to: it runs before the slot of that segment, and after those of earlier ones."""


class HostProtocol(Protocol):
    """A network with places where seeds may grow; slot `i` receives the value of the segment its spec names.

    Where a host is a chain of segments, its forward pass with seeds is:

        for segment, part in enumerate(parts):
            x = visit(segment, part(x))
        logits = head(x)
    """

    @property
    def family(self) -> HostFamily:
        """Shape family of the values at the slots."""
        ...

    @property
    def shares_prefixes(self) -> bool:
        """Whether a visit may return more samples than it was given: several configurations stacked along the batch."""
        ...

    def injection_specs(self) -> Sequence[InjectionSpec]:
        """Slots in row-major order."""
        ...

    def layer_specs(self) -> Sequence[LayerSpec]:
        """Layers in execution order, the head last."""
        ...

    def run(self, x: Tensor, visit: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Logits [B, classes], or [B, T, classes] for per-token tasks.

        Args:
            x: One batch.
            visit: Called once with every segment that has a slot, in execution order, and with its value; what it
                returns flows on.
        """
        ...
