"""Matrix products of many members at once, such that no member's numbers depend on how many there are.

A BLAS kernel may round differently where memory is aligned differently, so every operand and every result starts at a multiple
of `ALIGNMENT_BYTES`, as a tensor of one member does. And BLAS knows vectors, but only when there is one member; so a matrix of
one row or column is multiplied by hand.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float  # noqa: TC002
from torch import Tensor

ALIGNMENT_BYTES = 64
"""One cache line; the largest vector register is no longer."""
SMALLEST_BLAS_PRODUCT = 400
"""Multiplications from which on torch hands the products of a batch to BLAS, where those of single matrices always go."""
UNROLLED_BYTES = 128
"""Two vector registers. Element-wise kernels work in such blocks, and what remains is computed, and rounded, otherwise."""


def multiply(a: Float[Tensor, "K M C"], b: Float[Tensor, "K C N"], plus: Tensor | None = None) -> Float[Tensor, "K M N"]:  # noqa: F722
    """Compute a · b + plus, member by member; not differentiable.

    Args:
        a: Left factors, or transposed views of contiguous ones.
        b: Right factors, likewise.
        plus: Broadcastable to the result.
    """
    K, M, N = a.shape[0], a.shape[1], b.shape[2]
    if M == 1 or N == 1:
        y = (a.mT * b).sum(1, keepdim=True) if M == 1 else (a * b.mT).sum(2, keepdim=True)
        return y if plus is None else y.add_(plus)
    a, b = settle(a), settle(b)
    if not a.is_cpu or M * N * a.element_size() % ALIGNMENT_BYTES == 0:
        return torch.bmm(a, b) if plus is None else torch.baddbmm(plus, a, b)
    y = make_room(a, (K, M, N))
    if M * a.shape[2] * N >= SMALLEST_BLAS_PRODUCT:
        torch.bmm(a, b, out=y)
    else:
        for left, right, out in zip(a.unbind(0), b.unbind(0), y.unbind(0), strict=True):
            torch.mm(left, right, out=out)
    return y if plus is None else y.add_(plus)


def settle(x: Float[Tensor, "K M N"]) -> Float[Tensor, "K M N"]:  # noqa: F722
    """`x` itself where its members are aligned and their rows or columns whole, else a copy of which this is true."""
    _, rows, columns = x.shape
    member, row, column = x.stride()
    whole = (column == 1 and row >= columns) or (row == 1 and column >= rows)
    if not x.is_cpu or (whole and x.data_ptr() % ALIGNMENT_BYTES == 0 and member * x.element_size() % ALIGNMENT_BYTES == 0):
        return x
    transposed = row == 1 and column != 1
    source = x.mT if transposed else x
    copy = make_room(source, source.shape).copy_(source)
    return copy.mT if transposed else copy


def set_apart(x: Tensor) -> Tensor:
    """`x` [K, …] or a copy, such that element-wise kernels treat every number of a member alike, whoever stands before it.

    Where a member does not fill whole blocks of a kernel, some of its numbers would be computed as a remainder, and which ones
    would depend on the members before. With every other place left empty, all of them are computed one by one.
    """
    size = x[0].numel()
    if not x.is_cpu or size * x.element_size() % UNROLLED_BYTES == 0:
        return x
    return x.new_empty(x.shape[0], size + 1, 2)[:, :size, 0].view(x.shape).copy_(x)


def make_room(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uninitialised memory for [K, …] in which every member is aligned."""
    size = math.prod(shape[1:])
    step = ALIGNMENT_BYTES // like.element_size()
    return like.new_empty(shape[0], size + -size % step)[:, :size].view(shape)


class _MapColumns(torch.autograd.Function):
    """weight · x + bias for x [K, C, L]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, weight = settle(x), settle(weight)
        ctx.save_for_backward(x, weight)
        return set_apart(multiply(weight, x, None if bias is None else bias[:, :, None]))

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        g = settle(grad[0])
        dx = multiply(weight.mT, g) if ctx.needs_input_grad[0] else None
        dw = multiply(g, x.mT) if ctx.needs_input_grad[1] else None
        return dx, dw, g.sum(2) if ctx.needs_input_grad[2] else None


class _MapRows(torch.autograd.Function):
    """x · weightᵀ + bias for x [K, N, C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, weight = settle(x), settle(weight)
        ctx.save_for_backward(x, weight)
        return set_apart(multiply(x, weight.mT, None if bias is None else bias[:, None]))

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        g = settle(grad[0])
        dx = multiply(g, weight) if ctx.needs_input_grad[0] else None
        dw = multiply(g.mT, x) if ctx.needs_input_grad[1] else None
        return dx, dw, g.sum(1) if ctx.needs_input_grad[2] else None


def map_columns(
    x: Float[Tensor, "K C L"],  # noqa: F722
    weight: Float[Tensor, "K O C"],  # noqa: F722
    bias: Float[Tensor, "K O"] | None,  # noqa: F722
) -> Float[Tensor, "K O L"]:  # noqa: F722
    """Compute weight · x + bias."""
    y: Tensor = _MapColumns.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def map_rows(
    x: Float[Tensor, "K N C"],  # noqa: F722
    weight: Float[Tensor, "K O C"],  # noqa: F722
    bias: Float[Tensor, "K O"] | None,  # noqa: F722
) -> Float[Tensor, "K N O"]:  # noqa: F722
    """Compute x · weightᵀ + bias."""
    y: Tensor = _MapRows.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y
