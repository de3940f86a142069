"""Samples of many members at once, brought into the layout in which a population computes while they are in a core's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esper.tolaria.data import augment, draw_variation, take, vary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esper.tolaria.data import Dataset

CACHED_BYTES = 1 << 20
"""Samples that fill no more are joined in one go: about a core's own cache."""


def training_batch(datasets: Sequence[Dataset], index: Tensor, variations: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
    """One augmented batch of every member.

    Args:
        datasets: The members' data, of one shape.
        index: [K, B] which training samples.
        variations: Every member's source of augmentation.

    Returns:
        Inputs [K, B, …] and labels [K, B] or [K, B, T].
    """
    labels = torch.stack([take(data.train_y, own) for data, own in zip(datasets, index, strict=True)])
    kind = datasets[0].augmentation
    size, count = datasets[0].train_x.shape[1:].numel(), index.shape[1]
    if _fits(datasets[0].train_x, len(datasets) * count * size):
        x = torch.stack([take(data.train_x, own) for data, own in zip(datasets, index, strict=True)])
        drawn = [draw_variation(x.shape[1:], kind, generator) for generator in variations]
        moves = [one for one in drawn if one is not None]
        return (vary(x.flatten(0, 1), torch.cat(moves)).view_as(x) if moves else x), labels
    parts = (augment(take(data.train_x, own), kind, source) for data, own, source in zip(datasets, index, variations, strict=True))
    return join(parts, len(datasets)), labels


def join(parts: Iterable[Tensor], num_members: int) -> Tensor:
    """Members' samples [B, …] as one tensor [K, B, …].

    Where they are images that would not fit a cache together, samples come to lie innermost in memory, member by member: a
    population computes that way, and turning all of them at once takes several times as long.
    """
    ordered = iter(parts)
    first = next(ordered)
    if first.ndim != 4 or _fits(first, num_members * first.numel()):
        return torch.stack([first, *ordered])
    joined = first.new_empty(num_members, *first.shape[1:], len(first))
    joined[0].flatten(0, 2).copy_(first.flatten(1).T)
    for place, part in zip(joined[1:], ordered, strict=True):
        place.flatten(0, 2).copy_(part.flatten(1).T)
    return joined.permute(0, 4, 1, 2, 3)


def _fits(like: Tensor, count: int) -> bool:
    """Whether so many numbers may be handled at once; a GPU prefers few large steps."""
    return not like.is_cpu or count * like.element_size() <= CACHED_BYTES
