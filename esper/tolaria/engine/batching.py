"""Samples of many members at once, brought into the layout in which a population computes while they are in a core's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esper.kasmina.transfer import bring
from esper.tolaria.data import draw_moves, move, take

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from esper.tolaria.data import Dataset

CACHED_BYTES = 1 << 20
"""Samples that fill no more are joined in one go: about a core's own cache."""
EPOCH_BYTES = 1 << 22
"""Samples that fill no more are taken for a whole epoch at once."""
GPU_EPOCH_BYTES = 1 << 30


def training_batches(
    datasets: Sequence[Dataset], orders: Tensor, batch_size: int, generators: Sequence[torch.Generator]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches of every member, one after another; nothing is brought to the data's device after the first.

    Args:
        datasets: The members' data, of one shape.
        orders: [K, N] which training samples, on the CPU.
        batch_size: Samples of a member in a batch; the last one holds what remains.
        generators: Every member's source of augmentation.

    Yields:
        Inputs [K, B, …] and labels [K, B] or [K, B, T].
    """
    first = datasets[0]
    sizes = [len(part) for part in orders[0].split(batch_size)]
    drawn = [moves_of_an_epoch(first, sizes, generator) for generator in generators]
    moves = bring(torch.stack([own for own in drawn if own is not None]), first.train_y.device) if drawn[0] is not None else None
    orders = bring(orders, first.train_y.device)
    labels = torch.stack([take(data.train_y, own) for data, own in zip(datasets, orders, strict=True)])
    num_bytes = orders.numel() * first.train_x.shape[1:].numel() * first.train_x.element_size()
    fits = (moves is None and num_bytes <= EPOCH_BYTES) if orders.is_cpu else num_bytes <= GPU_EPOCH_BYTES
    inputs = torch.stack([take(data.train_x, own) for data, own in zip(datasets, orders, strict=True)]) if fits else None
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        own_moves = None if moves is None else moves[:, part]
        if inputs is None:
            yield _joined_batch(datasets, orders[:, part], own_moves), labels[:, part]
        else:
            yield _moved(inputs[:, part], own_moves), labels[:, part]
        start += size


def moves_of_an_epoch(dataset: Dataset, sizes: Sequence[int], generator: torch.Generator) -> Tensor | None:
    """How every sample of an epoch is augmented, drawn batch by batch; None if nothing is to change.

    Args:
        dataset: Says what to do.
        sizes: Samples of every batch.
        generator: CPU generator.

    Returns:
        [N, 2 or 3], on the CPU; see `draw_moves`.
    """
    shape = dataset.train_x.shape[1:]
    moves = [draw_moves((size, *shape), dataset.augmentation, generator) for size in sizes]
    drawn = [own for own in moves if own is not None]
    return torch.cat(drawn) if drawn else None


def _joined_batch(datasets: Sequence[Dataset], index: Tensor, moves: Tensor | None) -> Tensor:
    """Samples at `index` [K, B] of every member, moved."""
    like = datasets[0].train_x
    parts = (take(data.train_x, own) for data, own in zip(datasets, index, strict=True))
    if _fits(like, index.numel() * like.shape[1:].numel()):
        return _moved(torch.stack(list(parts)), moves)
    if moves is None:
        return join(parts, len(datasets))
    return join((move(part, own) for part, own in zip(parts, moves, strict=True)), len(datasets))


def _moved(x: Tensor, moves: Tensor | None) -> Tensor:
    """Images [K, B, C, H, W] as `moves` [K, B, 2 or 3] say; without them anything as it is."""
    return x if moves is None else move(x.flatten(0, 1), moves.flatten(0, 1)).view_as(x)


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
