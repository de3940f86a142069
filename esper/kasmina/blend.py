"""How a seed's value is mixed into its host's: exact isolation, three operators, and a learned gate."""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float  # noqa: TC002
from torch import Tensor, nn

from esper.leyline.alpha import BlendOperator
from esper.leyline.host import HostFamily  # noqa: TC001

if TYPE_CHECKING:
    from esper.leyline.layer_ops import LayerOps
else:  # the test suite resolves annotations at run time, and cannot check a Protocol there
    LayerOps = object

GATE_OPENNESS = 2.0
"""Initial logit of a gate: it starts at 0.88, since a gate that starts half shut would silence a seed twice."""


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, s: Tensor) -> Tensor:  # noqa: ARG004
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        return grad[0], grad[0]


def straight_through(h: Float[Tensor, "*value"], s: Float[Tensor, "*value"]) -> Float[Tensor, "*value"]:  # noqa: F722
    """Value of `h`, bit for bit, with the gradient of h + s (Bengio et al. 2013, the straight-through estimator)."""
    mixed: Tensor = _StraightThrough.apply(h, s)  # type: ignore[no-untyped-call]
    return mixed


def blend(
    h: Float[Tensor, "*value"],  # noqa: F722
    s: Float[Tensor, "*value"],  # noqa: F722
    alpha: float | Tensor,
    operator: BlendOperator,
    gate: Callable[[Tensor], Tensor] | None = None,
    *,
    reference: Tensor | None = None,
) -> Float[Tensor, "*value"]:  # noqa: F722
    """Mix a seed's value into the host's; at alpha 0 the result is `h` bit for bit.

    ADD lerp(h, s, α);  MULTIPLY h · (1 + α · tanh(s − r));  GATE lerp(h, s, α · g(h))

    Args:
        h: Host value at the slot.
        s: Seed value, of the same shape.
        alpha: 0…1; a float, or a value per sample or member as [B, 1, …] or [K, 1, …].
        operator: Which mix.
        gate: Function g that maps h to 0…1, broadcastable over h; used by GATE alone.
        reference: r, the value that the seed was given; None means h. It differs from h only in its gradient.

    Raises:
        ValueError: If the operator is GATE and there is no gate.
    """
    if isinstance(alpha, float) and alpha == 0.0:
        return h
    reference = h if reference is None else reference
    if not isinstance(alpha, Tensor):
        return _mix(h, s, alpha, operator=operator, gate=gate, reference=reference)
    unheard = alpha == 0.0
    if operator is not BlendOperator.ADD:
        s = torch.where(unheard, reference, s)  # a broken value would reach the gradient of h as 0 · NaN
    return torch.where(unheard, h, _mix(h, s, alpha, operator=operator, gate=gate, reference=reference))


def _mix(
    h: Tensor,
    s: Tensor,
    alpha: float | Tensor,
    *,
    operator: BlendOperator,
    gate: Callable[[Tensor], Tensor] | None,
    reference: Tensor,
) -> Tensor:
    if operator is BlendOperator.ADD:
        return torch.lerp(h, s, alpha)
    if operator is BlendOperator.MULTIPLY:
        return h * (1.0 + alpha * torch.tanh(s - reference))
    if gate is None:
        raise ValueError("blending by GATE needs a gate module")
    return torch.lerp(h, s, (alpha * gate(h)).to(h.dtype))


class BlendGate(nn.Module):
    """Learned gate g(h) in 0…1: a sigmoid MLP on the pooled features of a sample.

    Transformers are gated token by token, because pooling over time would show a token its future.
    """

    def __init__(self, channels: int, family: HostFamily) -> None:
        super().__init__()
        hidden = gate_width(channels)
        self.family = family
        self.hidden = nn.Linear(channels, hidden)
        self.out = nn.Linear(hidden, 1)
        nn.init.constant_(self.out.bias, GATE_OPENNESS)

    def forward(self, h: Tensor) -> Tensor:
        """[B, 1, 1, 1] for cnn values, [B, T, 1] for transformer values, [B, 1] for mlp values."""
        pooled = h.mean((2, 3)) if self.family == "cnn" else h
        gate = torch.sigmoid(self.out(torch.relu(self.hidden(pooled))))
        return gate[:, :, None, None] if self.family == "cnn" else gate

    @staticmethod
    def value(ops: LayerOps, layers: Any, h: Tensor) -> Tensor:
        """What `forward` computes, with the operations and parameters given."""
        pooled = ops.pool(h) if layers.family == "cnn" else h
        gate = torch.sigmoid(ops.dense(layers.out, torch.relu(ops.dense(layers.hidden, pooled))))
        return ops.spread(gate) if layers.family == "cnn" else gate


def gate_width(channels: int) -> int:
    """Hidden units of a gate."""
    return max(8, channels // 4)
