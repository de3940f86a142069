"""The parameters of many members as one tensor each, cut from a flat one and put together again in the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Column:
    """Where one parameter of all rows of a block lies: every `stride` numbers begins another row's."""

    rows: int
    shape: tuple[int, ...]
    start: int
    stride: int

    def of(self, flat: Tensor) -> Tensor:
        """View of a flat tensor, [rows, *shape]."""
        return flat.as_strided((self.rows, *self.shape), (self.stride, *_strides(self.shape)), flat.storage_offset() + self.start)


def make_columns(rows: int, shapes: Sequence[Sequence[int]], widths: Sequence[int], *, start: int) -> Iterator[Column]:
    """Columns of rows that follow one another from `start` on, each holding parameters of these shapes in so much room."""
    stride = sum(widths)
    for shape, width in zip(shapes, widths, strict=True):
        yield Column(rows, tuple(shape), start, stride)
        start += width


def cut(flat: Tensor, columns: Sequence[Column]) -> tuple[Tensor, ...]:
    """Views of a flat tensor; differentiable at the price of one node, however many they are."""
    if not (flat.requires_grad and torch.is_grad_enabled()):
        return tuple(column.of(flat) for column in columns)
    views: tuple[Tensor, ...] = _Cut.apply(flat, columns)  # type: ignore[no-untyped-call]
    return views


class _Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, columns: Sequence[Column]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.columns = columns
        whole = flat.detach()
        ctx.like = whole
        return tuple(column.of(whole) for column in columns)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor | None) -> tuple[Tensor, None]:
        gradient = torch.zeros_like(ctx.like)
        heard = [(column.of(gradient), own) for column, own in zip(ctx.columns, grad, strict=True) if own is not None]
        if heard:
            places, own_gradients = zip(*heard, strict=True)
            torch._foreach_copy_(list(places), list(own_gradients))
        return gradient, None


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
