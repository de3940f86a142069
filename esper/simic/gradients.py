"""How healthy gradients are: per parameter tensor, and over the optimizer steps of one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esper.leyline.gradient_health import gradient_health, is_exploding, is_vanishing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn


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

    grad_norm: float | None
    """After clipping; infinite where a step was skipped, None where the pass stopped before its first."""
    pre_clip_grad_norm: float | None
    nan_grad_count: int
    inf_grad_count: int
    dead_layers: int
    """Parameter tensors whose gradient vanishes."""
    exploding_layers: int
    """Parameter tensors whose gradient explodes; those with a NaN are told in `grad_nan_layers`."""
    layer_gradient_health: Mapping[str, float]
    """1 is healthy, 0.5 dead, 0.2 exploding or not a number."""
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


@dataclass(frozen=True, slots=True)
class MeasuredLayers:
    """The same while it lies on the device."""

    names: tuple[str, ...]
    norms: Tensor
    """[layers]"""
    counts: Tensor
    """[2] int64: NaN gradient elements, and infinite ones."""
    zero_fraction: Tensor

    @property
    def figures(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is to be read."""
        return self.norms, self.counts, self.zero_fraction

    def told(self, norms: Sequence[float], counts: Sequence[float], zero_fraction: Sequence[float]) -> LayerGradients:
        """As numbers, given those of `figures`."""
        return LayerGradients(dict(zip(self.names, norms, strict=True)), int(counts[0]), int(counts[1]), zero_fraction[0])


def measure_layers(parameters: Iterable[tuple[str, nn.Parameter]]) -> MeasuredLayers | None:
    """Measure gradients before they are clipped, without reading what was measured; None where there is no gradient."""
    named = [(name, p.grad) for name, p in parameters if p.grad is not None]
    if not named:
        return None
    gradients = [gradient for _, gradient in named]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    return MeasuredLayers(
        names=tuple(name for name, _ in named),
        norms=torch.stack(torch._foreach_norm(gradients)),
        counts=torch.stack([flat.isnan().sum(), flat.isinf().sum()]),
        zero_fraction=(flat == 0).to(torch.float64).mean(),
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
        grad_norm=math.inf if len(taken) < len(steps) else _mean([s.norm for s in steps]),
        pre_clip_grad_norm=_mean([s.pre_clip_norm for s in taken]),
        nan_grad_count=num_nan,
        inf_grad_count=num_inf,
        dead_layers=sum(map(is_vanishing, last.norms.values())),
        exploding_layers=sum(is_exploding(norm) and not math.isnan(norm) for norm in last.norms.values()),
        layer_gradient_health={name: gradient_health([norm]) for name, norm in last.norms.items()},
        grad_norm_per_layer=last.norms,
        grad_zero_fraction=last.zero_fraction,
        grad_norm_ratio=max(finite) / min(finite) if finite else None,
        grad_nan_layers=tuple(name for name, norm in last.norms.items() if math.isnan(norm)),
        grad_clip_fraction=_mean([float(s.pre_clip_norm > s.max_norm) for s in taken]),
        gradient_utilization=_mean([s.norm / s.max_norm for s in taken]),
        gradient_cv=_variation([s.pre_clip_norm for s in taken]),
        update_skipped=bool(steps) and not taken,
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _variation(values: Sequence[float]) -> float | None:
    mean = _mean(values)
    if mean is None or mean == 0.0 or len(values) < 2:
        return None
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)) / mean
