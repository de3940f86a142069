"""How healthy gradients are: per parameter tensor, and over the optimizer steps of one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DEAD_NORM = 1e-7
EXPLODING_NORM = 10.0


@dataclass(frozen=True, slots=True)
class StepGradient:
    """Gradient of one optimizer step."""

    pre_clip_norm: float
    """What `clip_grad_norm_` returned."""
    max_norm: float

    @property
    def is_finite(self) -> bool:
        """Whether the step may be taken."""
        return math.isfinite(self.pre_clip_norm)

    @property
    def norm(self) -> float:
        """Norm after clipping."""
        return min(self.pre_clip_norm, self.max_norm) if self.is_finite else math.inf


@dataclass(frozen=True, slots=True)
class GradientDiagnostics:
    """Gradients of one pass. Norms are means over its steps; what is told per layer belongs to its last step."""

    grad_norm: float
    pre_clip_grad_norm: float | None
    nan_grad_count: int
    inf_grad_count: int
    dead_layers: int
    """Parameter tensors whose gradient norm is below 1e-7."""
    exploding_layers: int
    """Parameter tensors whose gradient norm is above 10."""
    layer_gradient_health: Mapping[str, float]
    """1 is healthy, 0.5 dead, 0.2 exploding, 0 not finite."""
    grad_norm_per_layer: Mapping[str, float]
    grad_zero_fraction: float | None
    grad_norm_ratio: float | None
    grad_nan_layers: tuple[str, ...]
    grad_clip_fraction: float | None
    gradient_utilization: float | None
    gradient_cv: float | None
    """Standard deviation over mean of the steps' norms before clipping."""
    update_skipped: bool


@dataclass(frozen=True, slots=True)
class LayerGradients:
    """Gradient of every parameter tensor that has one."""

    norms: Mapping[str, float]
    num_nan: int
    num_inf: int
    zero_fraction: float | None


def layer_gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> LayerGradients:
    """Measure gradients before they are clipped."""
    named = [(name, p.grad) for name, p in parameters if p.grad is not None]
    if not named:
        return LayerGradients({}, 0, 0, None)
    gradients = [gradient for _, gradient in named]
    norms = torch.stack(torch._foreach_norm(gradients)).tolist()
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    return LayerGradients(
        norms={name: norm for (name, _), norm in zip(named, norms, strict=True)},
        num_nan=int(flat.isnan().sum()),
        num_inf=int(flat.isinf().sum()),
        zero_fraction=float((flat == 0).to(torch.float64).mean()),
    )


def gradient_diagnostics(steps: Sequence[StepGradient], last: LayerGradients, num_nan: int, num_inf: int) -> GradientDiagnostics:
    """Summarise one pass.

    Args:
        steps: Every step of the pass; may be empty if it stopped at once.
        last: Layers at the last step.
        num_nan: NaN gradient elements over the whole pass.
        num_inf: Infinite ones.
    """
    taken = [step for step in steps if step.is_finite]
    finite = [norm for norm in last.norms.values() if math.isfinite(norm) and norm > 0.0]
    return GradientDiagnostics(
        grad_norm=math.inf if len(taken) < len(steps) else _mean([s.norm for s in steps]) or 0.0,
        pre_clip_grad_norm=_mean([s.pre_clip_norm for s in taken]),
        nan_grad_count=num_nan,
        inf_grad_count=num_inf,
        dead_layers=sum(norm < DEAD_NORM for norm in last.norms.values()),
        exploding_layers=sum(norm > EXPLODING_NORM for norm in last.norms.values()),
        layer_gradient_health={name: _health(norm) for name, norm in last.norms.items()},
        grad_norm_per_layer=last.norms,
        grad_zero_fraction=last.zero_fraction,
        grad_norm_ratio=max(finite) / min(finite) if finite else None,
        grad_nan_layers=tuple(name for name, norm in last.norms.items() if math.isnan(norm)),
        grad_clip_fraction=_mean([float(s.pre_clip_norm > s.max_norm) for s in taken]),
        gradient_utilization=_mean([s.norm / s.max_norm for s in taken]),
        gradient_cv=_variation([s.pre_clip_norm for s in taken]),
        update_skipped=bool(steps) and not taken,
    )


def _health(norm: float) -> float:
    if not math.isfinite(norm):
        return 0.0
    if norm > EXPLODING_NORM:
        return 0.2
    return 0.5 if norm < DEAD_NORM else 1.0


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _variation(values: Sequence[float]) -> float | None:
    mean = _mean(values)
    if mean is None or mean == 0.0 or len(values) < 2:
        return None
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)) / mean
