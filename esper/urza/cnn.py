"""Blueprints for convolutional hosts.

Each module maps h [B, C, H, W] to the seed value s = h + delta(h), with delta(h) = 0 at birth. Hidden widths have a floor, so
that a host of one channel gets a working blueprint too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from esper.urza.cost import Cost, dense_cost, depthwise_cost, norm_cost, scaling_cost
from esper.urza.init import silenced
from esper.urza.mlp import hidden_width, low_rank
from esper.urza.norm import GroupNorm
from esper.urza.plain import PLAIN
from esper.urza.shapes import Planes  # noqa: TC001

if TYPE_CHECKING:
    from esper.leyline.layer_ops import LayerOps

REDUCTION = 4
"""Channels a hidden unit stands for in blueprints that squeeze before they compute."""
SPATIAL_REACH = 3.0
"""Largest change of a value by spatial attention, as a multiple of it. Places must differ by more than a factor of two for a
linear head behind a global average to learn them within a short training run."""


def squeezed_width(channels: int, *, floor: int) -> int:
    """Hidden units after squeezing, never fewer than `floor`."""
    return max(floor, channels // REDUCTION)


class Norm(nn.Module):
    """Group norm, let in by a gate: delta = tanh(scale) · norm(h), scale 0 at birth."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, h: Planes) -> Planes:
        """Compute the seed value."""
        return self.value(PLAIN, self, h)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """The seed value, for one model or for many."""
        return h + torch.tanh(ops.scalar(layers.scale)) * ops.norm(layers.norm, h)

    @staticmethod
    def cost(channels: int, positions: int) -> Cost:
        """Cost at a width."""
        return norm_cost(channels, positions) + scaling_cost(channels, positions, num_parameters=1)


class ChannelAttention(nn.Module):
    """Squeeze and excitation (Hu et al. 2018): delta = h · tanh(W₂ silu(W₁ mean(h) + b₁) + b₂), one factor a channel.

    tanh instead of the sigmoid lets a factor rise and fall from exactly 1; silu instead of relu, because a unit that reads
    pooled values of one sign may otherwise be off for every sample.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = squeezed_width(channels, floor=4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = silenced(nn.Linear(hidden, channels))

    def forward(self, h: Planes) -> Planes:
        """Compute the seed value."""
        return self.value(PLAIN, self, h)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """The seed value, for one model or for many."""
        hidden = nn.functional.silu(ops.dense(layers.squeeze, ops.pool(h)))
        return h + h * ops.spread(torch.tanh(ops.dense(layers.excite, hidden)))

    @staticmethod
    def cost(channels: int, positions: int) -> Cost:
        """Cost at a width."""
        hidden = squeezed_width(channels, floor=4)
        return dense_cost(channels, hidden, 1) + dense_cost(hidden, channels, 1) + scaling_cost(channels, positions)


class SpatialAttention(nn.Module):
    """Attention that knows where it is: delta = 3h · tanh(W₂ relu(W₁ [h; x; y] + b₁) + b₂).

    x and y run from −1 to 1 over the image (CoordConv, Liu et al. 2018), so that a global average behind the slot can tell
    where something was.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = squeezed_width(channels, floor=8)
        self.look = nn.Conv2d(channels + 2, hidden, 1)
        self.weigh = silenced(nn.Conv2d(hidden, channels, 1))

    def forward(self, h: Planes) -> Planes:
        """Compute the seed value."""
        return self.value(PLAIN, self, h)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """The seed value, for one model or for many."""
        hidden = torch.relu(ops.conv(layers.look, ops.with_coordinates(h)))
        return h + h * (SPATIAL_REACH * torch.tanh(ops.conv(layers.weigh, hidden)))

    @staticmethod
    def cost(channels: int, positions: int) -> Cost:
        """Cost at a width."""
        hidden = squeezed_width(channels, floor=8)
        maps = dense_cost(channels + 2, hidden, positions) + dense_cost(hidden, channels, positions)
        return maps + scaling_cost(channels, positions)


