"""The operations of `esper.leyline.layer_ops` for many members at once.

`layer` is any object whose `weight` and `bias` carry members in front; see `stack`.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int  # noqa: TC002
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.population.conv import convolve
from esper.kasmina.population.depthwise import convolve_depthwise
from esper.kasmina.population.norm import group_norm, layer_norm
from esper.kasmina.population.product import ALIGNMENT_BYTES, map_columns, map_rows, set_apart


class StackedPlanes:
    """Operations on planes [K, C, H, W, B] and on what is pooled from them, [K, C, B]."""

    def conv(self, layer: Any, x: Tensor) -> Tensor:
        """`weight` [K, O, C / groups, k, k] and `bias` [K, O] or None.

        Raises:
            ValueError: If `groups` is neither 1 nor C.
        """
        if layer.groups == 1:
            return convolve(x, layer.weight, layer.bias)
        if layer.groups == x.shape[1] == layer.weight.shape[1]:
            return convolve_depthwise(x, layer.weight, layer.bias)
        raise ValueError(f"a stacked convolution of {x.shape[1]} channels has 1 or as many groups, got {layer.groups}")

    def dense(self, layer: Any, x: Tensor) -> Tensor:
        """[K, C, B] → [K, O, B]; `weight` [K, O, C] and `bias` [K, O] or None."""
        return map_columns(x, layer.weight, layer.bias)

    def norm(self, layer: Any, x: Tensor) -> Tensor:
        """`weight` and `bias` [K, C, 1, 1], `groups`."""
        return group_norm(x, layer.weight, layer.bias, layer.groups)

    def pool(self, x: Tensor) -> Tensor:
        """[K, C, H, W, B] → [K, C, B]."""
        return x.contiguous().mean((2, 3))

    def spread(self, pooled: Tensor) -> Tensor:
        """[K, C, B] → [K, C, 1, 1, B]."""
        return pooled[:, :, None, None]

    def scalar(self, parameter: Tensor) -> Tensor:
        """[K] → [K, 1, 1, 1, 1]."""
        return parameter.view(-1, 1, 1, 1, 1)

    def with_coordinates(self, x: Tensor) -> Tensor:
        """[K, C, H, W, B] → [K, C + 2, H, W, B]."""
        K, _, H, W, B = x.shape
        down = torch.linspace(-1.0, 1.0, H, device=x.device, dtype=x.dtype).view(H, 1, 1).expand(K, 1, H, W, B)
        across = torch.linspace(-1.0, 1.0, W, device=x.device, dtype=x.dtype).view(W, 1).expand(K, 1, H, W, B)
        return torch.cat((x, across, down), dim=1)

    def attend(self, packed: Tensor, num_heads: int) -> NoReturn:
        """Refuse: planes have no past."""
        raise TypeError(f"attention with {num_heads} heads is for rows [K, B, T, C], not for planes {tuple(packed.shape)}")

    def causal_conv(self, layer: Any, x: Tensor) -> NoReturn:
        """Refuse: planes have no past."""
        raise TypeError(f"a causal convolution ({layer}) is for rows [K, B, T, C], not for planes {tuple(x.shape)}")


class StackedRows:
    """Operations on rows, [K, B, C] or [K, B, T, C].

    Args:
        num_axes: Axes of the values, members and channels included: 3 or 4.
    """

    def __init__(self, num_axes: int) -> None:
        self._single = (1,) * (num_axes - 1)

    def dense(self, layer: Any, x: Tensor) -> Tensor:
        """[K, …, C] → [K, …, O]; `weight` [K, O, C] and `bias` [K, O] or None."""
        return dense_rows(x, layer.weight, layer.bias)

    def norm(self, layer: Any, x: Tensor) -> Tensor:
        """`weight` and `bias` [K, C]."""
        return layer_norm(x, layer.weight, layer.bias, keeps_single=True)

    def scalar(self, parameter: Tensor) -> Tensor:
        """[K] → [K, 1, …]."""
        return parameter.view(-1, *self._single)

    def attend(self, packed: Tensor, num_heads: int) -> Tensor:
        """[K, B, T, 3·C] → [K, B, T, C]."""
        return attend(packed, num_heads)

    def causal_conv(self, layer: Any, x: Tensor) -> Tensor:
        """[K, B, T, C] → the same; `weight` [K, C, 1, taps] and `bias` [K, C]."""
        taps = layer.weight.shape[-1]
        T = x.shape[2]
        past = F.pad(x, (0, 0, taps - 1, 0))
        y = layer.bias[:, None, None].expand_as(x)
        for tap in range(taps):
            y = torch.addcmul(y, past[:, :, tap : tap + T], layer.weight[:, None, None, :, 0, tap])
        return set_apart(y)

    def conv(self, layer: Any, x: Tensor) -> NoReturn:
        """Refuse: rows have no image."""
        raise TypeError(f"a convolution ({layer}) is for planes [K, C, H, W, B], not for rows {tuple(x.shape)}")

    def pool(self, x: Tensor) -> NoReturn:
        """Refuse: rows have no image."""
        raise TypeError(f"pooling is for planes [K, C, H, W, B], not for rows {tuple(x.shape)}")

    def spread(self, pooled: Tensor) -> NoReturn:
        """Refuse: rows have no image."""
        raise TypeError(f"spreading is for what was pooled from planes, not for rows {tuple(pooled.shape)}")

    def with_coordinates(self, x: Tensor) -> NoReturn:
        """Refuse: rows have no image."""
        raise TypeError(f"coordinates are for planes [K, C, H, W, B], not for rows {tuple(x.shape)}")


def dense_rows(
    x: Float[Tensor, "K *rows C"],  # noqa: F722
    weight: Float[Tensor, "K O C"],  # noqa: F722
    bias: Float[Tensor, "K O"] | None,  # noqa: F722
) -> Float[Tensor, "K *rows O"]:  # noqa: F722
    """Linear map of the last axis."""
    K, *rows, C = x.shape
    return map_rows(x.reshape(K, -1, C), weight, bias).view(K, *rows, weight.shape[1])


def attend(packed: Float[Tensor, "K B T width"], num_heads: int) -> Float[Tensor, "K B T C"]:  # noqa: F722
    """Causal multi-head attention over queries, keys and values that lie side by side."""
    K, B, T, width = packed.shape
    samples, line = B, ALIGNMENT_BYTES // packed.element_size()
    while samples * T * width % line:  # idle samples, so that every member is aligned alike
        samples += 1
    packed = F.pad(packed, (0, 0, 0, 0, 0, samples - B)) if samples > B else packed
    heads = packed.contiguous().view(K * samples, T, 3, num_heads, width // (3 * num_heads))
    query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return mixed.transpose(1, 2).reshape(K, samples, T, width // 3)[:, :B]


def average_pool(x: Float[Tensor, "K C H W B"], window: int) -> Float[Tensor, "K C h w B"]:  # noqa: F722
    """Mean over windows side by side; what is left over at the lower and right edge is dropped."""
    pooled: Tensor = _AveragePool.apply(x, window)  # type: ignore[no-untyped-call]
    return pooled


class _AveragePool(torch.autograd.Function):
    """Sums of shifted planes: torch's own mean over two inner axes takes twenty times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: int) -> Tensor:
        ctx.shape, ctx.window = x.shape, window
        first, *others = _shifted_planes(x, window)
        total = first.clone(memory_format=torch.contiguous_format)
        for plane in others:
            total.add_(plane)
        return set_apart(total.div_(window**2))

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        part = grad[0] / ctx.window**2
        dx = part.new_zeros(ctx.shape) if any(size % ctx.window for size in ctx.shape[2:4]) else part.new_empty(ctx.shape)
        for plane in _shifted_planes(dx, ctx.window):
            plane.copy_(part)
        return dx, None


def _shifted_planes(x: Tensor, window: int) -> list[Tensor]:
    """Views of every window's first pixel, second pixel and so on."""
    height, width = x.shape[2] // window * window, x.shape[3] // window * window
    return [x[:, :, i:height:window, j:width:window] for i in range(window) for j in range(window)]


def look_up(table: Float[Tensor, "K V C"], tokens: Int[Tensor, "K B T"]) -> Float[Tensor, "K B T C"]:  # noqa: F722
    """Rows of each member's own table."""
    K, V, C = table.shape
    first = torch.arange(0, K * V, V, device=tokens.device).view(-1, 1, 1)
    return F.embedding(tokens + first, table.reshape(K * V, C))
