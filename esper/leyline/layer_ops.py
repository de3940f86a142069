"""The operations that blueprints are written in, so that one formula serves one model and a whole population of them.

A blueprint module states its value once, as `value(ops, layers, h)`. With plain operations, `layers` is the module itself. With
stacked ones, `layers` is a tree of the same attribute names whose tensors carry K members on a leading axis, and so does h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


class LayerOps(Protocol):
    """Shapes below are those of one member; stacked operations take and give the same with members in front.

    Values are planes [B, C, H, W] in cnn hosts (stacked: [K, C, H, W, B]) and rows [B, C] or [B, T, C] in others. Element-wise
    functions of torch work on any of them. `layer` is anything with the named attributes.
    """

    def conv(self, layer: Any, x: Tensor) -> Tensor:
        """Convolution that keeps H and W: `weight` [O, C / groups, k, k] with k odd, `bias` [O] or None, `groups` 1 or C."""
        ...

    def dense(self, layer: Any, x: Tensor) -> Tensor:
        """Linear map of the channels of rows, or of pooled planes: `weight` [O, C], `bias` [O] or None."""
        ...

    def norm(self, layer: Any, x: Tensor) -> Tensor:
        """Mean 0 and mean square 1 per sample and group (planes, `groups`) or per position (rows), then `weight` and `bias`."""
        ...

    def pool(self, x: Tensor) -> Tensor:
        """Mean over the positions of planes: [B, C]."""
        ...

    def spread(self, pooled: Tensor) -> Tensor:
        """One value per sample and channel, so shaped that it broadcasts over planes."""
        ...

    def scalar(self, parameter: Tensor) -> Tensor:
        """A parameter without axes, so shaped that it broadcasts over values."""
        ...

    def with_coordinates(self, x: Tensor) -> Tensor:
        """Planes with two channels more: x and y, each from −1 to 1 over the image."""
        ...

    def attend(self, packed: Tensor, num_heads: int) -> Tensor:
        """Causal multi-head attention over [B, T, 3·C] that holds queries, keys and values; gives [B, T, C]."""
        ...

    def causal_conv(self, layer: Any, x: Tensor) -> Tensor:
        """Each channel with its own past: `weight` [C, 1, taps] and `bias` [C] over the T of [B, T, C]."""
        ...


@runtime_checkable
class Stackable(Protocol):
    """A module whose formula can run for many members at once."""

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """What `forward` computes, with the operations and parameters given."""
        ...
