"""What a growing model looked like before a change, so that a change that fails leaves no trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper.kasmina.nursery import Modules
from esper.kasmina.seed_state import SlotStates


@dataclass(frozen=True, slots=True)
class Structure:
    """Seeds, modules and weights at one moment. It refers to the live modules and copies their numbers."""

    states: SlotStates
    planted: tuple[Modules | None, ...]
    """Seed id, seed and gate in every slot."""
    weights: Mapping[Tensor, Tensor]
    """Live parameter or buffer → copy of its numbers."""
    trainable: frozenset[Tensor]
    epoch: int
    val_accuracy: float

    @torch.no_grad()
    def write_weights(self) -> None:
        """Give every tensor its numbers and its `requires_grad` back."""
        for tensor, numbers in self.weights.items():
            if isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(tensor in self.trainable)
            tensor.copy_(numbers)


def copy_weights(module: nn.Module) -> dict[Tensor, Tensor]:
    """Copies of all parameters and buffers on their own device, by the live tensor."""
    return {tensor: tensor.detach().clone() for tensors in (module.parameters(), module.buffers()) for tensor in tensors}
