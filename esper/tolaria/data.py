"""The data of one episode, in memory, and how a training epoch walks through it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Num  # noqa: TC002
from torch import Tensor
from torch.nn import functional

from esper.kasmina.transfer import bring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DataKind = Literal["image", "tokens", "vector"]
Augmentation = Literal["none", "shift", "crop_flip"]

SHIFT_FRAC = 1 / 8
"""Furthest shift of an augmented image, as a share of its side."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Training, validation and test samples, drawn apart from one another.

    Raises:
        ValueError: If inputs and labels of a part differ in number, or a part is empty.
    """

    train_x: Tensor
    """[N, C, H, W] float32 standardised images, [N, T] int64 tokens, or [N, F] float32 vectors."""
    train_y: Tensor
    """[N] int64 classes."""
    val_x: Tensor
    val_y: Tensor
    test_x: Tensor
    test_y: Tensor
    num_classes: int
    kind: DataKind
    augmentation: Augmentation = "none"
    """What `augment` should do to a training batch; validation and test data are never changed."""
    vocab_size: int | None = None
    """Number of different tokens; None where the inputs are not tokens."""

    def __post_init__(self) -> None:
        """Refuse parts that do not match."""
        for part in ("train", "val", "test"):
            num_inputs, num_labels = len(getattr(self, f"{part}_x")), len(getattr(self, f"{part}_y"))
            if num_inputs != num_labels or num_inputs == 0:
                raise ValueError(f"{part} data: {num_inputs} inputs and {num_labels} labels; both should be the same and not 0")

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on another device."""
        return self.with_each(lambda tensor: tensor.to(device))

    def with_each(self, change: Callable[[Tensor], Tensor]) -> Dataset:
        """The same with every tensor changed."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items()})  # type: ignore[arg-type]


def batches(dataset: Dataset, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of training batches as they are stored: every sample once, in an order drawn from `generator`.

    Args:
        dataset: What to walk through.
        batch_size: Samples in a batch; the last one holds what remains.
        generator: CPU generator; the batches lie on the data set's device.

    Yields:
        Inputs and their classes [B].
    """
    order = torch.randperm(len(dataset.train_y), generator=generator)
    for index in bring(order, dataset.train_y.device).split(batch_size):
        yield take(dataset.train_x, index), take(dataset.train_y, index)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Samples at `index` [B]. Plain tensors are read as fast as torch can; other kinds of data know by themselves how."""
    return x.index_select(0, index) if type(x) is Tensor else x[index]


def augment(x: Num[Tensor, B * shape], kind: Augmentation, generator: torch.Generator) -> Num[Tensor, B * shape]:  # noqa: F821
    """Vary a batch of images, each in its own way; the shape stays and a class must not depend on what changes.

    Args:
        x: [B, C, H, W] images whose mean is 0, since what is shifted in is 0.
        kind: `none` returns `x` itself; `shift` moves by up to an eighth of the side; `crop_flip` also mirrors half of them.
        generator: CPU generator.

    Returns:
        [B, C, H, W]

    Raises:
        ValueError: If something other than images should be augmented.
    """
    moves = draw_moves(x.shape, kind, generator)
    return x if moves is None else move(x, moves)


def draw_moves(shape: Sequence[int], kind: Augmentation, generator: torch.Generator) -> Tensor | None:
    """Where the window of each of a batch of images [B, C, H, W] shall begin in the padded image, and whether it is mirrored.

    Returns:
        [B, 2] first rows and columns, or [B, 3] with 1 where an image is mirrored, on the CPU; None if nothing is to change.

    Raises:
        ValueError: If something other than images should be augmented.
    """
    if kind == "none":
        return None
    if len(shape) != 4:
        raise ValueError(f"augmentation {kind!r} is for images [B, C, H, W], got {list(shape)}; use 'none'")
    num, _, *sizes = shape
    moves = [torch.randint(0, 2 * _margin(size) + 1, (num, 1), generator=generator) for size in sizes]
    if kind == "crop_flip":
        moves.append((torch.rand(num, 1, generator=generator) < 0.5).long())
    return torch.cat(moves, dim=1)


def move(x: Tensor, moves: Tensor) -> Tensor:
    """Cut images [B, C, H, W] anew as `draw_moves` says; nothing but the images' own device is used."""
    num, channels, height, width = x.shape
    moves = moves.to(x.device)
    rows, columns = (moves[:, axis, None] + torch.arange(size, device=x.device) for axis, size in enumerate((height, width)))
    if moves.shape[1] > 2:
        columns = torch.where(moves[:, 2:] > 0, columns.flip(1), columns)
    index = rows[:, :, None] * (width + 2 * _margin(width)) + columns[:, None, :]
    padded = functional.pad(x, (_margin(width), _margin(width), _margin(height), _margin(height)))
    return padded.flatten(2).gather(2, index.view(num, 1, height * width).expand(-1, channels, -1)).view_as(x)


def _margin(size: int) -> int:
    return max(1, round(size * SHIFT_FRAC))
