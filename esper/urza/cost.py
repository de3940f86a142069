"""What does a blueprint cost? Parameters and multiply-accumulates for one sample, by formula.

Each blueprint adds up the costs of its parts from the functions below; no module is built to answer. Additions, biases,
activations and pooling are not counted, as is usual.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """Size and work of a module, or of a part of one; costs add up."""

    num_parameters: int
    product_flops: int
    """Multiply-accumulates of convolutions, matrix products and attention, for one sample."""
    pointwise_flops: int = 0
    """Multiplications of single values (norms, gates), for one sample."""

    @property
    def flops(self) -> int:
        """All multiply-accumulates for one sample."""
        return self.product_flops + self.pointwise_flops

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.num_parameters + other.num_parameters,
            self.product_flops + other.product_flops,
            self.pointwise_flops + other.pointwise_flops,
        )


def dense_cost(in_channels: int, out_channels: int, positions: int, *, taps: int = 1, has_bias: bool = True) -> Cost:
    """A linear map at every position, or a convolution that keeps the number of positions.

    Args:
        in_channels: Channels read.
        out_channels: Channels written.
        positions: Places at which the map is applied: H·W, T or 1.
        taps: Places each output looks at, e.g. 9 for a 3×3 kernel; padding counts as work.
        has_bias: Whether every output channel has a bias.
    """
    weights = in_channels * out_channels * taps
    return Cost(weights + out_channels * has_bias, weights * positions)


def depthwise_cost(channels: int, positions: int, *, taps: int, has_bias: bool = True) -> Cost:
    """A convolution that keeps every channel to itself; arguments as in `dense_cost`."""
    return Cost(channels * taps + channels * has_bias, channels * taps * positions)


def attention_cost(channels: int, positions: int) -> Cost:
    """Scores between all pairs of positions and the mixing they weigh, without projections.

    Causal masking is not deducted: the count is that of the dense products, 2·T²·C whatever the number of heads.
    """
    return Cost(0, 2 * positions * positions * channels)


def norm_cost(channels: int, positions: int) -> Cost:
    """A normalisation with gain and bias per channel: three multiplications a value (variance, division, gain)."""
    return Cost(2 * channels, 0, 3 * channels * positions)


def scaling_cost(channels: int, positions: int, *, num_parameters: int = 0) -> Cost:
    """Every value times a factor."""
    return Cost(num_parameters, 0, channels * positions)