class Depthwise(nn.Module):
    """Depthwise-separable convolution (Chollet 2017): delta = W relu(norm(k₃ₓ₃ ∗ h)) + b, one kernel a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = GroupNorm(channels)
        self.pointwise = silenced(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Planes) -> Planes:
        """Compute the seed value."""
        return self.value(PLAIN, self, h)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """The seed value, for one model or for many."""
        return h + ops.conv(layers.pointwise, torch.relu(ops.norm(layers.norm, ops.conv(layers.spatial, h))))

    @staticmethod
    def cost(channels: int, positions: int) -> Cost:
        """Cost at a width."""
        convolutions = depthwise_cost(channels, positions, taps=9, has_bias=False) + dense_cost(channels, channels, positions)
        return convolutions + norm_cost(channels, positions)


class Bottleneck(nn.Module):
    """Squeeze, look around, widen (He et al. 2016): delta = W₃ relu(K₃ₓ₃ ∗ W₁ h), biases left out.

    The squeeze is linear (Sandler et al. 2018): rectifying the few squeezed channels would lose most of what they carry.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = squeezed_width(channels, floor=4)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.spatial = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.widen = silenced(nn.Conv2d(hidden, channels, 1))

    def forward(self, h: Planes) -> Planes:
        """Compute the seed value."""
        return self.value(PLAIN, self, h)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """The seed value, for one model or for many."""
        return h + ops.conv(layers.widen, torch.relu(ops.conv(layers.spatial, ops.conv(layers.squeeze, h))))

    @staticmethod
    def cost(channels: int, positions: int) -> Cost:
        """Cost at a width."""
        hidden = squeezed_width(channels, floor=4)
        ends = dense_cost(channels, hidden, positions) + dense_cost(hidden, channels, positions)
        return ends + dense_cost(hidden, hidden, positions, taps=9)


class ConvSmall(nn.Module):
    """A perceptron at every pixel, four times as wide as the host: delta = W₂ relu(W₁ h + b₁) + b₂."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = hidden_width(channels, 4)
        self.rise = nn.Conv2d(channels, hidden, 1)
        self.fall = silenced(nn.Conv2d(hidden, channels, 1))

    def forward(self, h: Planes) -> Planes:
        """Compute the seed value."""
        return self.value(PLAIN, self, h)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """The seed value, for one model or for many."""
        return h + ops.conv(layers.fall, torch.relu(ops.conv(layers.rise, h)))

    @staticmethod
    def cost(channels: int, positions: int) -> Cost:
        """Cost at a width."""
        hidden = hidden_width(channels, 4)
        return dense_cost(channels, hidden, positions) + dense_cost(hidden, channels, positions)


class ConvLight(nn.Module):
    """One 3×3 convolution, rectified and mixed: delta = W relu(K₃ₓ₃ ∗ h) + b, with at least eight kernels.

    Rectified responses survive a global average, so a linear host behind this blueprint can tell textures apart.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, channels)
        self.spatial = nn.Conv2d(channels, hidden, 3, padding=1)
        self.mix = silenced(nn.Conv2d(hidden, channels, 1))

    def forward(self, h: Planes) -> Planes:
        """Compute the seed value."""
        return self.value(PLAIN, self, h)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """The seed value, for one model or for many."""
        return h + ops.conv(layers.mix, torch.relu(ops.conv(layers.spatial, h)))

    @staticmethod
    def cost(channels: int, positions: int) -> Cost:
        """Cost at a width."""
        hidden = max(8, channels)
        return dense_cost(channels, hidden, positions, taps=9) + dense_cost(hidden, channels, positions)


class ConvHeavy(nn.Module):
    """Two 3×3 convolutions with twice the width between them, at least eight: delta = K′₃ₓ₃ ∗ relu(K₃ₓ₃ ∗ h)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(8, 2 * channels)
        self.rise = nn.Conv2d(channels, hidden, 3, padding=1)
        self.fall = silenced(nn.Conv2d(hidden, channels, 3, padding=1))

    def forward(self, h: Planes) -> Planes:
        """Compute the seed value."""
        return self.value(PLAIN, self, h)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """The seed value, for one model or for many."""
        return h + ops.conv(layers.fall, torch.relu(ops.conv(layers.rise, h)))

    @staticmethod
    def cost(channels: int, positions: int) -> Cost:
        """Cost at a width."""
        hidden = max(8, 2 * channels)
        return dense_cost(channels, hidden, positions, taps=9) + dense_cost(hidden, channels, positions, taps=9)


class LowRank(nn.Module):
    """A linear map of low rank at every pixel (LoRA, Hu et al. 2021): delta = up(down(h))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        rank = low_rank(channels)
        self.down = nn.Conv2d(channels, rank, 1, bias=False)
        self.up = silenced(nn.Conv2d(rank, channels, 1, bias=False))

    def forward(self, h: Planes) -> Planes:
        """Compute the seed value."""
        return self.value(PLAIN, self, h)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """The seed value, for one model or for many."""
        return h + ops.conv(layers.up, ops.conv(layers.down, h))

    @staticmethod
    def cost(channels: int, positions: int) -> Cost:
        """Cost at a width."""
        rank = low_rank(channels)
        return dense_cost(channels, rank, positions, has_bias=False) + dense_cost(rank, channels, positions, has_bias=False)
