"""The parameters of many members as one tensor each, cut from a flat one and put together again in the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


Stack = Tensor | tuple[Tensor, ...]
"""One parameter of many members: stacked in front, or a tensor each."""


@dataclass(frozen=True, slots=True)
class Column:
    """A view of a flat tensor."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int

    def of(self, flat: Tensor) -> Tensor:
        """What lies there."""
        return flat.as_strided(self.shape, self.strides, flat.storage_offset() + self.start)


def make_column(shape: Sequence[int], start: int) -> Column:
    """One parameter of one row, [*shape]."""
    return Column(tuple(shape), _strides(shape), start)


def make_stacked_column(rows: int, shape: Sequence[int], start: int, *, stride: int) -> Column:
    """One parameter of all rows, [rows, *shape]; every `stride` numbers begins another row's."""
    return Column((rows, *shape), (stride, *_strides(shape)), start)


def pick(stack: Stack, rows: Sequence[int], index: Tensor) -> Stack:
    """The parameter of some rows; `index` names the same ones on the parameters' device."""
    return stack.index_select(0, index) if isinstance(stack, Tensor) else tuple(stack[row] for row in rows)


def cut(flat: Tensor, columns: Sequence[Column], heard: list[bool] | None = None) -> tuple[Tensor, ...]:
    """Views of a flat tensor; differentiable at the price of one node, however many they are.

    Args:
        flat: What to cut.
        columns: Where.
        heard: Told by every backward pass, of each column, whether anything depended on it.
    """
    if not (flat.requires_grad and torch.is_grad_enabled()):
        plain = flat.detach()
        return tuple(column.of(plain) for column in columns)
    views: tuple[Tensor, ...] = _Cut.apply(flat, columns, heard)  # type: ignore[no-untyped-call]
    return views


class _Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, columns: Sequence[Column], heard: list[bool] | None) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.columns, ctx.heard = columns, heard
        ctx.like = flat.detach()
        return tuple(column.of(ctx.like) for column in columns)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor | None) -> tuple[Tensor, None, None]:
        if ctx.heard is not None:
            ctx.heard[:] = [own is not None for own in grad]
        gradient = torch.zeros_like(ctx.like)
        pairs = [(column.of(gradient), own) for column, own in zip(ctx.columns, grad, strict=True) if own is not None]
        if pairs:
            places, own_gradients = zip(*pairs, strict=True)
            torch._foreach_copy_(list(places), list(own_gradients))
        return gradient, None, None


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
