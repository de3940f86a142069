"""Blueprints for transformer hosts, beside those of `mlp` that serve any last axis.

Each module maps h [B, T, C] to the seed value s = h + delta(h), with delta(h) = 0 at birth. Position t never sees a later one.
Branches normalise what they read (pre-norm, Xiong et al. 2020), because a residual stream has no scale of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from esper.urza.cost import Cost, attention_cost, dense_cost, depthwise_cost, norm_cost
from esper.urza.init import silenced
from esper.urza.mlp import hidden_width
from esper.urza.norm import LayerNorm
from esper.urza.plain import PLAIN
from esper.urza.shapes import Tokens  # noqa: TC001

if TYPE_CHECKING:
    from esper.leyline.layer_ops import LayerOps

CAUSAL_TAPS = 4
"""Positions the causal convolution sees: t, t−1, t−2 and t−3."""


def num_heads(channels: int) -> int:
    """Largest of 4, 3, 2, 1 that divides the width."""
    return next(heads for heads in (4, 3, 2, 1) if channels % heads == 0)


class Attention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017): delta = W softmax(q kᵀ / √d, past only) v."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_heads = num_heads(channels)
        self.norm = LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels, bias=False)
        self.out = silenced(nn.Linear(channels, channels))

    def forward(self, h: Tokens) -> Tokens:
        """Compute the seed value."""
        return self.value(PLAIN, self, h)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """The seed value, for one model or for many."""
        packed = ops.dense(layers.query_key_value, ops.norm(layers.norm, h))
        return h + ops.dense(layers.out, ops.attend(packed, layers.num_heads))

    @staticmethod
    def cost(channels: int, positions: int) -> Cost:
        """Cost at a width."""
        projections = dense_cost(channels, 3 * channels, positions, has_bias=False) + dense_cost(channels, channels, positions)
        return norm_cost(channels, positions) + projections + attention_cost(channels, positions)


class FeedForward(nn.Module):
    """A pre-norm feed-forward block: delta = W₂ gelu(W₁ norm(h) + b₁) + b₂."""

    def __init__(self, channels: int, *, expansion: int) -> None:
        super().__init__()
        hidden = hidden_width(channels, expansion)
        self.norm = LayerNorm(channels)
        self.rise = nn.Linear(channels, hidden)
        self.fall = silenced(nn.Linear(hidden, channels))

    def forward(self, h: Tokens) -> Tokens:
        """Compute the seed value."""
        return self.value(PLAIN, self, h)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """The seed value, for one model or for many."""
        return h + ops.dense(layers.fall, nn.functional.gelu(ops.dense(layers.rise, ops.norm(layers.norm, h))))

    @staticmethod
    def cost(channels: int, positions: int, *, expansion: int) -> Cost:
        """Cost at a width."""
        hidden = hidden_width(channels, expansion)
        return norm_cost(channels, positions) + dense_cost(channels, hidden, positions) + dense_cost(hidden, channels, positions)


class CausalConv(nn.Module):
    """The last four positions of each channel, then all channels of one position: delta = W silu(taps ∗ norm(h)) + b."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm(channels)
        self.over_time = nn.Conv1d(channels, channels, CAUSAL_TAPS, groups=channels)
        self.pointwise = silenced(nn.Linear(channels, channels))

    def forward(self, h: Tokens) -> Tokens:
        """Compute the seed value."""
        return self.value(PLAIN, self, h)

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """The seed value, for one model or for many."""
        past = nn.functional.silu(ops.causal_conv(layers.over_time, ops.norm(layers.norm, h)))
        return h + ops.dense(layers.pointwise, past)

    @staticmethod
    def cost(channels: int, positions: int) -> Cost:
        """Cost at a width."""
        mixing = depthwise_cost(channels, positions, taps=CAUSAL_TAPS) + dense_cost(channels, channels, positions)
        return norm_cost(channels, positions) + mixing
