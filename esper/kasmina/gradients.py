"""Gradients as a backward pass left them: norm and health of seeds, and the flow through every layer."""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING

import torch

from esper.kasmina.seed_state import GradientReading
from esper.leyline.gradient_health import gradient_health, is_exploding, is_vanishing
from esper.leyline.reports import GradientFlow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor


def gradient_norms(parameters: Iterable[Tensor]) -> dict[Tensor, float]:
    """Norm of every gradient that the last backward pass left behind; a GPU is asked once for all of them."""
    own = [(p, p.grad) for p in parameters if p.grad is not None]
    if not own:
        return {}
    norms = torch.stack(torch._foreach_norm([gradient for _, gradient in own])).tolist()
    return {parameter: norm for (parameter, _), norm in zip(own, norms, strict=True)}


def read_gradients(
    host: Sequence[Tensor], seeds: Sequence[Sequence[Tensor]], norms: Mapping[Tensor, float] | None = None
) -> list[GradientReading | None]:
    """Measure the gradients that the last backward pass left behind.

    Args:
        host: Parameters of the host.
        seeds: Parameters of the seed in every slot; none where it is free.
        norms: Of these parameters, as `gradient_norms` gives them, where they are known.

    Returns:
        A reading per slot; None where no parameter has a gradient.
    """
    norms = gradient_norms(chain(host, *seeds)) if norms is None else norms
    heard = [[p for p in parameters if p in norms] for parameters in (host, *seeds)]
    host_rms = _rms([norms[p] for p in heard[0]], heard[0])
    return [_read([norms[p] for p in group], group, host_rms) if group else None for group in heard[1:]]


def gradient_flow(parameters: Iterable[tuple[str, Tensor]], scale_of: Callable[[str], float] = lambda _: 1.0) -> GradientFlow | None:
    """Gradients that the last backward pass left behind, by the module that owns the parameters.

    Args:
        parameters: By path.
        scale_of: What a module's norm is multiplied with, to undo that gradients were clipped.

    Returns:
        None where no parameter has a gradient.
    """
    named = [(name.rpartition(".")[0] or name, p.grad) for name, p in parameters if p.grad is not None]
    if not named:
        return None
    gradients = [gradient for _, gradient in named]
    squares: dict[str, float] = {}
    for (layer, _), norm in zip(named, torch.stack(torch._foreach_norm(gradients)).tolist(), strict=True):
        squares[layer] = squares.get(layer, 0.0) + norm * norm
    norms = {layer: scale_of(layer) * math.sqrt(square) for layer, square in squares.items()}
    usable = [norm for norm in norms.values() if math.isfinite(norm) and norm > 0.0]
    num_zero = torch.stack([(gradient == 0).sum() for gradient in gradients]).sum()
    return GradientFlow(
        norm_per_layer=norms,
        zero_fraction=float(num_zero) / sum(gradient.numel() for gradient in gradients),
        norm_ratio=max(usable) / min(usable) if usable else None,
        nan_layers=tuple(layer for layer, norm in norms.items() if math.isnan(norm)),
    )


def _read(norms: Sequence[float], parameters: Sequence[Tensor], host_rms: float) -> GradientReading:
    ratio = _rms(norms, parameters) / host_rms if host_rms > 0.0 else math.nan
    return GradientReading(
        norm=math.hypot(*norms),
        health=gradient_health(norms),
        has_vanishing=any(map(is_vanishing, norms)),
        has_exploding=any(map(is_exploding, norms)),
        ratio=ratio if math.isfinite(ratio) else None,
    )


def _rms(norms: Sequence[float], parameters: Sequence[Tensor]) -> float:
    """Norm per square root of the number of elements; 0 where there are none."""
    size = sum(p.numel() for p in parameters)
    return math.hypot(*norms) / math.sqrt(size) if size else 0.0
