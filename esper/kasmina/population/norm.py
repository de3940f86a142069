"""Norms of many members at once, with gain and bias per member and channel."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float  # noqa: TC002
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.population.product import set_apart

EPS = 1e-5
"""Added to the mean square, as everywhere in torch."""


def group_norm(
    x: Float[Tensor, "K C H W B"],  # noqa: F722
    weight: Float[Tensor, "K C 1 1"],  # noqa: F722
    bias: Float[Tensor, "K C 1 1"],  # noqa: F722
    groups: int,
) -> Float[Tensor, "K C H W B"]:  # noqa: F722
    """Group normalisation over channels and positions (Wu & He 2018).

    A group of one value keeps its sign and is only scaled: its distance from its own mean is always 0.
    """
    y: Tensor = _GroupNorm.apply(x, weight[..., None], bias[..., None], groups)  # type: ignore[no-untyped-call]
    return y


class _GroupNorm(torch.autograd.Function):
    """Written out, because torch takes variances over an outer axis value by value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        K, C, *_, B = x.shape
        rows = x.contiguous().view(K, groups, -1, B)
        centred = rows - rows.mean(2, keepdim=True) if rows.shape[2] > 1 else rows.clone()
        room = centred.square()
        rate = room.mean(2, keepdim=True).add_(EPS).rsqrt_()
        centred, room = centred.view(x.shape), room.view(x.shape)
        ctx.save_for_backward(centred, rate, weight)
        scale = rate.expand(K, groups, C // groups, B).reshape(K, C, 1, 1, B) * weight
        return set_apart(torch.addcmul(bias, centred, scale, out=room))

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        centred, rate, weight = ctx.saved_tensors
        g = grad[0].contiguous()
        K, C, H, W, B = g.shape
        groups, num_values = rate.shape[1], C // rate.shape[1] * H * W
        grouped, single = (K, groups, C // groups, B), (K, C, 1, 1, B)
        sums = g.sum((2, 3), keepdim=True)
        room = g * centred
        products = room.sum((2, 3), keepdim=True)
        rates = rate.expand(grouped).reshape(single)
        dw = (products * rates).sum(4, keepdim=True) if ctx.needs_input_grad[1] else None
        db = sums.sum(4, keepdim=True) if ctx.needs_input_grad[2] else None
        if not ctx.needs_input_grad[0]:
            return None, dw, db, None
        slope = (products * weight).view(grouped).sum(2, keepdim=True) * rate.pow(3) / -num_values
        dx = torch.mul(g, rates * weight, out=room)
        dx.addcmul_(centred, slope.expand(grouped).reshape(single))
        if num_values > 1:
            shift = (sums * weight).view(grouped).sum(2, keepdim=True) * rate / num_values
            dx.sub_(shift.expand(grouped).reshape(single))
        return dx, dw, db, None


def layer_norm(
    x: Float[Tensor, "K *rows C"],  # noqa: F722
    weight: Float[Tensor, "K C"],  # noqa: F722
    bias: Float[Tensor, "K C"],  # noqa: F722
    *,
    keeps_single: bool,
) -> Float[Tensor, "K *rows C"]:  # noqa: F722
    """Layer normalisation over the last axis (Ba et al. 2016).

    Args:
        x: Values.
        weight: Gain.
        bias: Added last.
        keeps_single: Whether a row of one value is only scaled, as in `group_norm`; otherwise it becomes 0.
    """
    C = x.shape[-1]
    per_member = (len(x), *[1] * (x.ndim - 2), C)
    standard = F.rms_norm(x, (1,), eps=EPS) if C == 1 and keeps_single else F.layer_norm(x, (C,), eps=EPS)
    return torch.addcmul(bias.view(per_member), standard, weight.view(per_member))
