"""The data of one episode, in memory, and how a training epoch walks through it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Num  # noqa: TC002
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


def batches(dataset: Dataset, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of training batches as they are stored: every sample once, in an order drawn from `generator`.

    Args:
        dataset: What to walk through.
        batch_size: Samples in a batch; the last one holds what remains.
        generator: CPU generator; the batches lie on the data set's device.

    Yields:
        Inputs and their classes [B].
    """
    order = torch.randperm(len(dataset.train_y), generator=generator).to(dataset.train_y.device)
    for index in torch.split(order, batch_size):
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
    index = draw_variation(x.shape, kind, generator)
    return x if index is None else vary(x, index)


def draw_variation(shape: Sequence[int], kind: Augmentation, generator: torch.Generator) -> Tensor | None:
    """Where each pixel of a batch of images [B, C, H, W] shall come from.

    Returns:
        [B, H·W] positions in the padded image, on the CPU; None if nothing is to change.

    Raises:
        ValueError: If something other than images should be augmented.
    """
    if kind == "none":
        return None
    if len(shape) != 4:
        raise ValueError(f"augmentation {kind!r} is for images [B, C, H, W], got {list(shape)}; use 'none'")
    num, _, height, width = shape
    rows = _shifted(num, height, generator)
    columns = _shifted(num, width, generator)
    if kind == "crop_flip":
        mirrored = torch.rand(num, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    return (rows[:, :, None] * (width + 2 * _margin(width)) + columns[:, None, :]).view(num, height * width)


def vary(x: Tensor, index: Tensor) -> Tensor:
    """Move the pixels of images [B, C, H, W] as `draw_variation` says."""
    num, channels, height, width = x.shape
    padded = functional.pad(x, (_margin(width), _margin(width), _margin(height), _margin(height)))
    source = index.to(x.device).view(num, 1, height * width).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, source).view_as(x)


def _margin(size: int) -> int:
    return max(1, round(size * SHIFT_FRAC))


def _shifted(num: int, size: int, generator: torch.Generator) -> Tensor:
    """Indices [num, size] of windows into an axis that is padded on both sides."""
    start = torch.randint(0, 2 * _margin(size) + 1, (num, 1), generator=generator)
    return start + torch.arange(size)
