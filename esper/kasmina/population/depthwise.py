"""Depthwise convolutions of planes [K, C, H, W, B] with kernels of each member's own, H and W kept."""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003
from typing import Any

import torch
from jaxtyping import Float  # noqa: TC002
from torch import Tensor

from esper.kasmina.population.product import set_apart


def convolve_depthwise(
    x: Float[Tensor, "K C H W B"],  # noqa: F722
    weight: Float[Tensor, "K C 1 k k"],  # noqa: F722
    bias: Float[Tensor, "K C"] | None,  # noqa: F722
) -> Float[Tensor, "K C H W B"]:  # noqa: F722
    """Convolution of each channel by an odd kernel of its own; pixels outside the image are 0."""
    y: Tensor = _ConvolveDepthwise.apply(x, weight)  # type: ignore[no-untyped-call]
    return y if bias is None else y + bias[:, :, None, None, None]


class _ConvolveDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        return set_apart(_moved_sum(x, weight))

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        g = grad[0].contiguous()
        dx = _moved_sum(g, weight.flip(3, 4)) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return dx, None
        dw = torch.zeros_like(weight)
        for i, j, seen, written in _overlaps(x.shape, weight.shape[-1]):
            dw[:, :, 0, i, j] = (g[written] * x[seen]).sum((2, 3, 4))
        return dx, dw


def _moved_sum(x: Tensor, weight: Tensor) -> Tensor:
    r = weight.shape[-1] // 2
    kernel = weight[..., None]
    y = x * kernel[:, :, :, r, r, None]
    for i, j, seen, written in _overlaps(x.shape, weight.shape[-1]):
        if (i, j) != (r, r):
            y[written].addcmul_(x[seen], kernel[:, :, :, i, j, None])
    return y


Place = tuple[slice, ...]


def _overlaps(shape: torch.Size, k: int) -> Iterator[tuple[int, int, Place, Place]]:
    """Taps that see anything: row and column of the tap, where it looks, and where its product belongs."""
    _, _, H, W, _ = shape
    every = slice(None)
    for i in range(k):
        top, bottom = _overlap(H, i - k // 2)
        for j in range(k):
            left, right = _overlap(W, j - k // 2)
            if top < bottom and left < right:
                seen = (every, every, slice(top + i - k // 2, bottom + i - k // 2), slice(left + j - k // 2, right + j - k // 2))
                yield i, j, seen, (every, every, slice(top, bottom), slice(left, right))


def _overlap(length: int, step: int) -> tuple[int, int]:
    """Range of places from which a step leads to another place of the same axis."""
    return max(0, -step), min(length, length - step)
