"""Blueprints that treat every position alike: for MLP hosts, and partly shared with transformers.

Each module maps h [*B, C] to the seed value s = h + delta(h), with delta(h) = 0 at birth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from esper.urza.cost import Cost, dense_cost, norm_cost, scaling_cost
from esper.urza.init import silenced
from esper.urza.norm import LayerNorm
from esper.urza.plain import PLAIN
from esper.urza.shapes import Rows  # noqa: TC001

if TYPE_CHECKING:
    from esper.leyline.layer_ops import LayerOps


def hidden_width(channels: int, expansion: int) -> int:
    """Hidden units of a perceptron: `expansion` a channel, counting at least two channels."""
    return expansion * max(channels, 2)


class Norm(nn.Module):
    """Layer norm, let in by a gate: delta = tanh(scale) · norm(h), scale 0 at birth."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm(channels)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, h: Rows) -> Rows:
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


class LowRank(nn.Module):
    """A linear map of low rank (LoRA, Hu et al. 2021): delta = up(down(h)).

    The rank is one `divisor`-th of the width, at least 2 and at most `max_rank`.
    """

    def __init__(self, channels: int, *, max_rank: int = 8, divisor: int = 8) -> None:
        super().__init__()
        rank = low_rank(channels, max_rank, divisor)
        self.down = nn.Linear(channels, rank, bias=False)
        self.up = silenced(nn.Linear(rank, channels, bias=False))

    def forward(self, h: Rows) -> Rows:
        """Compute the seed value."""
        return self.value(PLAIN, self, h)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """The seed value, for one model or for many."""
        return h + ops.dense(layers.up, ops.dense(layers.down, h))

    @staticmethod
    def cost(channels: int, positions: int, *, max_rank: int = 8, divisor: int = 8) -> Cost:
        """Cost at a width."""
        rank = low_rank(channels, max_rank, divisor)
        return dense_cost(channels, rank, positions, has_bias=False) + dense_cost(rank, channels, positions, has_bias=False)


def low_rank(channels: int, max_rank: int = 8, divisor: int = 8) -> int:
    """Rank of a low-rank map at a width."""
    return min(max_rank, max(2, channels // divisor))


class Perceptron(nn.Module):
    """One hidden layer: delta = W₂ gelu(W₁ h + b₁) + b₂."""

    def __init__(self, channels: int, *, expansion: int) -> None:
        super().__init__()
        hidden = hidden_width(channels, expansion)
        self.rise = nn.Linear(channels, hidden)
        self.fall = silenced(nn.Linear(hidden, channels))

    def forward(self, h: Rows) -> Rows:
        """Compute the seed value."""
        return self.value(PLAIN, self, h)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """The seed value, for one model or for many."""
        return h + ops.dense(layers.fall, nn.functional.gelu(ops.dense(layers.rise, h)))

    @staticmethod
    def cost(channels: int, positions: int, *, expansion: int) -> Cost:
        """Cost at a width."""
        hidden = hidden_width(channels, expansion)
        return dense_cost(channels, hidden, positions) + dense_cost(hidden, channels, positions)
