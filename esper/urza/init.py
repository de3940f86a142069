"""How a seed is born silent."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def silenced(layer: Layer) -> Layer:
    """Set every parameter of `layer` to zero and return it.

    As the last projection of a residual branch this makes the branch's output exactly zero at birth, while its own gradient,
    upstream ⊗ input, is not; after its first step the gradient reaches what lies before it.
    """
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
