"""Convolutions of planes [K, C, H, W, B] with kernels of each member's own, H and W kept.

With samples innermost, a step along the image is a step over whole rows of memory: a 3×3 convolution needs copies for its three
horizontal taps alone, and reads the vertical ones from the same copies at an offset.
"""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from esper.kasmina.population.product import ALIGNMENT_BYTES, make_room, map_columns, multiply, set_apart, settle

CACHED_BYTES = 1 << 20
"""What copies for the taps may fill before their members take turns: about a core's own cache."""

Planes = Float[Tensor, "K C H W B"]


def convolve(x: Planes, weight: Float[Tensor, "K O C k k"], bias: Float[Tensor, "K O"] | None) -> Planes:  # noqa: F722
    """Convolution of all channels by odd kernels; pixels outside the image are 0."""
    if weight.shape[-1] == 1:
        K, C, H, W, B = x.shape
        return map_columns(x.reshape(K, C, -1), weight.flatten(2), bias).view(K, weight.shape[1], H, W, B)
    y: Tensor = _Convolve.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


class _Convolve(torch.autograd.Function):
    """The gradient with respect to x is the convolution of the incoming one by the kernels turned around.

    That with respect to a kernel multiplies what its taps see of x by the incoming gradient or, the same, what turned taps see of
    the gradient by x; the latter taps may be there already.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        taps = _Taps(x, weight.shape[-1])
        sums = _Sums(x, weight.permute(3, 0, 1, 4, 2), None if bias is None else bias[:, :, None])
        for part in taps.turns():
            sums.add_up(part, taps.look(x[part]))
        return set_apart(sums.planes())

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        g = grad[0]
        k, narrows = weight.shape[-1], weight.shape[1] <= x.shape[1]
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        dx = _Sums(x, weight.flip(3, 4).permute(3, 0, 2, 4, 1), None) if needs_x else None
        turned = _Products(g, x, k) if needs_weight and needs_x and narrows else None
        straight = _Products(x, g, k) if needs_weight and turned is None else None
        if dx is not None:
            taps = _Taps(g, k)
            for part in taps.turns():
                windows = taps.look(g[part])
                dx.add_up(part, windows)
                if turned is not None:
                    turned.multiply(part, windows)
        if straight is not None:
            taps = _Taps(x, k)
            for part in taps.turns():
                straight.multiply(part, taps.look(x[part]))
        dw = None
        if turned is not None:
            dw = turned.kernels.flip(1, 2).permute(0, 3, 4, 1, 2)
        elif straight is not None:
            dw = straight.kernels.permute(0, 4, 3, 1, 2)
        return None if dx is None else dx.planes(), dw, g.sum((2, 3, 4)) if needs_bias else None


class _Taps:
    """Copies of planes, moved horizontally by every tap, with rows of 0 above and below; as many members at once as fit a cache."""

    def __init__(self, planes: Tensor, k: int) -> None:
        K, C, H, W, B = planes.shape
        self._k, self._step = k, W * B
        self._columns = _num_columns(planes)
        length = _whole_lines(2 * (k // 2) * W * B + self._columns, planes)
        self._num_members = K
        fitting = CACHED_BYTES // (k * C * length * planes.element_size())
        self._at_once = max(1, min(K, fitting)) if planes.is_cpu else K
        self._room = planes.new_zeros(self._at_once, k * C, length)
        first = k // 2 * W * B
        self._rows = self._room[:, :, first : first + H * W * B].view(self._at_once, k, C, H, W, B)
        self._size = 0
        self._places: list[tuple[Tensor, int]] = []
        self._windows: list[Tensor] = []

    def turns(self) -> Iterator[slice]:
        """Members that are looked at together."""
        return (slice(first, min(first + self._at_once, self._num_members)) for first in range(0, self._num_members, self._at_once))

    def look(self, planes: Tensor) -> list[Tensor]:
        """What each vertical tap sees, [members, k · C, columns]; valid until the next look."""
        size, W = len(planes), planes.shape[3]
        if size != self._size:
            self._arrange(size, W)
        for place, step in self._places:
            place.copy_(planes.narrow(3, max(0, step), W - abs(step)))
        return self._windows

    def _arrange(self, size: int, W: int) -> None:
        """Find the places to copy to, with the step of each tap, and the windows, where so many members are looked at."""
        r, rows, room = self._k // 2, self._rows[:size], self._room[:size]
        steps = [step for step in range(-r, self._k - r) if abs(step) < W]
        self._places = [(rows.select(1, step + r).narrow(3, max(0, -step), W - abs(step)), step) for step in steps]
        self._windows = [room.narrow(2, i * self._step, self._columns) for i in range(self._k)]
        self._size = size


class _Sums:
    """Kernels times what their taps see, added up over the vertical taps.

    Args:
        planes: What is convolved.
        kernels: [k, K, O, k, C], rows first.
        plus: [K, O, 1].
    """

    def __init__(self, planes: Tensor, kernels: Tensor, plus: Tensor | None) -> None:
        k, K, outputs, _, C = kernels.shape
        rows = make_room(kernels, (k * K, outputs, k * C))
        rows.view(kernels.shape).copy_(kernels)
        self._rows = rows.view(k, K, outputs, k * C)
        self._plus = plus
        self._shape = (K, outputs, *planes.shape[2:])
        self._y = planes.new_empty(K, outputs, _num_columns(planes))

    def add_up(self, part: slice, windows: list[Tensor]) -> None:
        """Do so for some of the members."""
        y, rows = self._y[part], self._rows[:, part]
        if self._plus is None:
            torch.bmm(rows[0], windows[0], out=y)
        else:
            torch.baddbmm(self._plus[part], rows[0], windows[0], out=y)
        for row, window in zip(rows[1:], windows[1:], strict=True):
            y.baddbmm_(row, window)

    def planes(self) -> Tensor:
        """[K, O, H, W, B]."""
        *_, H, W, B = self._shape
        return self._y[:, :, : H * W * B].view(self._shape)


class _Products:
    """What the taps see of one thing times another, summed over all places.

    Args:
        seen: Planes that the taps look at.
        other: Planes of the same size.
        k: Taps in a row.
    """

    def __init__(self, seen: Tensor, other: Tensor, k: int) -> None:
        flat = other.reshape(*other.shape[:2], -1)
        idle = _num_columns(other) - flat.shape[2]
        self._other = settle(torch.nn.functional.pad(flat, (0, idle)) if idle else flat).mT
        self.kernels = seen.new_empty(len(seen), k, k, seen.shape[1], other.shape[1])
        """[K, k, k, channels seen, channels of the other], rows first."""

    def multiply(self, part: slice, windows: list[Tensor]) -> None:
        """Do so for some of the members."""
        other, kernels = self._other[part], self.kernels[part]
        for i, window in enumerate(windows):
            kernels[:, i] = multiply(window, other).view_as(kernels[:, i])


def _num_columns(planes: Tensor) -> int:
    """Columns that a product of planes has."""
    return _whole_lines(planes.shape[2] * planes.shape[3] * planes.shape[4], planes)


def _whole_lines(length: int, like: Tensor) -> int:
    """The least number from `length` on that fills whole cache lines."""
    return length + -length % (ALIGNMENT_BYTES // like.element_size())
