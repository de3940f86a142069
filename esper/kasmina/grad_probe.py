"""What one labelled batch says about slots and layers: values, gradients, weights. Nothing is changed by asking.

The model is probed as it is validated: in evaluation mode, without the seeds that are not heard yet.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from esper.kasmina.model import evaluating

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from esper.kasmina.model import MorphogeneticModel
    from esper.leyline.host import HostFamily


@dataclass(frozen=True, slots=True)
class SlotProbe:
    """The value that a slot hands on, and what the loss thinks of it. See `SlotReport` for the fields."""

    gradient_norm: float
    activation_mean: float
    activation_std: float
    spatial_std: float | None


@dataclass(frozen=True, slots=True)
class LayerProbe:
    """One host layer. None where the host does not say which submodule it is, or where it has no such thing."""

    weight_norm: float | None
    """L2 norm over the layer's parameters."""
    gradient_norm: float | None
    """L2 norm of the loss gradient over the layer's parameters."""
    gradient_variance: float | None
    """Variance over the elements of that gradient."""
    saturation_rate: float | None
    """Share of zeros in the layer's output, 0…1."""


@dataclass(frozen=True, slots=True)
class HostProbe:
    """Everything from one batch."""

    slots: tuple[SlotProbe, ...]
    """In slot order."""
    layers: tuple[LayerProbe, ...]
    """In the order of the host's layer specs."""


def probe(model: MorphogeneticModel, x: Tensor, y: Tensor) -> HostProbe:
    """Measure slots and layers on one batch.

    Args:
        model: May be in any mode and at any moment, before training too.
        x: Inputs of B samples.
        y: int64 classes [B], or [B, T] where every token is classified.
    """
    layers = _layer_modules(model)
    with evaluating(model), torch.enable_grad(), _saturation(layers) as zeros:
        logits, values = model.trace(x)
        loss = F.cross_entropy(logits.flatten(0, -2), y.flatten())
        parameters = [[p for p in layer.parameters() if p.requires_grad] if layer else [] for layer in layers]
        wanted = [*values, *(p for group in parameters for p in group)]
        gradients = iter(_gradients(loss, wanted))
    slot_figures = [_slot_figures(value, next(gradients), model.host.family) for value in values]
    layer_figures = []
    for layer, group in zip(layers, parameters, strict=True):
        weights = [p.detach() for p in layer.parameters()] if layer else []
        layer_figures.append(_layer_figures(weights, [next(gradients) for _ in group], zeros.get(layer) if layer else None))
    numbers = iter(_read([*slot_figures, *layer_figures]))
    slots = tuple(_slot_probe(next(numbers), value.numel()) for value in values)
    return HostProbe(slots, tuple(LayerProbe(*next(numbers)) for _ in layers))


def _layer_modules(model: MorphogeneticModel) -> list[nn.Module | None]:
    """Submodule of every layer; None where a layer's id is not the path of one."""
    host = model.get_submodule("host")
    paths = dict(host.named_modules())
    return [paths.get(layer.layer_id) for layer in model.host.layer_specs()]


@contextmanager
def _saturation(layers: list[nn.Module | None]) -> Iterator[Mapping[nn.Module, Tensor]]:
    """Share of zeros in the output of every layer that runs inside the block."""
    zeros: dict[nn.Module, Tensor] = {}

    def record(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            zeros[module] = (output.detach() == 0).float().mean()

    handles = [layer.register_forward_hook(record) for layer in layers if layer is not None]
    try:
        yield zeros
    finally:
        for handle in handles:
            handle.remove()


def _gradients(loss: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    """Gradients of `loss`, zero where it does not depend on a tensor."""
    reachable = [tensor for tensor in wanted if tensor.requires_grad]
    found = dict(zip(reachable, torch.autograd.grad(loss, reachable, allow_unused=True), strict=True)) if reachable else {}
    return [torch.zeros_like(tensor) if (gradient := found.get(tensor)) is None else gradient for tensor in wanted]


def _slot_figures(value: Tensor, gradient: Tensor, family: HostFamily) -> list[Tensor | None]:
    """Norm of the gradient, mean, standard deviation over samples and positions, and over positions."""
    positions = _positions(value.detach(), family)
    return [
        torch.linalg.vector_norm(gradient),
        positions.mean(),
        positions.flatten(0, 1).std(0, correction=0).mean(),
        positions.std(1, correction=0).mean() if positions.shape[1] > 1 else None,
    ]


def _slot_probe(figures: Sequence[float | None], size: int) -> SlotProbe:
    norm, mean, std, spatial_std = figures
    assert norm is not None
    assert mean is not None
    assert std is not None
    return SlotProbe(norm / size**0.5, mean, std, spatial_std)


def _positions(value: Tensor, family: HostFamily) -> Tensor:
    """[B, P, C] whatever the family."""
    if family == "cnn":
        return value.flatten(2).transpose(1, 2)
    return value if family == "transformer" else value.unsqueeze(1)


def _layer_figures(weights: list[Tensor], gradients: list[Tensor], saturation: Tensor | None) -> list[Tensor | None]:
    """What `LayerProbe` holds, in its order."""
    flat = torch.cat([g.flatten() for g in gradients]) if gradients else None
    return [
        torch.linalg.vector_norm(torch.cat([w.flatten() for w in weights])) if weights else None,
        None if flat is None else torch.linalg.vector_norm(flat),
        None if flat is None else flat.var(correction=0),
        saturation,
    ]


def _read(rows: Sequence[Sequence[Tensor | None]]) -> list[list[float | None]]:
    """The numbers in scalars; a GPU is asked once for all of them."""
    found = [figure for row in rows for figure in row if figure is not None]
    numbers = iter(torch.stack(found).tolist() if found else ())
    return [[None if figure is None else next(numbers) for figure in row] for row in rows]
