"""Normalisation that works at every width and in every memory format.

`torch.nn.GroupNorm` is not used: in torch 2.13 its backward crashes the process when the input is channels_last and does not
require grad, which is what a seed sees while it trains isolated from its host.
"""

from __future__ import annotations

import torch
from torch import nn

from esper.urza.shapes import Planes, Rows  # noqa: TC001

MIN_GROUP_CHANNELS = 16
"""Channels below which a group's statistics would be too noisy."""


def num_groups(channels: int) -> int:
    """Largest of 32, 16, 8, 4, 2, 1 that divides `channels` into groups of at least `MIN_GROUP_CHANNELS`; 1 when narrower."""
    fitting = (g for g in (32, 16, 8, 4, 2) if channels % g == 0 and channels // g >= MIN_GROUP_CHANNELS)
    return next(fitting, 1)


def standardise(x: Rows) -> Rows:
    """Bring every row to mean 0 and mean square 1.

    A row of one value keeps its sign and is only scaled: its distance from its own mean is always 0, and so would be every
    gradient.
    """
    if x.shape[-1] == 1:
        return nn.functional.rms_norm(x, (1,), eps=1e-5)
    return nn.functional.layer_norm(x, (x.shape[-1],), eps=1e-5)


class GroupNorm(nn.Module):
    """Group normalisation over channels and positions (Wu & He 2018), with gain and bias per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = num_groups(channels)
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Planes) -> Planes:
        """Normalise each group of channels of each sample."""
        rows = x.reshape(x.shape[0], self.groups, -1)  # copies a channels_last input to contiguous memory
        return torch.addcmul(self.bias, standardise(rows).view(x.shape), self.weight)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis (Ba et al. 2016), with gain and bias per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Rows) -> Rows:
        """Normalise the channels at each position."""
        return torch.addcmul(self.bias, standardise(x), self.weight)
